"""Certificates: read, looked at, and chained to what we trust.

Times are aware UTC datetimes. Nothing here fetches anything, whatever a certificate names.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import Certificate, CertificateSigningRequest
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from agent.errors import TrustUnreadable

T = TypeVar("T")
Extension = TypeVar("Extension", bound=x509.ExtensionType)

SKEW = timedelta(minutes=10)  # how far a CA's clock may be ahead of ours
SUFFIXES = {".pem", ".crt", ".cer", ".der"}
# Certificates are parsed bit by bit, as they are looked at: what a part that makes no sense raises.
NONSENSE = (
    ValueError,
    TypeError,  # a BIT STRING in a name, where no other attribute than x500UniqueIdentifier has one
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


class Untrusted(Exception):
    """No chain from a certificate to an anchor; the text says why."""


# --- reading ---


def parse(data: bytes) -> list[Certificate]:
    """All certificates of a PEM text, or the one of a DER, names readable. Raises ValueError."""
    try:
        if b"-----BEGIN" in data:
            found = x509.load_pem_x509_certificates(data)
        else:
            found = [x509.load_der_x509_certificate(data)]
        return named(found)
    except (TypeError, x509.InvalidVersion) as e:  # all else that is wrong is a ValueError
        raise ValueError(str(e)) from e


def named(found: list[Certificate]) -> list[Certificate]:
    """These, if their names can be read. Raises ValueError, TypeError."""
    _ = [(c.subject, c.issuer) for c in found]
    return found


def leading(data: bytes) -> Certificate:
    """The DER certificate at the start of an NV index, its key readable. Raises ValueError."""
    certificate = parse(first_der(data))[0]
    try:
        certificate.public_key()
    except UnsupportedAlgorithm as e:
        raise ValueError(f"its key: {e}") from e
    return certificate


def kept(data: bytes | None) -> list[Certificate]:
    """What is in a file of our own; nothing if it is missing or damaged: a new one is got then."""
    try:
        return parse(data) if data else []
    except ValueError:
        return []


def first_der(data: bytes) -> bytes:
    """The first DER value in `data`, without what is behind it.

    TPMs pad certificates in NV with 0x00 or 0xFF (TCG EK Credential Profile 2.5, 2.2.1.2), and
    chains are concatenated. Empty if `data` starts with no certificate (ITU-T X.690, 8.1.3).
    """
    if len(data) < 4 or data[0] != 0x30:
        return b""
    if data[1] < 0x80:
        return data[: 2 + data[1]]
    octets = data[1] & 0x7F
    return data[: 2 + octets + int.from_bytes(data[2 : 2 + octets], "big")]


def anchors(file: Path) -> list[Certificate]:
    """The certificates of a file: one or more. Raises TrustUnreadable."""
    return of_file(file, parse)


def of_file(file: Path, parse: Callable[[bytes], list[T]]) -> list[T]:
    """What `parse` makes of a CA file, one or more. Raises TrustUnreadable."""
    try:
        found = parse(file.read_bytes())
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else f"it holds no certificate ({e})"
        raise TrustUnreadable(f"cannot read the CA file '{file}': {why}", path=file) from e
    if not found:
        raise TrustUnreadable(f"cannot read the CA file '{file}': it is empty", path=file)
    return found


def pem(certificates: Iterable[Certificate]) -> bytes:
    return b"".join(c.public_bytes(Encoding.PEM) for c in certificates)


# --- looking ---


def common_name(certificate: Certificate | CertificateSigningRequest) -> str:
    """The last CN of the subject, or ''."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[-1].value) if names else ""


def written(name: x509.Name) -> str:
    """RFC 4514, and what that calls by number by its name in X.520. What cannot be printed is there
    as its bytes in hex (2.4): whoever made a name makes no lines of it, and tells no terminal."""
    said = name.rfc4514_string({NameOID.SERIAL_NUMBER: "serialNumber"})
    return "".join(c if c.isprintable() else _in_hex(c) for c in said)


def _in_hex(c: str) -> str:
    return "".join(f"\\{byte:02X}" for byte in c.encode())


def describe(certificate: Certificate) -> str:
    return written(certificate.subject) or f"serial {certificate.serial_number:x}"


def spki(key: CertificatePublicKeyTypes) -> bytes:
    """DER SubjectPublicKeyInfo."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(certificate: Certificate) -> str:
    """SHA-256 over the DER, hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def newest_not_before(certificates: Iterable[Certificate]) -> datetime | None:
    """When the last of these became valid: where all are in use, no right clock shows less."""
    return max((c.not_valid_before_utc for c in certificates), default=None)


def oldest_not_before(certificates: Iterable[Certificate]) -> datetime | None:
    """When the first of these became valid: where one is in use, no right clock shows less. Others
    may wait for their time, as the next root does."""
    return min((c.not_valid_before_utc for c in certificates), default=None)


# --- trusting ---


def _is_ca(_: Policy, __: Certificate, found: x509.BasicConstraints | None) -> None:
    if found is None or not found.ca:
        raise ValueError("an issuer is no CA")


def _may_issue(_: Policy, __: Certificate, found: x509.KeyUsage | None) -> None:
    if found is not None and not found.key_cert_sign:
        raise ValueError("an issuer may not sign certificates")


def chain(
    leaf: Certificate, roots: Sequence[Certificate], others: Sequence[Certificate], at: datetime
) -> list[Certificate]:
    """Leaf first, anchor last (RFC 5280, 6.1). Raises Untrusted.

    Of the `roots` all are trusted; if self-signed ones are among them, the chain goes up to one of
    these if it can: whoever it is shown to may know no other.

    TPM makers' and private CAs do not follow the web's profile: CAs need basicConstraints, and
    keyCertSign if they say anything of key usage; what a leaf is good for is the caller's matter.
    """
    if not roots:
        raise Untrusted("there is nothing to trust: no CA certificate was found")
    if tops := [c for c in roots if c.issuer == c.subject]:
        with contextlib.suppress(Untrusted):
            return _chain(leaf, tops, [*roots, *others], at)
    return _chain(leaf, roots, others, at)


def _chain(
    leaf: Certificate, roots: Sequence[Certificate], others: Sequence[Certificate], at: datetime
) -> list[Certificate]:
    ca = (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _is_ca)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_issue)
    )
    policy = PolicyBuilder().store(Store(list(roots))).time(at)
    policy = policy.extension_policies(ca_policy=ca, ee_policy=ExtensionPolicy.permit_all())
    try:
        return policy.build_client_verifier().verify(leaf, list(others)).chain
    except VerificationError as e:
        issuer = leaf.issuer.rfc4514_string()
        raise Untrusted(f"its issuer '{issuer}' does not lead to a trusted CA: {_why(e)}") from e


def _why(error: VerificationError) -> str:
    """The verifier's own words, without the dump of the certificate behind them."""
    return str(error).split(" (encountered", 1)[0].removeprefix("validation failed: ")


def shown(path: Sequence[Certificate]) -> list[Certificate]:
    """What a TLS client shows of its chain: all but the root (RFC 8446, 4.4.2)."""
    return [path[0], *(c for c in path[1:] if c.issuer != c.subject)]


def extension(
    leaf: Certificate | CertificateSigningRequest, kind: type[Extension]
) -> Extension | None:
    try:
        return leaf.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
