"""Certificates asked for, issued, and checked before they are believed."""

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import (
    AuthorityKeyIdentifier,
    BasicConstraints,
    Certificate,
    CertificateBuilder,
    CertificateSigningRequest,
    CertificateSigningRequestBuilder,
    ExtendedKeyUsage,
    ExtensionType,
    KeyUsage,
    Name,
    NameAttribute,
    SubjectAlternativeName,
    SubjectKeyIdentifier,
    random_serial_number,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent import x509
from agent.errors import (
    IssuedAsCa,
    IssuedByAnother,
    IssuedForAnotherKey,
    IssuedWithWrongDates,
    IssuedWithWrongName,
    IssuedWrong,
    RenewalBringsNothing,
)

ANY_USE = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}

# --- asking ---


def request(key: CertificateIssuerPrivateKeyTypes, cn: str) -> CertificateSigningRequest:
    """A CSR (RFC 2986) for a TLS client certificate with this CN, signed by `key`."""
    name = Name([NameAttribute(NameOID.COMMON_NAME, cn)])
    return _request(name).sign(key, hashes.SHA256())


def renewal(
    key: CertificateIssuerPrivateKeyTypes, certificate: Certificate
) -> CertificateSigningRequest:
    """A CSR like `request`'s for the names of this certificate, signed by `key`, its own or a new
    one. Subject and subjectAltName are the same to the byte, for servers compare them so (RFC 7030,
    4.2.2): what `cryptography` reads is strict DER, of which there is but one of each value."""
    builder = _request(certificate.subject)
    for each in certificate.extensions:
        if isinstance(each.value, SubjectAlternativeName):
            builder = builder.add_extension(each.value, critical=each.critical)
    return builder.sign(key, hashes.SHA256())


def _request(subject: Name) -> CertificateSigningRequestBuilder:
    builder = CertificateSigningRequestBuilder().subject_name(subject)
    return builder.add_extension(usage(), critical=True).add_extension(
        _client_auth(), critical=False
    )


def usage() -> KeyUsage:
    """digitalSignature alone."""
    return KeyUsage(True, False, False, False, False, False, False, False, False)


def _client_auth() -> ExtendedKeyUsage:
    return ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])


def issue(
    csr: CertificateSigningRequest,
    ca: Certificate,
    ca_key_pem: bytes,
    until: datetime,
    extensions: Sequence[ExtensionType] | None = None,
    password: bytes | None = None,
) -> Certificate:
    """What a CA of our own does with a CSR; without `extensions`, for a TLS client, with the other
    names that the CSR has. `password`: the key's. Raises ValueError, also for a key that is not the
    CA's, or TypeError."""
    key = load_pem_private_key(ca_key_pem, password)
    # A PEM key may be of a kind that signs nothing (DH, X25519): it is not the CA's then. The types
    # below cannot know that.
    if x509.spki(key.public_key()) != x509.spki(ca.public_key()):  # type: ignore[arg-type]
        raise ValueError("the key is not that of the CA certificate")
    subject = csr.public_key()
    builder = (
        CertificateBuilder()
        .subject_name(csr.subject)
        .issuer_name(ca.subject)
        .public_key(subject)
        .serial_number(random_serial_number())
        .not_valid_before(datetime.now(UTC))
        .not_valid_after(until)
        .add_extension(BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(SubjectKeyIdentifier.from_public_key(subject), critical=False)
        .add_extension(_authority(ca), critical=False)
    )
    for each in _of_client(csr) if extensions is None else extensions:
        builder = builder.add_extension(each, critical=isinstance(each, KeyUsage))
    return builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]


def _of_client(csr: CertificateSigningRequest) -> list[ExtensionType]:
    names = x509.extension(csr, SubjectAlternativeName)
    return [usage(), _client_auth(), *([] if names is None else [names])]


