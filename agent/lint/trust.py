"""Whom the devices will trust: the files that the configuration names, as they are in the image."""

import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from cryptography import x509 as crypto

from agent import inputs, makers, x509
from agent.config import SYSTEM_CAS, Config
from agent.errors import TrustUnreadable
from agent.lint.image import Image
from agent.lint.rules import ERROR, WARNING, Finding, Rule
from agent.tls import tls_context

SOON = timedelta(days=180)

TRUST_UNREADABLE = Rule(
    "trust-unreadable",
    ERROR,
    "A file of CA certificates that the configuration names is missing, or holds none.",
    "Put the CA certificates, PEM, into {at}",
)
TRUST_NOT_CA = Rule(
    "trust-not-ca",
    ERROR,
    "No certificate of a trust file is a CA's.",
    "Put the certificate of the CA into {at}, not one that it issued",
)
TRUST_EXPIRED = Rule(
    "trust-expired",
    ERROR,
    "No certificate of a trust file is valid any more.",
    "Get the CA's new certificate, and put it into {at}",
)
TRUST_ENDS_SOON = Rule(
    "trust-ends-soon",
    WARNING,
    "A trust file ends within half a year: images are flashed for longer than that.",
    "Get the CA's new certificate, and add it to {at}",
)
TRUST_TOO_NEW = Rule(
    "trust-too-new",
    ERROR,
    "No certificate of a trust file is valid yet: devices refuse the clock until one is.",
    "Correct the clock of this machine, or of the CA that issued what is in {at}",
)
TRUST_UNSHARED = Rule(
    "trust-unshared",
    ERROR,
    "IoT Edge's certificate service, another user than root, cannot read its trust file.",
    "chmod 0644 {at}, and chmod o+x the directories above it",
)
ROOTS_ABSENT = Rule(
    "roots-absent",
    ERROR,
    "There is no root certificate of any TPM's maker: no TPM would be believed.",
    "Put the roots of your TPMs' maker, PEM, one file each, into {at}",
)


def certificates(image: Image, path: str) -> list[crypto.Certificate]:
    """Those of a trust file. Raises TrustUnreadable, Unseen."""
    image.data(path)
    return x509.anchors(image.real(path))


def files(image: Image, conf: Config | None) -> Iterator[Finding]:
    for path in dict.fromkeys(map(str, inputs.trust_files(conf))) if conf else ():
        yield from _file(image, path)


def system(image: Image, conf: Config | None) -> Iterator[Finding]:
    """The system's own CAs, where DPS and the hub are believed by them: of any age, as OpenSSL
    takes them. A package that is not there at all has a rule of its own."""
    path = str(SYSTEM_CAS)
    ours = conf is not None and not conf.for_edge and conf.dps.trust == SYSTEM_CAS
    if not ours or image.data(path) is None:
        return
    try:
        tls_context(image.real(path))
    except TrustUnreadable as e:
        yield TRUST_UNREADABLE.at(image, path, str(e))


def roots(image: Image, conf: Config | None) -> Iterator[Finding]:
    """Of TPM makers: old ones stay, so an end is no finding."""
    if conf is None:
        return
    directories = [str(directory) for directory in conf.tpm.manufacturer_roots]
    paths = [f"{at}/{name}" for at in directories for name in image.names(at)]
    found = [path for path in paths if path[path.rfind(".") :].lower() in x509.SUFFIXES]
    for path in found:
        try:
            image.data(path)
            makers.read(image.real(path))
        except TrustUnreadable as e:
            yield TRUST_UNREADABLE.at(image, path, str(e))
    if not found:
        at = directories[-1] if directories else "/usr/share/tpm2cloud/tpm-roots.d"
        why = f"no root of a TPM's maker is in {' or '.join(directories) or 'any directory'}"
        yield ROOTS_ABSENT.at(image, at, why)


def _file(image: Image, path: str) -> Iterator[Finding]:
    try:
        found = certificates(image, path)
    except TrustUnreadable as e:
        yield TRUST_UNREADABLE.at(image, path, str(e))
        return
    now = datetime.now(UTC)
    if not any(map(_is_ca, found)):
        yield TRUST_NOT_CA.at(image, path, "it holds no CA's certificate")
    ends = max(c.not_valid_after_utc for c in found)
    begins = min(c.not_valid_before_utc for c in found)
    if ends < now:
        yield TRUST_EXPIRED.at(image, path, f"it ended on {ends:%Y-%m-%d}")
    elif ends < now + SOON:
        yield TRUST_ENDS_SOON.at(image, path, f"it ends on {ends:%Y-%m-%d}")
    if begins > now + x509.SKEW:
        why = f"it begins on {begins:%Y-%m-%d %H:%M}Z, and devices refuse the clock until then"
        yield TRUST_TOO_NEW.at(image, path, why)


def _is_ca(certificate: crypto.Certificate) -> bool:
    """A version 1 certificate says nothing (RFC 5280, 6.1.4 k); one that makes no sense is none."""
    try:
        found = x509.extension(certificate, crypto.BasicConstraints)
    except x509.NONSENSE:
        return False
    return found.ca if found else certificate.version == crypto.Version.v1


def shared(image: Image, conf: Config | None) -> Iterator[Finding]:
    """aziot-certd, another user, reads this one too."""
    operational = conf.operational if conf and conf.dps.attestation == "x509" else None
    if operational is None or operational.issued_by != "est":
        return
    path = str(operational.trust)
    if (found := image.stat(path)) is None:
        return
    above = (image.stat(str(directory)) for directory in operational.trust.parents)
    open_above = all(each is None or each.st_mode & stat.S_IXOTH for each in above)
    if not (found.st_mode & stat.S_IROTH and open_above):
        why = "IoT Edge's certificate service, another user than root, cannot read it"
        yield TRUST_UNSHARED.at(image, path, why)


CHECKS = (files, system, roots, shared)
