"""Requests that lie, for the lab's CA to find out: from keys in software that claim to be a TPM's,
and from genuine evidence taken apart, mixed up and signed anew by a key that may sign anything."""

import hashlib
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from agent import tcg_csr
from agent.tcg_csr import Content
from tests.lab import tpm_wire, verifier
from tests.lab.tpm_wire import ATTRIBUTES, ECC, ECDSA, ENDORSEMENT, GENERATED, NULL

SHA256, P256 = 0x000B, 0x0003
IN_TPM = ["fixedTPM", "fixedParent", "sensitiveDataOrigin", "userWithAuth", "adminWithPolicy"]
IAK, IDEVID = [*IN_TPM, "sign", "restricted"], [*IN_TPM, "sign"]
OWNER = 0x40000001
Sign = Callable[[bytes], bytes]


def attributes(names: Iterable[str]) -> int:
    """TPMA_OBJECT."""
    return sum(ATTRIBUTES[name] for name in names)


@dataclass(frozen=True)
class Claimed:
    """A P-256 key in software, and what its public area claims."""

    attributes: int
    policy: bytes
    scheme: int = ECDSA
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    @property
    def tpmt(self) -> bytes:
        numbers = self.key.public_key().public_numbers()
        scheme = struct.pack(">HH", self.scheme, SHA256) if self.scheme != NULL else b"\0\x10"
        point = b"".join(sized(n.to_bytes(32, "big")) for n in (numbers.x, numbers.y))
        start = struct.pack(">HHI", ECC, SHA256, self.attributes) + sized(self.policy)
        curve = struct.pack(">HH", P256, NULL)
        return start + struct.pack(">H", NULL) + scheme + curve + point

    @property
    def name(self) -> bytes:
        return struct.pack(">H", SHA256) + hashlib.sha256(self.tpmt).digest()

    def qualified(self, parent: int = ENDORSEMENT) -> bytes:
        whole = struct.pack(">I", parent) + self.name
        return struct.pack(">H", SHA256) + hashlib.sha256(whole).digest()

    def sign(self, data: bytes) -> bytes:
        """DER."""
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))

    def tpm_sign(self, data: bytes) -> bytes:
        """TPMT_SIGNATURE."""
        numbers = decode_dss_signature(self.sign(data))
        return struct.pack(">HH", ECDSA, SHA256) + b"".join(
            sized(n.to_bytes(32, "big")) for n in numbers
        )


@dataclass(frozen=True)
class Said:
    """One TPMS_ATTEST: each part None as it should be, or what is said instead."""

    magic: int = GENERATED
    type: int | None = None
    signer: bytes | None = None
    name: bytes | None = None
    detail: bytes | None = None


@dataclass(frozen=True)
class Lie:
    """A device in software. As it is here, nothing in it is wrong but that no TPM has its keys."""

    iak: Claimed = field(default_factory=lambda: Claimed(attributes(IAK), verifier.IAK_POLICY))
    idevid: Claimed = field(
        default_factory=lambda: Claimed(attributes(IDEVID), verifier.IDEVID_POLICY)
    )
    creation: Said = Said()
    certify: Said = Said()
    ticket: tuple[int, int] = (0x8021, ENDORSEMENT)
    model: str = "Model"
    serial: str = "0001"

    def content(self, ek_certificate: bytes) -> Content:
        created = self._attest(self.creation, tpm_wire.CREATION, self.iak, bytes(32))
        its = self.idevid.qualified()
        certified = self._attest(self.certify, tpm_wire.CERTIFY, self.idevid, its)
        return Content(
            model=self.model.encode(),
            serial=self.serial.encode(),
            ek_certificate=ek_certificate,
            iak=self.iak.tpmt,
            iak_ticket=struct.pack(">HI", *self.ticket) + sized(bytes(32)),
            iak_created=created,
            iak_created_signature=self.iak.tpm_sign(created),
            idevid=self.idevid.tpmt,
            idevid_certified=certified,
            idevid_certified_signature=self.iak.tpm_sign(certified),
        )

    def request(self, ek_certificate: bytes) -> bytes:
        return signed(tcg_csr.encode_content(self.content(ek_certificate)), self.idevid.sign)

    def _attest(self, said: Said, kind: int, about: Claimed, detail: bytes) -> bytes:
        start = struct.pack(">IH", said.magic, said.type or kind)
        signer = sized(said.signer or self.iak.qualified()) + sized(b"")
        clock = bytes(8 + 4 + 4 + 1 + 8)
        return (
            start + signer + clock + sized(said.name or about.name) + sized(said.detail or detail)
        )


def lie(**changes: Any) -> Lie:
    """A Lie in which a part of a part differs: `iak__policy=b""`, `certify__magic=0`."""
    made = Lie()
    for path, value in changes.items():
        part, _, inner = path.partition("__")
        if inner:
            value = replace(getattr(made, part), **{inner: value})
        made = replace(made, **{part: value})
    return made


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def signed(content: bytes, sign: Sign, *, ecc: bool = True) -> bytes:
    """A whole request of csrContents."""
    return tcg_csr.encode(content, tcg_csr.signature(sign(content), ecc=ecc))


def rehashed(content: bytes) -> bytes:
    """csrContents with the digest that belongs to what follows it."""
    return content[:12] + hashlib.sha256(content[44:]).digest() + content[44:]


def with_number(data: bytes, at: int, value: int) -> bytes:
    """With four bytes of a number changed."""
    return data[:at] + value.to_bytes(4, "big") + data[at + 4 :]


def flipped(data: bytes, at: int) -> bytes:
    """With one bit of the byte at `at` (from the end, if negative) turned over."""
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 0x01]) + data[at + 1 :]


def places(content: bytes) -> dict[str, tuple[int, int]]:
    """Where each field begins in csrContents, and its size."""
    sizes = struct.unpack_from(">13I", content, 44)
    found, at = {}, 44 + 4 * len(sizes)
    for name, size in zip([*Content.__dataclass_fields__, "padding"], sizes, strict=True):
        found[name] = (at, size)
        at += size
    return found