def _authority(ca: Certificate) -> AuthorityKeyIdentifier:
    """As the CA calls its own key, however it came to that (RFC 5280, 4.2.1.1)."""
    if (own := x509.extension(ca, SubjectKeyIdentifier)) is not None:
        return AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
    return AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key())  # type: ignore[arg-type]


# --- checking what came back ---


def issued(
    certificates: Sequence[Certificate],
    csr: CertificateSigningRequest,
    roots: Sequence[Certificate],
    others: Sequence[Certificate],
    now: datetime,
    *,
    named: bool = True,
) -> list[Certificate]:
    """The chain of the certificate that answers `csr`, leaf first, without a root at its end.

    `certificates` are what came back, in any order; `others` may help to build the chain. `named`:
    it must have the CN of the CSR. Raises a child of IssuedWrong: another key, another name, a CA,
    odd dates, or a CA that is not trusted.
    """
    asked = x509.spki(csr.public_key())
    leaf = next((c for c in certificates if is_for(c, asked)), None)
    if leaf is None:
        raise IssuedForAnotherKey("cannot use the issued certificate: it is for another key")
    check(leaf, x509.common_name(csr if named else leaf), now)
    try:
        at = max(now, leaf.not_valid_before_utc)  # the CA's clock may be a little ahead
        found = x509.chain(leaf, roots, [*certificates, *others], at)
    except x509.Untrusted as e:
        raise IssuedByAnother(f"cannot use the issued certificate: {e}") from e
    return x509.shown(found)


def is_for(certificate: Certificate, asked: bytes) -> bool:
    """`asked`: SubjectPublicKeyInfo, DER."""
    try:
        return x509.spki(certificate.public_key()) == asked
    except x509.NONSENSE:
        return False  # a key of a kind we never ask for


def check(leaf: Certificate, cn: str, now: datetime) -> None:
    """Is this a certificate a TLS client of that name can use now? Raises IssuedWrong."""
    try:
        _ = leaf.subject, leaf.issuer, leaf.extensions
        _ = leaf.not_valid_before_utc, leaf.not_valid_after_utc  # of the year 0, say
    except x509.NONSENSE as e:
        raise IssuedWrong(f"cannot use the issued certificate: it makes no sense: {e}") from e
    if x509.common_name(leaf) != cn:
        raise IssuedWithWrongName(
            f"cannot use the issued certificate: it is for '{x509.common_name(leaf)}', not '{cn}'"
        )
    start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if start > now + x509.SKEW or end <= max(start, now):
        raise IssuedWithWrongDates(
            f"cannot use the issued certificate: valid from {start} to {end}, but it is {now}"
        )
    if (ca := x509.extension(leaf, BasicConstraints)) is not None and ca.ca:
        raise IssuedAsCa("cannot use the issued certificate: it makes this device a CA")
    usage = x509.extension(leaf, KeyUsage)
    purposes = x509.extension(leaf, ExtendedKeyUsage)
    may_sign = usage is None or usage.digital_signature
    if not may_sign or (purposes is not None and not ANY_USE & set(purposes)):
        raise IssuedWrong("cannot use the issued certificate: it is not for TLS clients")


def check_names(leaf: Certificate, before: Certificate) -> None:
    """Is it for whom the one `before` is? Raises IssuedWithWrongName."""
    names = [(c.subject, x509.extension(c, SubjectAlternativeName)) for c in (leaf, before)]
    if names[0] != names[1]:
        raise IssuedWithWrongName(
            f"cannot use the renewed certificate: it is for '{x509.written(leaf.subject)}' and its "
            "other names, which are not those of the one before"
        )


def check_longer(leaf: Certificate, before: Certificate) -> None:
    """Does it last longer than the one `before`? Raises RenewalBringsNothing."""
    new, old = leaf.not_valid_after_utc, before.not_valid_after_utc
    if new <= old:
        raise RenewalBringsNothing(
            f"cannot renew the certificate: the new one ends at {new:%Y-%m-%d %H:%M}Z, and the "
            f"one in use at {old:%Y-%m-%d %H:%M}Z"
        )
