"""CAs that follow each other, and whatever they sign: as sound or as odd as a test wants it; and a
device that trusts them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from agent import anchors, config
from agent.anchors import Trust
from agent.state import State
from agent.x509_anchors import Accepted
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
    hash: hashes.SHA256 | hashes.SHA384 | None = None,
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


def offer(old: Ca, new: Ca) -> tuple[x509.Certificate, ...]:
    return (old.own, new.own, old.vouches(new), new.vouches(old))


@dataclass(frozen=True)
class Place:
    """A device's CA files, its configuration, and what it keeps."""

    directory: Path
    url: str = "https://localhost:1/.well-known/est"

    def file(self, name: str) -> Path:
        return self.directory / name

    @property
    def conf(self) -> config.Config:
        est = config.LdevidEst(url=self.url, trust=self.file("est-ca.pem"))
        trust = self.file("operational-ca.pem")
        return config.Config(
            dps=config.Dps(id_scope="0ne"),
            ldevid=config.Ldevid(est=est),
            operational=config.Operational(url=self.url, trust=trust),
        )

    @property
    def state(self) -> State:
        return State(self.directory)

    @property
    def est(self) -> Trust:
        return anchors.every(self.conf, self.state)[0]

    @property
    def operational(self) -> Trust:
        return anchors.every(self.conf, self.state)[1]

    def configure(self, *certificates: x509.Certificate) -> None:
        for name in ("est-ca.pem", "operational-ca.pem"):
            self.file(name).write_bytes(pki.pem(*certificates))

    def learn(self, *offered: x509.Certificate, now: datetime = NOW) -> list[x509.Certificate]:
        """What became trusted for the EST server."""
        found = anchors.learn(self.conf, self.state, offered, now)
        accepted = [each.anchor for _, each in found if isinstance(each, Accepted)]
        return list(dict.fromkeys(accepted))

    def trusted(self, now: datetime = NOW) -> list[x509.Certificate]:
        return anchors.effective(self.est, now)
