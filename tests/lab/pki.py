"""The certification authorities of the lab, and certificates as odd as a test wants them."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Kind = Literal["rsa2048", "ecc256"]
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
YEAR = timedelta(days=365)


def new_key(kind: Kind = "ecc256") -> PrivateKey:
    if kind == "rsa2048":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def name(common_name: str, **more: str) -> x509.Name:
    """A subject; `more` as in `name("device", O="Contoso")`, put before the CN in this order."""
    oids = {"C": NameOID.COUNTRY_NAME, "ST": NameOID.STATE_OR_PROVINCE_NAME}
    oids |= {"L": NameOID.LOCALITY_NAME, "O": NameOID.ORGANIZATION_NAME}
    oids |= {"OU": NameOID.ORGANIZATIONAL_UNIT_NAME, "serialNumber": NameOID.SERIAL_NUMBER}
    above = [x509.NameAttribute(oids[short], text) for short, text in more.items()]
    return x509.Name([*above, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def certs_only(*certificates: x509.Certificate) -> bytes:
    """PKCS #7, DER."""
    return pkcs7.serialize_certificates(list(certificates), serialization.Encoding.DER)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256, hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def private_pem(key: PrivateKey) -> bytes:
    """PKCS #8, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def write_private(path: Path, data: bytes) -> Path:
    """A file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_bytes(data)
    return path


def usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def local_names(*more: str) -> x509.SubjectAlternativeName:
    """Everything a server of the lab is called by, and host names besides."""
    names = [x509.DNSName(name) for name in ("localhost", *more)]
    address = ipaddress.ip_address("127.0.0.1")
    return x509.SubjectAlternativeName([*names, x509.IPAddress(address)])


@dataclass(frozen=True)
class Authority:
    """A CA: its key, and its certificate followed by those above it, the root last."""

    key: PrivateKey
    chain: tuple[x509.Certificate, ...]

    @property
    def certificate(self) -> x509.Certificate:
        return self.chain[0]

    @property
    def root(self) -> x509.Certificate:
        return self.chain[-1]

    def issue(
        self,
        key: CertificatePublicKeyTypes,
        subject: x509.Name | str,
        *,
        starts: timedelta = -timedelta(hours=1),
        lasts: timedelta = YEAR,
        ca: bool = False,
        usages: Iterable[x509.ObjectIdentifier] = (CLIENT,),
        extensions: Iterable[x509.ExtensionType] = (),
    ) -> x509.Certificate:
        """A certificate for `key`, valid from `starts` (relative to now) on for `lasts`. Extended
        key usages in `usages` (none if empty); `extensions` are added, not critical."""
        builder = _builder(self.certificate.subject, self.key, key, subject, starts, lasts, ca)
        if eku := list(usages):
            builder = builder.add_extension(x509.ExtendedKeyUsage(eku), critical=False)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def below(
        self,
        title: str,
        kind: Kind = "ecc256",
        *,
        starts: timedelta = -timedelta(hours=1),
        lasts: timedelta = 5 * YEAR,
    ) -> "Authority":
        """An intermediate CA."""
        key = new_key(kind)
        own = self.issue(key.public_key(), title, starts=starts, lasts=lasts, ca=True, usages=())
        return Authority(key, (own, *self.chain))

    def server(
        self,
        directory: Path,
        kind: Kind = "ecc256",
        *,
        also: Iterable[str] = (),
        starts: timedelta = -timedelta(hours=1),
        lasts: timedelta = YEAR,
    ) -> "Tls":
        """What a server on localhost or 127.0.0.1 needs; `also`: further host names of its."""
        key = new_key(kind)
        names = [local_names(*also)]
        own = self.issue(
            key.public_key(),
            "localhost",
            starts=starts,
            lasts=lasts,
            usages=[SERVER],
            extensions=names,
        )
        directory.mkdir(parents=True, exist_ok=True)
        files = Tls(directory / "server.pem", directory / "server.key", directory / "root.pem")
        files.chain.write_bytes(pem(own, *self.chain[:-1]))
        files.trust.write_bytes(pem(self.root))
        write_private(files.key, private_pem(key))
        return files

    def save(self, directory: Path) -> "Files":
        """Chain (own certificate first), root and key as PEM files in `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        files = Files(directory)
        files.chain.write_bytes(pem(*self.chain))
        files.root.write_bytes(pem(self.root))
        write_private(files.key, private_pem(self.key))
        return files


@dataclass(frozen=True)
class Tls:
    """PEM files of a server: its certificate and those above it (less the root), its key, and the
    root, for those who want to know whom they talk to."""

    chain: Path
    key: Path
    trust: Path


@dataclass(frozen=True)
class Files:
    """Where an Authority was saved."""

    directory: Path

    @property
    def chain(self) -> Path:
        return self.directory / "chain.pem"

    @property
    def root(self) -> Path:
        return self.directory / "root.pem"

    @property
    def key(self) -> Path:
        return self.directory / "key.pem"


def root(
    title: str,
    kind: Kind = "ecc256",
    *,
    starts: timedelta = -timedelta(hours=1),
    lasts: timedelta = 10 * YEAR,
    called: bytes | None = None,
) -> Authority:
    """A self-signed CA. `called`: its key's identifier, if not by SHA-1 (RFC 7093)."""
    key = new_key(kind)
    own = None if called is None else x509.SubjectKeyIdentifier(called)
    builder = _builder(name(title), key, key.public_key(), title, starts, lasts, True, own)
    return Authority(key, (builder.sign(key, hashes.SHA256()),))


def authority(title: str, kind: Kind = "ecc256", *, lasts: timedelta = 5 * YEAR) -> Authority:
    """An intermediate CA, that issues, under a root of its own; `lasts` is the intermediate's."""
    return root(f"{title} root", kind).below(title, kind, lasts=lasts)


def _builder(
    issuer: x509.Name,
    issuer_key: PrivateKey,
    key: CertificatePublicKeyTypes,
    subject: x509.Name | str,
    starts: timedelta,
    lasts: timedelta,
    ca: bool,
    called: x509.SubjectKeyIdentifier | None = None,
) -> x509.CertificateBuilder:
    begin = datetime.now(UTC) + starts
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    if called is not None:
        above = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(called)
    return (
        x509.CertificateBuilder()
        .subject_name(name(subject) if isinstance(subject, str) else subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + lasts)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage(ca=ca), critical=True)
        .add_extension(called or x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(above, critical=False)
    )
