"""Boards with genuine TPMs, in the hands of people who may not be honest."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from cryptography.x509 import Certificate, load_pem_x509_certificates
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG
from tpm2_pytss.types import (
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPML_PCR_SELECTION,
    TPMS_ECC_POINT,
    TPMT_SIG_SCHEME,
)

from agent import evidence, tcg_csr
from agent.tcg_csr import Content
from agent.tpm import Attestor, Tpm, Transient, templates
from agent.tpm.objects import parse
from agent.tpm.templates import KeyType
from tests.lab import forger, pki, swtpm
from tests.lab.verifier import Verifier

HANDLES: dict[KeyType, int] = {"ecc256": 0x81020000, "rsa2048": 0x81020001}
EKS = {"EK-RSA2048": 0x01C00002, "EK-HIGH-ECC384": 0x01C00016}
OWNERS = 0x81020010  # a key of the IDevID's template, but of the owner hierarchy
MODEL = "Model"


@dataclass
class Board:
    """A TPM with an IDevID key of either kind, on a board with a serial number."""

    tpm: Tpm
    serial: str

    def ek_certificate(self, ek: str = "EK-RSA2048") -> bytes:
        """DER."""
        data = self.tpm.nv_read(EKS[ek])
        assert data is not None
        return data

    def request(self, kind: KeyType = "ecc256", ek: str = "EK-RSA2048") -> bytes:
        """What an honest board hands in."""
        certificate, handle = self.ek_certificate(ek), HANDLES[kind]
        return evidence.tcg_csr(self.tpm, kind, MODEL, self.serial, certificate, handle)

    def content(self) -> Content:
        return tcg_csr.decode(self.request()).content

    def some(self, *fields: str) -> dict[str, bytes]:
        """Some fields of what an honest board hands in."""
        content = self.content()
        return {name: getattr(content, name) for name in fields}

    def signed(self, contents: bytes, handle: int = HANDLES["ecc256"]) -> bytes:
        """A request of csrContents. An IDevID key signs anything for who has the board."""

        def sign(data: bytes) -> bytes:
            return self.tpm.sign(handle, sha256(data).digest(), "sha256")

        return forger.signed(contents, sign)

    def altered(self, by: int = HANDLES["ecc256"], /, **fields: bytes) -> bytes:
        """A request with other fields than this board's, but correctly signed by it."""
        return self.signed(tcg_csr.encode_content(replace(self.content(), **fields)), by)

    def certified(self, key: int | Transient, by: Attestor) -> dict[str, bytes]:
        """What an attestation key says of a key, as fields of a request."""
        said, signature = self.tpm.certify(key, by, b"")
        return {"idevid_certified": said, "idevid_certified_signature": signature}

    def quoted(self) -> dict[str, bytes]:
        """What the IAK signs about PCR 0, as if it were about a key."""
        with self.tpm.iak("ecc256") as iak:
            scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
            pcrs = TPML_PCR_SELECTION.parse("sha256:0")
            said, signature = self.tpm.esys.quote(iak.handle, pcrs, b"", scheme)
        fields = {"idevid_certified": bytes(said)}
        return fields | {"idevid_certified_signature": bytes(signature.marshal())}

    @contextlib.contextmanager
    def of_the_owner(self, template: TPM2B_PUBLIC) -> Iterator[Attestor]:
        """A primary key of the owner hierarchy: another owner does not have it any more."""
        made, area, _, digest, ticket = self.tpm.esys.create_primary(
            TPM2B_SENSITIVE_CREATE(), template, primary_handle=ESYS_TR.OWNER
        )
        try:
            yield Attestor(made, parse(area), bytes(digest), bytes(ticket.marshal()))
        finally:
            self.tpm.esys.flush_context(made)

    @contextlib.contextmanager
    def strangers(self, template: TPM2B_PUBLIC) -> Iterator[Transient]:
        """The public part of a software key, loaded with all that the template claims."""
        numbers = pki.new_key().public_key().public_numbers()
        x, y = (n.to_bytes(32, "big") for n in (numbers.x, numbers.y))  # type: ignore[union-attr]
        template.publicArea.unique.ecc = TPMS_ECC_POINT(x=x, y=y)
        loaded = self.tpm.esys.load_external(template, hierarchy=ESYS_TR.ENDORSEMENT)
        try:
            yield Transient(loaded, parse(template))
        finally:
            self.tpm.esys.flush_context(loaded)


@contextlib.contextmanager
def board(state: Path, serial: str) -> Iterator[Board]:
    """A board with the TPM in `state`, that had no keys so far."""
    with swtpm.running(state) as tcti, Tpm(tcti) as tpm:
        for kind, handle in HANDLES.items():
            with tpm.idevid(kind) as key:
                tpm.persist(key, handle)
        made = Board(tpm, serial)
        with made.of_the_owner(templates.idevid("ecc256")) as key:
            tpm.persist(key, OWNERS)
        yield made


@dataclass
class Scene:
    """Two boards with TPMs of one maker; a shop is trusted too, but not to vouch for TPMs."""

    a: Board
    b: Board
    makers: list[Certificate]
    between: list[Certificate]
    shop: pki.Authority

    def ca(self) -> Verifier:
        """One that has issued nothing yet."""
        trusted = [*self.makers, self.shop.root]
        return Verifier(trusted, self.between, {"0001": MODEL, "0002": MODEL})


@contextlib.contextmanager
def scene(fresh: Path, directory: Path) -> Iterator[Scene]:
    """`fresh`: a maker's CA in `ca`, and a TPM of its in `state`, that is copied."""
    shutil.copytree(fresh / "state", directory / "a")
    swtpm.make(directory / "b", fresh / "ca")
    roots = load_pem_x509_certificates(swtpm.roots(fresh / "ca").read_bytes())
    between = load_pem_x509_certificates((fresh / "ca/issuercert.pem").read_bytes())
    with board(directory / "a", "0001") as a, board(directory / "b", "0002") as b:
        yield Scene(a, b, roots, between, pki.root("Shop"))
