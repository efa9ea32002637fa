"""What is particular to an IDevID certificate (IEEE 802.1AR-2018, 8)."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509 import (
    Certificate,
    CertificateSigningRequest,
    CertificateSigningRequestBuilder,
    ExtendedKeyUsage,
    KeyUsage,
    Name,
    NameAttribute,
    ObjectIdentifier,
    OtherName,
    SubjectAlternativeName,
)
from cryptography.x509.oid import NameOID

from agent import x509, x509_issued
from agent.errors import IssuedWithWrongName, SubjectInvalid

FOREVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # 8.7; RFC 5280, 4.1.2.5
HARDWARE_MODULE = ObjectIdentifier("1.3.6.1.5.5.7.8.4")  # id-on-hardwareModuleName, RFC 4108, 5
# In the order in which they are written; how long each may be (RFC 5280, appendix A.1).
PARTS = {
    "country": (NameOID.COUNTRY_NAME, 2),
    "state": (NameOID.STATE_OR_PROVINCE_NAME, 128),
    "locality": (NameOID.LOCALITY_NAME, 128),
    "organization": (NameOID.ORGANIZATION_NAME, 64),
    "unit": (NameOID.ORGANIZATIONAL_UNIT_NAME, 64),
    "common_name": (NameOID.COMMON_NAME, 64),
    "serial_number": (NameOID.SERIAL_NUMBER, 64),
}
PRINTABLE = re.compile(r"[A-Za-z0-9 '()+,./:=?-]+")  # PrintableString (ITU-T X.680, 41.4)


@dataclass(frozen=True)
class Who:
    """The subject, and the type of hardware (dotted OID) whose serial number it names, if any."""

    subject: Name
    hardware_type: str | None = None

    @property
    def serial_number(self) -> str:
        return serial_number(self.subject)


def subject(texts: Mapping[str, str]) -> Name:
    """A subject of `PARTS`. Raises SubjectInvalid."""
    for part, text in texts.items():
        _, most = PARTS[part]
        if not 1 <= len(text.encode()) <= most or not text.isprintable():
            why = f"its {part} must be 1 to {most} bytes of printable UTF-8, not {text!r}"
            raise SubjectInvalid(f"cannot name the board: {why}")
    if not PRINTABLE.fullmatch(texts["serial_number"]):
        why = "a serial_number is letters, digits, blanks and '()+,./:=?-"
        raise SubjectInvalid(f"cannot name the board: {why}, not {texts['serial_number']!r}")
    return Name([NameAttribute(PARTS[part][0], texts[part]) for part in PARTS if part in texts])


def serial_number(name: Name) -> str:
    """The serialNumber of a subject (8.6), or ''."""
    found = name.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
    return str(found[0].value) if found else ""


def request(key: CertificateIssuerPrivateKeyTypes, who: Who) -> CertificateSigningRequest:
    """A CSR (RFC 2986) signed by `key`: digitalSignature, no extended key usage (8.10)."""
    builder = CertificateSigningRequestBuilder().subject_name(who.subject)
    builder = builder.add_extension(x509_issued.usage(), critical=True)
    if who.hardware_type is not None:
        builder = builder.add_extension(_hardware(who), critical=False)
    return builder.sign(key, hashes.SHA256())


@asn1.sequence
@dataclass(frozen=True)
class _HardwareModuleName:
    hw_type: ObjectIdentifier
    hw_serial_num: bytes


def _hardware(who: Who) -> SubjectAlternativeName:
    """8.10.4: hardwareModuleName (RFC 4108, 5)."""
    kind = ObjectIdentifier(str(who.hardware_type))
    module = _HardwareModuleName(kind, who.serial_number.encode())
    return SubjectAlternativeName([OtherName(HARDWARE_MODULE, asn1.encode_der(module))])


def issue(
    csr: CertificateSigningRequest, ca: Certificate, key_pem: bytes, password: bytes | None
) -> Certificate:
    """What a CA on the factory's own station issues: for ever. Raises ValueError, TypeError."""
    wanted = [x509.extension(csr, kind) for kind in (KeyUsage, SubjectAlternativeName)]
    extensions = [each for each in wanted if each is not None]
    return x509_issued.issue(csr, ca, key_pem, FOREVER, extensions, password)


def check(leaf: Certificate, csr: CertificateSigningRequest) -> None:
    """Beyond x509_issued.check: is it this board's? Raises IssuedWithWrongName."""
    asked, got = serial_number(csr.subject), serial_number(leaf.subject)
    if asked != got:
        raise IssuedWithWrongName(
            f"cannot use the issued certificate: its serialNumber is '{got}', not '{asked}'"
        )


def shortcomings(leaf: Certificate, who: Who) -> Iterator[str]:
    """What 802.1AR or the configuration would have otherwise, but does no harm."""
    if leaf.subject != who.subject:
        yield f"it names '{x509.written(leaf.subject)}'"
    if leaf.not_valid_after_utc != FOREVER:
        yield f"it expires on {leaf.not_valid_after_utc:%Y-%m-%d}"
    if x509.extension(leaf, KeyUsage) is None:
        yield "it has no keyUsage"
    if x509.extension(leaf, ExtendedKeyUsage) is not None:
        yield "it restricts the key by extKeyUsage"
    san = x509.extension(leaf, SubjectAlternativeName)
    if who.hardware_type is not None and san != _hardware(who):
        yield "it has no hardwareModuleName"
