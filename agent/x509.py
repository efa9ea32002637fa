"""Certificates: read, chained to what we trust, asked for, and checked before they are believed.

Times are aware UTC datetimes. Nothing here fetches anything, whatever a certificate names.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    CertificatePublicKeyTypes,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509 import Certificate, CertificateSigningRequest
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from agent.errors import (
    IssuedAsCa,
    IssuedByAnother,
    IssuedForAnotherKey,
    IssuedWithWrongDates,
    IssuedWithWrongName,
    IssuedWrong,
    TrustUnreadable,
)

Extension = TypeVar("Extension", bound=x509.ExtensionType)

SKEW = timedelta(minutes=10)  # how far a CA's clock may be ahead of ours
SUFFIXES = {".pem", ".crt", ".cer", ".der"}
ANY_USE = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}


class Untrusted(Exception):
    """No chain from a certificate to an anchor; the text says why."""


# --- reading ---


def parse(data: bytes) -> list[Certificate]:
    """All certificates of a PEM text, or the one of a DER. Raises ValueError."""
    if b"-----BEGIN" in data:
        return x509.load_pem_x509_certificates(data)
    return [x509.load_der_x509_certificate(data)]


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


def sequence(data: bytes) -> list[Certificate]:
    """The concatenated DER certificates of an NV chain; padding ends it. Raises ValueError."""
    found = []
    while der := first_der(data):
        found.append(x509.load_der_x509_certificate(der))
        data = data[len(der) :]
    return found


def anchors_in(directories: Iterable[Path]) -> list[Certificate]:
    """Those of the *.pem, *.crt, *.cer and *.der files of directories; one that is not there holds
    none. Raises TrustUnreadable, also for a file without any."""
    files = (file for place in directories if place.is_dir() for file in sorted(place.iterdir()))
    return [c for file in files if file.suffix.lower() in SUFFIXES for c in anchors(file)]


def anchors(file: Path) -> list[Certificate]:
    """The certificates of a file: one or more. Raises TrustUnreadable."""
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


def describe(certificate: Certificate) -> str:
    return certificate.subject.rfc4514_string() or f"serial {certificate.serial_number:x}"


def spki(key: CertificatePublicKeyTypes) -> bytes:
    """DER SubjectPublicKeyInfo."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(certificate: Certificate) -> str:
    """SHA-256 over the DER, hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def newest_not_before(certificates: Iterable[Certificate]) -> datetime | None:
    """The latest moment at which one of these was already valid: no right clock shows less."""
    return max((c.not_valid_before_utc for c in certificates), default=None)


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

    TPM makers' and private CAs do not follow the web's profile: CAs need basicConstraints, and
    keyCertSign if they say anything of key usage; what a leaf is good for is the caller's matter.
    """
    if not roots:
        raise Untrusted("there is nothing to trust: no CA certificate was found")
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


# --- asking ---


def request(key: CertificateIssuerPrivateKeyTypes, cn: str) -> CertificateSigningRequest:
    """A CSR (RFC 2986) for a TLS client certificate with this CN, signed by `key`."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)]))
        .add_extension(_usage(), critical=True)
        .add_extension(_client_auth(), critical=False)
        .sign(key, hashes.SHA256())
    )


def _usage() -> x509.KeyUsage:
    return x509.KeyUsage(True, False, False, False, False, False, False, False, False)


def _client_auth() -> x509.ExtendedKeyUsage:
    return x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])


def issue(
    csr: CertificateSigningRequest, ca: Certificate, ca_key_pem: bytes, days: timedelta
) -> Certificate:
    """What a CA of a lab does with a CSR. Raises ValueError for a key that is not the CA's."""
    key = load_pem_private_key(ca_key_pem, None)
    if spki(key.public_key()) != spki(ca.public_key()):  # type: ignore[arg-type]
        raise ValueError("the key is not that of the CA certificate")
    now = datetime.now(UTC)
    subject = csr.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(csr.subject)
        .issuer_name(ca.subject)
        .public_key(subject)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(min(now + days, ca.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(), critical=True)
        .add_extension(_client_auth(), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(subject), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
        .sign(key, hashes.SHA256())  # type: ignore[arg-type]
    )


# --- checking what came back ---


def issued(
    certificates: Sequence[Certificate],
    csr: CertificateSigningRequest,
    roots: Sequence[Certificate],
    others: Sequence[Certificate],
    now: datetime,
) -> list[Certificate]:
    """The chain of the certificate that answers `csr`, leaf first, without the anchor at its end.

    `certificates` are what came back, in any order; `others` may help to build the chain. Raises a
    child of IssuedWrong: another key, another name, a CA, odd dates, or a CA that is not trusted.
    """
    asked = spki(csr.public_key())
    leaf = next((c for c in certificates if spki(c.public_key()) == asked), None)
    if leaf is None:
        raise IssuedForAnotherKey("cannot use the issued certificate: it is for another key")
    check(leaf, common_name(csr), now)
    try:
        at = max(now, leaf.not_valid_before_utc)  # the CA's clock may be a little ahead
        found = chain(leaf, roots, [*certificates, *others], at)
    except Untrusted as e:
        raise IssuedByAnother(f"cannot use the issued certificate: {e}") from e
    return [c for c in found if c is leaf or c not in roots]


def check(leaf: Certificate, cn: str, now: datetime) -> None:
    """Is this a certificate a TLS client of that name can use now? Raises IssuedWrong."""
    if common_name(leaf) != cn:
        raise IssuedWithWrongName(
            f"cannot use the issued certificate: it is for '{common_name(leaf)}', not '{cn}'"
        )
    start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if start > now + SKEW or end <= max(start, now):
        raise IssuedWithWrongDates(
            f"cannot use the issued certificate: valid from {start} to {end}, but it is {now}"
        )
    if (ca := _extension(leaf, x509.BasicConstraints)) is not None and ca.ca:
        raise IssuedAsCa("cannot use the issued certificate: it makes this device a CA")
    usage = _extension(leaf, x509.KeyUsage)
    purposes = _extension(leaf, x509.ExtendedKeyUsage)
    may_sign = usage is None or usage.digital_signature
    if not may_sign or (purposes is not None and not ANY_USE & set(purposes)):
        raise IssuedWrong("cannot use the issued certificate: it is not for TLS clients")


def _extension(leaf: Certificate, kind: type[Extension]) -> Extension | None:
    try:
        return leaf.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
