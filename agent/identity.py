"""What a back office needs to enrol this device; no secret, and nothing is changed."""

from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from cryptography.x509 import Certificate

from agent import x509
from agent.errors import EkCertificateAbsent, IdevidAbsent
from agent.steps import ek, idevid
from agent.tpm import Public, Tpm


def gather(tpm: Tpm, registration_id: str) -> dict[str, Any]:
    """registration id, EK (base64 TPM2B_PUBLIC, as `tpm2_readpublic -o` writes it), certificates.

    The EK is made anew if it is not kept in the TPM. What the device has none of is null.
    """
    return {
        "registration_id": registration_id,
        "tpm": str(tpm),
        "endorsement_key": _ek(tpm),
        "idevid": _idevid(tpm),
    }


def _ek(tpm: Tpm) -> dict[str, Any]:
    try:
        kind, cert = ek.certificate(tpm)
    except EkCertificateAbsent:
        kind, cert = ek.KINDS[0], None
    public = tpm.public(kind.handle) or _made(tpm, kind.template)
    return {
        "public": b64encode(public.blob).decode(),
        "sha256": sha256(public.blob).hexdigest(),
        "certificate": _certificate(cert) if cert else None,
    }


def _made(tpm: Tpm, template: str) -> Public:
    with tpm.ek(template) as made:
        return made.public


def _idevid(tpm: Tpm) -> dict[str, Any] | None:
    try:
        return _certificate(idevid.certificate(tpm))
    except IdevidAbsent:
        return None


def _certificate(cert: Certificate) -> dict[str, Any]:
    return {
        "subject": cert.subject.rfc4514_string(),
        "issuer": cert.issuer.rfc4514_string(),
        "serial": f"{cert.serial_number:x}",
        "not_after": cert.not_valid_after_utc.isoformat(),
        "sha256": x509.fingerprint(cert),
        "pem": x509.pem([cert]).decode(),
    }


def as_text(found: dict[str, Any], at: str = "") -> Iterator[str]:
    """A line for each; the certificates themselves are in the JSON only."""
    for key, value in found.items():
        if isinstance(value, dict):
            yield from as_text(value, f"{at}{key}.")
        elif key != "pem":
            yield f"{at}{key}: {'-' if value is None else value}"
