"""CAs that follow each other, and whatever they sign: as sound or as odd as a test wants it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.lab import pki

NOW = datetime.now(UTC).replace(microsecond=0)
YEAR, DAY = timedelta(days=365), timedelta(days=1)
CA_USE = pki.usage(ca=True)


@dataclass(frozen=True)
class Ca:
    """A name and a key; `own` is what it says of itself."""

    title: str
    key: pki.PrivateKey
    own: x509.Certificate

    def signs(self, key: pki.PrivateKey, title: str, **more: Any) -> x509.Certificate:
        return certificate(title, key, self.title, self.key, **more)

    def vouches(self, other: "Ca", **more: Any) -> x509.Certificate:
        """A cross certificate: NewWithOld, if this one is the old."""
        return self.signs(other.key, other.title, **more)


def certificate(
    title: str,
    key: pki.PrivateKey,
    issuer: str,
    signer: pki.PrivateKey,
    *,
    length: int | None = None,
    is_ca: bool | None = True,
    use: x509.KeyUsage | None = CA_USE,
    extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
    starts: datetime = NOW - YEAR,
    ends: datetime = NOW + YEAR,
    hash: hashes.HashAlgorithm | None = None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(pki.name(title))
        .issuer_name(pki.name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(starts)
        .not_valid_after(ends)
    )
    ids = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    added = [(ids, False), (above, False), *extensions]
    if is_ca is not None:
        length = length if is_ca else None
        added.append((x509.BasicConstraints(ca=is_ca, path_length=length), True))
    if use is not None:
        added.append((use, True))
    for extension, critical in added:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer, hash or hashes.SHA256())


def root(title: str, key: pki.PrivateKey | None = None, **more: Any) -> Ca:
    key = key or pki.new_key()
    return Ca(title, key, certificate(title, key, title, key, **more))
