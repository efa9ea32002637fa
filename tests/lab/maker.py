"""TPM makers, and the certificates of theirs that are not as anybody else's.

The oddities are those that real makers' certificates are reported to have; the certificates are
made here, by keys of the lab.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from tests.lab import pki

EK = x509.ObjectIdentifier("2.23.133.8.1")
MANUFACTURER, MODEL, VERSION = (x509.ObjectIdentifier(f"2.23.133.2.{n}") for n in (1, 2, 3))
SHA1 = bytes.fromhex("2a864886f70d010105")  # sha1WithRSAEncryption
DAY = timedelta(days=1)
Extensions = Iterable[tuple[x509.ExtensionType, bool]]  # with "critical"


def tpm_name(*said: str) -> x509.SubjectAlternativeName:
    """Manufacturer, model and version, in one SET, as most makers have them."""
    attributes = [
        x509.NameAttribute(oid, text)
        for oid, text in zip((MANUFACTURER, MODEL, VERSION), said, strict=False)
    ]
    name = x509.Name([x509.RelativeDistinguishedName(attributes)])
    return x509.SubjectAlternativeName([x509.DirectoryName(name)])


def usage(*names: str) -> x509.KeyUsage:
    kinds = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
        "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{kind: kind in names for kind in kinds})


def at(url: str) -> x509.AuthorityInformationAccess:
    """Where the issuer's certificate is."""
    place = x509.UniformResourceIdentifier(url)
    how = AuthorityInformationAccessOID.CA_ISSUERS
    return x509.AuthorityInformationAccess([x509.AccessDescription(how, place)])


def list_at(url: str) -> x509.CRLDistributionPoints:
    place = [x509.UniformResourceIdentifier(url)]
    return x509.CRLDistributionPoints([x509.DistributionPoint(place, None, None, None)])


NAME = tpm_name("id:4C414200", "Lab TPM", "id:00010002")
EK_SAYS: Extensions = (
    (NAME, True),
    (x509.BasicConstraints(ca=False, path_length=None), True),
    (usage("key_encipherment"), True),
    (x509.ExtendedKeyUsage([EK]), False),
)


def ca_says(path_length: int | None = None) -> Extensions:
    return (
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (usage("key_cert_sign", "crl_sign"), True),
    )


@dataclass(frozen=True)
class Ca:
    """A key, and the name that it issues by."""

    name: x509.Name
    key: pki.PrivateKey = field(default_factory=pki.new_key)

    def issue(
        self,
        subject: x509.Name,
        key: CertificatePublicKeyTypes,
        says: Extensions,
        *,
        starts: timedelta = -DAY,
        lasts: timedelta = pki.YEAR,
        pss: bool = False,
    ) -> x509.Certificate:
        """Just this, no key identifiers or whatever. `pss`: signed by RSA-PSS."""
        begins = datetime.now(UTC) + starts
        builder = x509.CertificateBuilder(
            issuer_name=self.name, subject_name=subject, public_key=key,
            serial_number=x509.random_serial_number(),
            not_valid_before=begins, not_valid_after=begins + lasts,
        )  # fmt: skip
        for extension, critical in says:
            builder = builder.add_extension(extension, critical=critical)
        scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 32) if pss else None
        return builder.sign(self.key, hashes.SHA256(), rsa_padding=scheme)

    def own(self, says: Extensions | None = None, **how: timedelta) -> x509.Certificate:
        """Its root certificate."""
        return self.issue(self.name, self.key.public_key(), says or ca_says(), **how)  # type: ignore[arg-type]

    def ek(
        self,
        key: CertificatePublicKeyTypes,
        *more: tuple[x509.ExtensionType, bool],
        **how: timedelta,
    ) -> x509.Certificate:
        return self.issue(x509.Name([]), key, (*EK_SAYS, *more), **how)  # type: ignore[arg-type]

    def crl(
        self,
        *serials: int,
        starts: timedelta = -DAY,
        lasts: timedelta = 30 * DAY,
        scope: x509.IssuingDistributionPoint | None = None,
    ) -> bytes:
        """DER: what is revoked since an hour."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder(
            self.name, now + starts, now + starts + lasts
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder(serial, now - timedelta(hours=1)).build()
            builder = builder.add_revoked_certificate(entry)
        if scope:
            builder = builder.add_extension(scope, critical=True)
        made = builder.sign(self.key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.DER)


def one_set(*texts: str) -> x509.Name:
    """O, CN and C in one SET."""
    oids = (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME, NameOID.COUNTRY_NAME)
    attributes = [x509.NameAttribute(oid, text) for oid, text in zip(oids, texts, strict=True)]
    return x509.Name([x509.RelativeDistinguishedName(attributes)])


# --- DER, taken apart and put together in other ways (ITU-T X.690) ---


@dataclass
class Value:
    """A tag, and octets or values."""

    tag: int
    octets: bytes = b""
    values: "list[Value]" = field(default_factory=list)

    def der(self) -> bytes:
        body = b"".join(each.der() for each in self.values) if self.tag & 0x20 else self.octets
        if len(body) < 0x80:
            return bytes([self.tag, len(body)]) + body
        length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
        return bytes([self.tag, 0x80 | len(length)]) + length + body

    def wrapped(self, change: "Change") -> None:
        """What is DER inside of these octets, changed."""
        inside = parsed(self.octets)
        change(inside)
        self.octets = inside.der()


Change = Callable[[Value], None]


def parsed(der: bytes) -> Value:
    [value] = _values(der)
    return value


def _values(data: bytes) -> list[Value]:
    found = []
    while data:
        octets = data[1] & 0x7F if data[1] & 0x80 else 0
        begin = 2 + octets
        size = int.from_bytes(data[2:begin], "big") if octets else data[1]
        body, tag = data[begin : begin + size], data[0]
        nested = _values(body) if tag & 0x20 else []
        found.append(Value(tag, b"" if tag & 0x20 else body, nested))
        data = data[begin + size :]
    return found


def changed(signed: x509.Certificate | bytes, by: pki.PrivateKey, *changes: Change) -> bytes:
    """DER of the certificate (or whatever DER) with its contents changed, signed by the key of its
    issuer's."""
    whole = parsed(signed if isinstance(signed, bytes) else pki.der(signed))
    for change in changes:
        change(whole)
    contents = whole.values[0].der()
    sha1 = whole.values[1].values[0].octets == SHA1
    digest = hashes.SHA1() if sha1 else hashes.SHA256()  # noqa: S303  (to be refused)
    if isinstance(by, rsa.RSAPrivateKey):
        signature = by.sign(contents, padding.PKCS1v15(), digest)
    else:
        signature = by.sign(contents, ec.ECDSA(digest))
    whole.values[2].octets = b"\0" + signature
    return whole.der()


