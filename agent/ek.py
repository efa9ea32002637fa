"""Is this TPM genuine? Its maker has certified the EK, and the EK is this TPM's own.

TCG EK Credential Profile for TPM Family 2.0, version 2.5, whose clauses are cited.
"""

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509 import Certificate

from agent import ek_path, x509, x509_der, x509_ek
from agent.ek_path import Trust
from agent.errors import (
    CredentialRefused,
    EkCertificateAbsent,
    EkCertificateInvalid,
    EkCertificateMismatch,
    EkCertificatePurpose,
    EkNotHeld,
    TpmAuth,
    TpmError,
)
from agent.tpm import Public, Tpm, Transient, make_credential
from agent.x509_der import Issued
from agent.x509_ek import Maker

__all__ = ["DPS_EK", "KINDS", "Genuine", "Kind", "Maker", "Trust", "for_dps", "shown", "verify"]

CHAIN = range(0x01C00100, 0x01C00200)  # the maker's CA certificates, concatenated DER (2.2.1.5.2)
SECRET = 16  # bytes that only the holder of the EK can open
# What a TPM says to a secret, and to a session, that was encrypted to a key that it does not have.
REFUSED = (CredentialRefused, TpmAuth, TpmError)


@dataclass(frozen=True)
class Kind:
    """A template by its name, the NV index of its certificate (2.2.1.4), and where we keep it."""

    template: str
    index: int
    handle: int


# The first that is there is used. SM2 (0x01C0001A) is not: neither OpenSSL's nor our business.
KINDS = (
    Kind("EK-RSA2048", 0x01C00002, 0x81010001),
    Kind("EK-ECC256", 0x01C0000A, 0x81010002),
    Kind("EK-HIGH-RSA2048", 0x01C00012, 0x81010012),
    Kind("EK-HIGH-ECC256", 0x01C00014, 0x81010014),
    Kind("EK-HIGH-ECC384", 0x01C00016, 0x81010016),
    Kind("EK-HIGH-ECC521", 0x01C00018, 0x81010018),
    Kind("EK-HIGH-RSA3072", 0x01C0001C, 0x8101001C),
    Kind("EK-HIGH-RSA4096", 0x01C0001E, 0x8101001E),
)
DPS_EK = KINDS[0]  # every client of DPS shows the RSA-2048 EK, whatever else there is


@dataclass(frozen=True)
class Genuine:
    """The verdict on a TPM that is.

    `path`: the certificates with their bytes as they came, leaf first, root last; `chain` what can
    be read of them. For some makers' these are not the same (see x509_der): whom it is shown to
    gets `encoded`. `revocation`: what is known, a phrase. `notes`: what somebody should know.
    """

    kind: Kind
    path: Sequence[Issued]
    maker: Maker
    revocation: str
    notes: Sequence[str] = ()

    @property
    def certificate(self) -> Certificate:
        return self.path[0].read

    @property
    def chain(self) -> list[Certificate]:
        return [each.read for each in self.path]

    @property
    def encoded(self) -> list[bytes]:
        return [each.der for each in self.path]

    def __str__(self) -> str:
        root = x509.describe(self.path[-1].read)
        notes = "".join(f"; {note}" for note in self.notes)
        return f"{self.maker}, certified by {root}, {self.revocation}{notes}"


def verify(tpm: Tpm, trust: Trust, *, strict: bool = False, fetch: bool = True) -> Genuine:
    """The whole question. Raises the Ek... errors, ClockImplausible, TrustUnreadable, TpmError.

    `strict`: the EK is made anew, although one is kept, and it must be known not to be revoked, if
    the maker publishes that and `trust` names CRLs. Without `fetch`, raises ek_path.ToBeFetched
    instead of asking a server.
    """
    found = certified(tpm, trust, strict=strict, fetch=fetch)
    owned(tpm, found, strict=strict)
    return found


def certified(tpm: Tpm, trust: Trust, *, strict: bool = False, fetch: bool = True) -> Genuine:
    """Half of it: what the maker says of a TPM, whether it is this one or not. Raises as above."""
    kind, leaf = certificate(tpm)
    if why := x509_ek.misuse(leaf.read):
        raise EkCertificatePurpose(
            f"cannot use the certificate at NV {kind.index:#x}: {why}", index=hex(kind.index)
        )
    path = ek_path.find(leaf, beside(tpm), trust, fetch=fetch)
    revocation = ek_path.revocation(path, trust, strict=strict)
    maker = x509_ek.maker(leaf.read)
    return Genuine(kind, path, maker, revocation, tuple(_notes(tpm, kind, leaf, maker)))


def _notes(tpm: Tpm, kind: Kind, leaf: Issued, maker: Maker) -> Iterator[str]:
    chip = str(tpm).partition(" ")[0]
    if maker.manufacturer != chip:
        yield f"the chip calls its maker '{chip}'"
    if not x509_ek.says_it_is_for_an_ek(leaf.read):
        yield "its certificate does not say that it is for an EK"
    for other, data in present(tpm):
        if other != kind:
            yield f"not used: {_other(other, data)}"


