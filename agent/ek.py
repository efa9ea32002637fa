"""Is this TPM genuine? Its maker has certified the EK, and the EK is this TPM's own.

TCG EK Credential Profile for TPM Family 2.0, version 2.5, whose clauses are cited.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.x509 import Certificate

from agent import x509, x509_ek
from agent.errors import (
    EkCertificateAbsent,
    EkCertificateInvalid,
    EkCertificateMismatch,
    EkCertificateUntrusted,
)
from agent.tpm import Public, Tpm
from agent.x509_ek import Maker

CHAIN = range(0x01C00100, 0x01C00200)  # the maker's CA certificates, concatenated DER (2.2.1.5.2)


@dataclass(frozen=True)
class Kind:
    """A template by its name, the NV index of its certificate (2.2.1.4), and where we keep it."""

    template: str
    index: int
    handle: int


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


@dataclass(frozen=True)
class Trust:
    """Whose TPMs are genuine.

    `roots`, `crls`: directories. `fetch_from`: host names from which an intermediate CA that a
    certificate names may be fetched. `cache`: the directory that keeps what was fetched.
    """

    roots: Sequence[Path]
    crls: Sequence[Path] = ()
    fetch_from: Sequence[str] = ()
    cache: Path | None = None


@dataclass(frozen=True)
class Genuine:
    """The verdict on a TPM that is. `chain`: leaf first, root last. `revocation`: what is known of
    it, a phrase."""

    kind: Kind
    certificate: Certificate
    chain: Sequence[Certificate]
    maker: Maker
    revocation: str


def verify(tpm: Tpm, trust: Trust, *, strict: bool = False) -> Genuine:
    """Raises the Ek... errors."""
    kind, cert = certificate(tpm)
    chain = _chain(tpm, cert, trust)
    if (tpm.public(kind.handle) or made(tpm, kind)).key != cert.public_key():
        raise mismatch(kind)
    return Genuine(kind, cert, chain, x509_ek.maker(cert), "unknown")


def certificate(tpm: Tpm) -> tuple[Kind, Certificate]:
    """The first EK certificate in NV. Raises EkCertificateAbsent, EkCertificateInvalid."""
    for kind in KINDS:
        if (data := tpm.nv_read(kind.index)) is not None:
            return kind, _parse(data, kind.index)
    raise EkCertificateAbsent("cannot verify the TPM: it holds no EK certificate")


def made(tpm: Tpm, kind: Kind) -> Public:
    """The EK, made anew from its template: always the same, as long as the TPM's seed is."""
    with tpm.ek(kind.template) as ek:
        return ek.public


def _parse(data: bytes, index: int) -> Certificate:
    try:
        found = x509.leading(data)
    except ValueError as e:
        raise EkCertificateInvalid(
            f"cannot read the EK certificate at NV {index:#x}: {e}", index=hex(index)
        ) from e
    if not x509.for_ek(found):
        raise EkCertificateInvalid(
            f"cannot use the certificate at NV {index:#x}: it is not for an EK, or garbled",
            index=hex(index),
        )
    return found


def intermediates(tpm: Tpm) -> list[Certificate]:
    """The CA certificates that the maker left in NV; what cannot be read can vouch for nothing."""
    data = b"".join(tpm.nv_read(i) or b"" for i in tpm.nv_indices() if i in CHAIN)
    try:
        return x509.sequence(data)
    except ValueError as e:
        raise EkCertificateInvalid(
            f"cannot read the EK certificate chain at NV {CHAIN[0]:#x}: {e}", index=hex(CHAIN[0])
        ) from e


def _chain(tpm: Tpm, cert: Certificate, trust: Trust) -> list[Certificate]:
    known = x509.anchors_in(trust.roots)
    anchors = [c for c in known if c.issuer == c.subject]
    others = [c for c in known if c.issuer != c.subject] + intermediates(tpm)
    try:
        return x509.chain(cert, anchors, others, datetime.now(UTC))
    except x509.Untrusted as e:
        where = ", ".join(map(str, trust.roots))
        raise EkCertificateUntrusted(
            f"cannot verify the EK certificate with the roots in {where}: {e}"
        ) from e


def mismatch(kind: Kind) -> EkCertificateMismatch:
    return EkCertificateMismatch(
        f"cannot verify the TPM: the EK certificate at NV {kind.index:#x} is not for its own EK "
        f"({kind.template})"
    )
