"""The endorsement key: genuine, and this TPM's own (TCG EK Credential Profile 2.5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.x509 import Certificate

from agent import x509
from agent.errors import (
    EkCertificateAbsent,
    EkCertificateInvalid,
    EkCertificateMismatch,
    EkCertificateUntrusted,
    HandleOccupied,
    TpmError,
)
from agent.steps import Step
from agent.tpm import Public, Tpm

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
)


def certificate(tpm: Tpm) -> tuple[Kind, Certificate]:
    """The first EK certificate in NV. Raises EkCertificateAbsent, EkCertificateInvalid."""
    for kind in KINDS:
        if (data := tpm.nv_read(kind.index)) is not None:
            return kind, _parse(data, kind.index)
    raise EkCertificateAbsent("cannot verify the TPM: it holds no EK certificate")


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


def ek(tpm: Tpm, roots: Sequence[Path]) -> Step:
    def done() -> str | None:
        kind, cert = certificate(tpm)
        root = _trusted(tpm, cert, roots)
        have = tpm.public(kind.handle)
        if have is None:
            return None
        if have.key != cert.public_key():
            raise _not_ours(tpm, kind, cert, have)
        return f"{kind.handle:#x} {have}, certified by {x509.describe(root)}"

    def apply() -> None:
        kind, cert = certificate(tpm)
        with tpm.ek(kind.template) as made:
            if made.public.key != cert.public_key():
                raise _mismatch(kind)
            tpm.persist(made, kind.handle)

    return Step("ek", done, apply)


def public(tpm: Tpm) -> Public | None:
    """The EK that the step keeps."""
    return tpm.public(certificate(tpm)[0].handle)


def _trusted(tpm: Tpm, cert: Certificate, roots: Sequence[Path]) -> Certificate:
    """The maker's root that the certificate leads to."""
    known = x509.anchors_in(roots)
    anchors = [c for c in known if c.issuer == c.subject]
    others = [c for c in known if c.issuer != c.subject] + intermediates(tpm)
    try:
        return x509.chain(cert, anchors, others, datetime.now(UTC))[-1]
    except x509.Untrusted as e:
        where = ", ".join(map(str, roots))
        raise EkCertificateUntrusted(
            f"cannot verify the EK certificate with the roots in {where}: {e}"
        ) from e


def _not_ours(tpm: Tpm, kind: Kind, cert: Certificate, have: Public) -> TpmError:
    """The handle holds another key than the certificate's: which of the two is wrong?"""
    with tpm.ek(kind.template) as made:
        if made.public.key != cert.public_key():
            return _mismatch(kind)
        alike = have.attributes == made.public.attributes
    what = "an EK made from another template (the Azure C SDK's, perhaps)" if alike else str(have)
    return HandleOccupied(
        f"cannot keep the EK at {kind.handle:#x}: {what} is there", handle=hex(kind.handle)
    )


def _mismatch(kind: Kind) -> EkCertificateMismatch:
    return EkCertificateMismatch(
        f"cannot verify the TPM: the EK certificate at NV {kind.index:#x} is not for its own EK "
        f"({kind.template})"
    )