def _other(kind: Kind, data: bytes) -> str:
    try:
        x509_der.leading(data)
    except ValueError as e:
        return f"the certificate at NV {kind.index:#x}, garbled ({e})"
    return f"{kind.template}"


# --- certificates in NV ---


def present(tpm: Tpm) -> Iterator[tuple[Kind, bytes]]:
    """What is in the NV indices of EK certificates."""
    there = set(tpm.nv_indices())
    for kind in KINDS:
        if kind.index in there and (data := tpm.nv_read(kind.index)) is not None:
            yield kind, data


def certificate(tpm: Tpm) -> tuple[Kind, Issued]:
    """The first EK certificate in NV. A garbled one is not passed over: who knows what it hides.
    Raises EkCertificateAbsent, EkCertificateInvalid."""
    for kind, data in present(tpm):
        return kind, parse(data, kind.index)
    raise EkCertificateAbsent("cannot verify the TPM: it holds no EK certificate")


def parse(data: bytes, index: int) -> Issued:
    """What an NV index holds, padding behind it or not (2.2.1.2). Raises EkCertificateInvalid."""
    try:
        found = x509_der.leading(data)
        x509_ek.maker(found.read)
    except x509.NONSENSE as e:
        raise EkCertificateInvalid(
            f"cannot read the EK certificate at NV {index:#x}: {e}", index=hex(index)
        ) from e
    return found


def beside(tpm: Tpm) -> list[Issued]:
    """The CA certificates that the maker left in NV. Raises EkCertificateInvalid."""
    data = b"".join(tpm.nv_read(i) or b"" for i in sorted(tpm.nv_indices()) if i in CHAIN)
    try:
        return x509_der.sequence(data)
    except ValueError as e:
        raise EkCertificateInvalid(
            f"cannot read the EK certificate chain at NV {CHAIN[0]:#x}: {e}", index=hex(CHAIN[0])
        ) from e


# --- this TPM's own ---


@contextlib.contextmanager
def for_dps(tpm: Tpm) -> Iterator[tuple[int | Transient, Public]]:
    """The RSA EK that clients of DPS show, by which devices are enrolled there: the one that is
    kept at 0x81010001, be it of the TCG's template or of the Azure C SDK's; where none is, the
    TCG's, made anew (on a discrete chip that takes seconds)."""
    kept = tpm.public(DPS_EK.handle)
    if kept is not None and isinstance(kept.key, RSAPublicKey) and kept.endorses:
        yield DPS_EK.handle, kept
    else:
        with tpm.ek(DPS_EK.template) as made:
            yield made, made.public


def shown(tpm: Tpm) -> bytes:
    """The TPM2B_PUBLIC of that EK."""
    with for_dps(tpm) as (_, public):
        return public.blob


def made(tpm: Tpm, kind: Kind) -> Public:
    """The EK, made anew from its template: always the same, as long as the TPM's seed is."""
    with tpm.ek(kind.template) as ek:
        return ek.public


def owned(tpm: Tpm, found: Genuine, *, strict: bool) -> None:
    """The other half: it is this TPM that its maker speaks of. Raises EkCertificateMismatch,
    EkNotHeld."""
    kept = tpm.public(found.kind.handle)
    if kept and kept.key == found.certificate.public_key() and not strict:
        held(tpm, found.kind.handle, kept)
    else:
        with tpm.ek(found.kind.template) as made:
            same(found.kind, found.certificate, made.public)
            held(tpm, made, made.public)


def same(kind: Kind, certificate: Certificate, ek: Public) -> None:
    """Raises EkCertificateMismatch."""
    if ek.key != certificate.public_key():
        raise EkCertificateMismatch(
            f"cannot verify the TPM: the EK certificate at NV {kind.index:#x} is not for its own "
            f"EK ({kind.template})"
        )


def held(tpm: Tpm, ek: int | Transient, public: Public) -> None:
    """That the TPM has the private key, too: whatever is between us and it could show us a public
    one. A secret is encrypted to it, for any key of the same TPM's. Raises EkNotHeld."""
    secret = secrets.token_bytes(SECRET)
    with tpm.iak("ecc256") as key:  # the password of the hierarchy is right, then
        credential, wrapped = make_credential(public, key.public.name, secret)
        try:
            opened = tpm.activate(key, ek, credential, wrapped)
        except TpmError as e:
            if type(e) not in REFUSED:
                raise
            raise EkNotHeld(f"cannot verify the TPM: it does not hold its EK: {e}") from e
    if not secrets.compare_digest(opened, secret):
        raise EkNotHeld("cannot verify the TPM: what it opened with its EK is not what was sealed")