def _extensions(whole: Value) -> list[Value]:
    return whole.values[0].values[-1].values[0].values


def unsorted_names(whole: Value) -> None:
    """Nuvoton's: the attributes of a SET in an order of their own."""
    _, _, _, issuer, _, subject, *_ = whole.values[0].values
    for name in (issuer, subject):
        for relative in name.values:
            relative.values.reverse()
    for extension in _extensions(whole):
        if extension.values[0].octets == bytes.fromhex("551d11"):
            extension.values[-1].wrapped(_unsorted_sets)


def _unsorted_sets(value: Value) -> None:
    for each in value.values:
        _unsorted_sets(each)
    if value.tag == 0x31:
        value.values.reverse()


def written_defaults(whole: Value) -> None:
    """Intel's: `critical FALSE` and `cA FALSE`, though that is what is meant without."""
    for extension in _extensions(whole):
        if len(extension.values) == 2:
            extension.values.insert(1, Value(0x01, b"\0"))
        if extension.values[0].octets == bytes.fromhex("551d13"):
            extension.values[-1].wrapped(_not_a_ca)


def _not_a_ca(basic_constraints: Value) -> None:
    if not basic_constraints.values:
        basic_constraints.values.append(Value(0x01, b"\0"))


def null_parameters(whole: Value) -> None:
    """The root of Intel's on-die CA: as with RSA, though it is ECDSA."""
    for algorithm in (whole.values[0].values[2], whole.values[1]):
        algorithm.values.append(Value(0x05))


def generalized_time(whole: Value) -> None:
    """AMD's: years of four digits, long before they are needed."""
    for each in whole.values[0].values[4].values:
        if each.tag == 0x17:
            each.tag, each.octets = 0x18, b"20" + each.octets


def negative_serial(whole: Value) -> None:
    whole.values[0].values[1].octets = b"\x87" * 16


def negative_entries(crl: Value) -> None:
    """Of a list that has no extensions."""
    for entry in crl.values[0].values[5].values:
        entry.values[0].octets = entry.values[0].octets.removeprefix(b"\0")


def zero_serial(whole: Value) -> None:
    whole.values[0].values[1].octets = b"\0"


def over_sha1(whole: Value) -> None:
    for algorithm in (whole.values[0].values[2], whole.values[1]):
        algorithm.values[0].octets = SHA1


def broken(der: bytes) -> bytes:
    """With another signature: its last bit."""
    return der[:-1] + bytes([der[-1] ^ 1])
