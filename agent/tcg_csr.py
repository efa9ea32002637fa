"""TCG-CSR-IDEVID: the request for an IDevID certificate that carries the evidence for its key.

TCG "TPM 2.0 Keys for Device Identity and Attestation", 1.0 revision 12, 13.1. All numbers are four
bytes, big-endian; nothing here knows a TPM. The file, without any armour:

    TCG_CSR_IDEVID      structVer 0x01000100, size of csrContents, size of signature,
                        csrContents, signature
    TCG_IDEVID_CONTENT  structVer 0x00000100, hashAlgoId, hashSz, the digest of all that follows,
                        a size for each field of Content in its order, padSz, the fields, random
                        padding to a multiple of 16 bytes

The signature is the IDevID key's, over csrContents, as DER with its algorithm, as in the tail of a
PKCS #10 request: SEQUENCE { AlgorithmIdentifier, BIT STRING }. Some implementations leave out the
digest (not its size), or the algorithm; 13.1 has both.
"""

import hashlib
import os
import struct
from collections.abc import Callable
from dataclasses import astuple, dataclass, field, fields
from typing import Any

from cryptography.hazmat import asn1
from cryptography.x509 import ObjectIdentifier
from cryptography.x509.oid import SignatureAlgorithmOID

from agent.errors import TcgCsrGarbled

CSR_VERSION, CONTENT_VERSION = 0x01000100, 0x00000100
SHA256 = 0x000B  # TCG Algorithm Registry
DIGESTS = {SHA256: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
BLOCK = 16  # csrContents are padded to a multiple of this
LARGEST_SIGNATURE = 1024


def _at_most(size: int, least: int = 0) -> Any:
    return field(default=b"", metadata={"least": least, "most": size})


@dataclass(frozen=True)
class Content:
    """The payload of TCG_IDEVID_CONTENT, in its order; TPM structures are as the TPM makes them."""

    model: bytes = _at_most(256, least=1)  # not terminated
    serial: bytes = _at_most(256, least=1)
    ca_data: bytes = _at_most(0x10000)  # what this CA wants besides
    boot_event_log: bytes = _at_most(0x100000)
    ek_certificate: bytes = _at_most(8192, least=1)  # DER
    iak: bytes = _at_most(1024, least=1)  # TPMT_PUBLIC
    iak_ticket: bytes = _at_most(256)  # TPMT_TK_CREATION
    iak_created: bytes = _at_most(1024)  # TPMS_ATTEST of TPM2_CertifyCreation, by the IAK itself
    iak_created_signature: bytes = _at_most(LARGEST_SIGNATURE)  # TPMT_SIGNATURE
    idevid: bytes = _at_most(1024, least=1)  # TPMT_PUBLIC
    idevid_certified: bytes = _at_most(1024, least=1)  # TPMS_ATTEST of TPM2_Certify, by the IAK
    idevid_certified_signature: bytes = _at_most(LARGEST_SIGNATURE, least=1)  # TPMT_SIGNATURE


NUMBERS = len(fields(Content)) + 1  # the sizes of the fields, and of the padding
LARGEST = 0x200000  # more than all fields together


@dataclass(frozen=True)
class Csr:
    """A request taken apart: `signed` is csrContents as it was, `signature` is DER."""

    content: Content
    signed: bytes
    signature: bytes


@asn1.sequence
class _Algorithm:
    algorithm: ObjectIdentifier
    parameters: asn1.Null | None


@asn1.sequence
class _Signature:
    algorithm: _Algorithm
    value: asn1.BitString


def signature(value: bytes, *, ecc: bool) -> bytes:
    """The field `signature` (DER) of an ECDSA (RFC 3279, 2.2.3) or PKCS #1 v1.5 signature, each
    over a SHA-256 digest."""
    if ecc:  # RFC 5758, 3.2: without parameters
        oid, parameters = SignatureAlgorithmOID.ECDSA_WITH_SHA256, None
    else:  # RFC 4055, 5: NULL
        oid, parameters = SignatureAlgorithmOID.RSA_WITH_SHA256, asn1.Null()
    algorithm = _Algorithm(algorithm=oid, parameters=parameters)
    return asn1.encode_der(_Signature(algorithm=algorithm, value=asn1.BitString(value, 0)))


def encode_content(content: Content, padding: Callable[[int], bytes] = os.urandom) -> bytes:
    """csrContents: what is to be signed. Raises TcgCsrGarbled for a field of an impossible size."""
    values = astuple(content)
    for each, value in zip(fields(content), values, strict=True):
        _possible(each.name, len(value), each.metadata["least"], each.metadata["most"])
    digest_size = hashlib.sha256().digest_size
    size = 12 + digest_size + 4 * NUMBERS + sum(map(len, values))
    pad = -size % BLOCK
    rest = struct.pack(f">{NUMBERS}I", *map(len, values), pad) + b"".join(values) + padding(pad)
    start = struct.pack(">3I", CONTENT_VERSION, SHA256, digest_size)
    return start + hashlib.sha256(rest).digest() + rest


def encode(signed: bytes, signature: bytes) -> bytes:
    """The whole request, of csrContents and the DER signature over them."""
    return struct.pack(">3I", CSR_VERSION, len(signed), len(signature)) + signed + signature


def decode(data: bytes) -> Csr:
    """Take a request apart; the signature is not verified. Raises TcgCsrGarbled."""
    if len(data) > LARGEST:
        raise _garbled(f"{len(data)} bytes")
    reader = _Reader(data)
    _equal("the version", reader.number(), CSR_VERSION)
    size, signature_size = reader.number(), reader.number()
    _possible("the signature", signature_size, 1, LARGEST_SIGNATURE)
    signed, signature = reader.take(size), reader.take(signature_size)
    _equal("the length", reader.left, 0)
    return Csr(decode_content(signed), signed, signature)


def decode_content(signed: bytes) -> Content:
    """csrContents taken apart. Raises TcgCsrGarbled."""
    reader = _Reader(signed)
    _equal("the version of the contents", reader.number(), CONTENT_VERSION)
    if (algorithm := DIGESTS.get(number := reader.number())) is None:
        raise _garbled(f"hash algorithm {number:#x} is unknown")
    digest_size = hashlib.new(algorithm).digest_size
    _equal("the size of the digest", reader.number(), digest_size)
    digest = reader.take(digest_size)
    if digest != hashlib.new(algorithm, reader.rest).digest():
        raise _garbled("the digest does not match")
    sizes = [reader.number() for _ in range(NUMBERS)]
    for each, size in zip(fields(Content), sizes, strict=False):
        _possible(each.name, size, each.metadata["least"], each.metadata["most"])
    values = [reader.take(size) for size in sizes]
    _equal("the length of the contents", reader.left, 0)
    _equal("the size of the padding", sizes[-1], -(len(signed) - sizes[-1]) % BLOCK)
    return Content(*values[:-1])


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.rest = data

    @property
    def left(self) -> int:
        return len(self.rest)

    def take(self, size: int) -> bytes:
        if size > len(self.rest):
            raise _garbled(f"{size} bytes announced, {len(self.rest)} there")
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")


def _possible(what: str, size: int, least: int, most: int) -> None:
    if not least <= size <= most:
        raise _garbled(f"{what} has {size} bytes, not {least} to {most}")


def _equal(what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise _garbled(f"{what} is {found:#x}, not {wanted:#x}")


def _garbled(why: str) -> TcgCsrGarbled:
    return TcgCsrGarbled(f"cannot use the TCG-CSR-IDEVID: {why}")
