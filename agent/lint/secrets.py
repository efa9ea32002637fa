"""No secret in the image that others may read, and every one that the configuration needs."""

import re
import stat
from collections.abc import Iterator
from typing import NamedTuple

from agent import credentials
from agent.config import Config
from agent.lint import unitfiles
from agent.lint.image import Image, Unseen
from agent.lint.rules import ERROR, WARNING, Finding, Rule

UNIT = "tpm2cloud-firstboot.service"
# In the order of systemd.exec(5), LoadCredential=; a running system's own are not the image's.
STORES = ("/etc/credstore", "/usr/local/lib/credstore", "/usr/lib/credstore")
SEALED = tuple(f"{store}.encrypted" for store in STORES)
KEYS_BELOW = ("/etc", "/var/secrets", "/usr/local/etc", "/usr/share/tpm2cloud")
KEYS_IN = ("/root/*", "/root/*/*", "/home/*/*", "/home/*/*/*")
PEM_KEY = re.compile(rb"^-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----\s*$", re.MULTILINE)
HEAD = 1 << 16  # bytes of a file in which a key would begin
DECIDES_TRUST = ("/etc/tpm2cloud", "/usr/share/tpm2cloud")

SECRET_READABLE = Rule(
    "secret-readable",
    ERROR,
    "Others than root may read a secret.",
    "chown 0:0 {at} && chmod 0600 {at}",
)
SECRET_UNUSABLE = Rule(
    "secret-unusable",
    ERROR,
    "A secret is empty, too long, or not text.",
    "Write it anew: install -m 0600 /dev/stdin {at}",
)
SECRET_ABSENT = Rule(
    "secret-absent",
    ERROR,
    "The configuration needs a secret that is not in the image.",
    "install -m 0600 /dev/stdin {at}",
)
SECRET_IN_UNIT = Rule(
    "secret-in-unit",
    ERROR,
    "A unit file has a secret in it, and everybody may read unit files.",
    "Move it to /etc/credstore/{name} in the image, mode 0600, and load it: LoadCredential={name}",
)
SECRET_SEALED = Rule(
    "secret-sealed",
    ERROR,
    "A credential is encrypted for the machine that made it: no other device can open it.",
    "Put its plain text into /etc/credstore/{name} in the image, mode 0600, and: rm {at}",
)
PRIVATE_KEY = Rule(
    "private-key",
    ERROR,
    "A private key is in the image: every device, and whoever has the image, would have it.",
    "rm {at}",
)
OTHERS_MAY_WRITE = Rule(
    "others-may-write",
    ERROR,
    "Others than root may change what decides whom this device trusts.",
    "chown 0:0 {at} && chmod go-w {at}",
)
PASSWORD_EMPTY = Rule(
    "password-empty",
    WARNING,
    "An account has an empty password: anybody may log in.",
    "passwd --root {root} --lock {user}",
)
LAB_CA = Rule(
    "lab-ca",
    WARNING,
    "Every device holds the key of the CA that certifies it: fit for a lab only.",
    "Use [ldevid.est] instead of [ldevid.ca] in {at}",
)


class Secret(NamedTuple):
    """By its name as a credential, and the file that the configuration names instead."""

    name: str
    file: str | None


def needed(conf: Config) -> Iterator[Secret]:
    est, operational = conf.ldevid and conf.ldevid.est, conf.operational
    if conf.proxy and conf.proxy.username:
        yield Secret("proxy-password", str(conf.proxy.password_file or "") or None)
    if conf.dps.attestation == "tpm":
        return
    if est and est.auth == "basic":
        yield Secret("est-password", str(est.password_file or "") or None)
    if est and est.auth == "secret":
        yield Secret("est-secret", str(est.secret_file or "") or None)
    if operational and operational.issued_by == "est" and operational.auth == "basic":
        yield Secret("operational-password", str(operational.password_file or "") or None)


def wanted(image: Image, conf: Config | None) -> Iterator[Finding]:
    """Those that the configuration asks for: there, and of use."""
    for secret in needed(conf) if conf else ():
        path = _credential(image, secret.name) or secret.file
        if path is None or not image.exists(path):
            at = path or f"{STORES[0]}/{secret.name}"
            why = f"the configuration needs the secret '{secret.name}', and there is none"
            yield SECRET_ABSENT.at(image, at, why)
        elif what := _unusable(image, path):
            yield SECRET_UNUSABLE.at(image, path, what)


def _credential(image: Image, name: str) -> str | None:
    """Where the unit's LoadCredential= finds it: a path, or the first store that has it."""
    for value, _ in unitfiles.settings(image, UNIT, "LoadCredential(?:Encrypted)?"):
        loaded, _, source = value.partition(":")
        if loaded == name and source.startswith("/"):
            return source
        if loaded == name:
            paths = (f"{store}/{source or name}" for store in STORES)
            return next((path for path in paths if image.exists(path)), None)
    return None


def _unusable(image: Image, path: str) -> str | None:
    image.data(path, 1)  # or Unseen
    try:
        credentials.text_of(image.real(path), private=False)
    except ValueError as e:
        return str(e)
    return None


def private(image: Image, conf: Config | None) -> Iterator[Finding]:
    """Files of secrets are root's alone."""
    named = [secret.file for secret in needed(conf) if secret.file] if conf else []
    stored = [path for store in STORES for path, _ in image.below(store) if not _public(path)]
    loaded = [value.partition(":")[2] for value, _ in _loaded(image)]
    for path in dict.fromkeys([*stored, *named, *(p for p in loaded if p.startswith("/"))]):
        found = image.stat(path)
        if found is None or not stat.S_ISREG(found.st_mode):
            continue
        if found.st_mode & 0o077 or found.st_uid != image.owner:
            how = f"mode {stat.S_IMODE(found.st_mode):04o}, user id {found.st_uid}"
            yield SECRET_READABLE.at(image, path, f"others than root may read it: {how}")


def _public(path: str) -> bool:
    """What systemd itself takes from there and is no secret: locale, time zone, sysctl, ..."""
    return path.rpartition("/")[2].startswith(("firstboot.", "sysctl.", "tmpfiles.", "vconsole."))


def _loaded(image: Image) -> list[tuple[str, str]]:
    return unitfiles.settings(image, UNIT, "LoadCredential")


def in_unit(image: Image, _: Config | None) -> Iterator[Finding]:
    for value, path in unitfiles.settings(image, UNIT, "SetCredential"):
        name = value.partition(":")[0]
        why = f"it holds the secret '{name}', and everybody may read it"
        yield SECRET_IN_UNIT.at(image, path, why, name=name)


def sealed(image: Image, _: Config | None) -> Iterator[Finding]:
    """What systemd-creds encrypts is bound to this machine's key, its TPM, or to nothing."""
    for store in SEALED:
        for name in image.names(store):
            why = "it is encrypted for the machine that made it: no other device can open it"
            yield SECRET_SEALED.at(image, f"{store}/{name}", why, name=name)


def private_keys(image: Image, conf: Config | None) -> Iterator[Finding]:
    known = str(conf.ldevid.ca.key) if conf and conf.ldevid and conf.ldevid.ca else None
    for path in _may_be_keys(image):
        host_key = path.startswith("/etc/ssh/ssh_host_")  # has a rule of its own
        if not host_key and path != known and _is_key(image, path):
            yield PRIVATE_KEY.at(image, path, "a private key, the same on all devices")


def _may_be_keys(image: Image) -> Iterator[str]:
    for path, found in (each for top in KEYS_BELOW for each in image.below(top)):
        if stat.S_ISREG(found.st_mode):
            yield path
    for path in (path for pattern in KEYS_IN for path in image.matching(pattern)):
        own = image.stat(path, link=True)
        if own and stat.S_ISREG(own.st_mode):
            yield path


def _is_key(image: Image, path: str) -> bool:
    try:
        return bool(PEM_KEY.search(image.data(path, HEAD) or b""))
    except Unseen as e:
        image.missed.append(e)
        return False


def lab_ca(image: Image, conf: Config | None) -> Iterator[Finding]:
    ca = conf and conf.ldevid and conf.ldevid.ca
    if not ca:
        return
    found = image.stat(str(ca.key))
    why = "every device holds the key of the CA that certifies it"
    yield LAB_CA.at(image, str(ca.key), why)
    if found is None:
        yield SECRET_ABSENT.at(image, str(ca.key), "there is no such key")
    elif found.st_mode & 0o077 or found.st_uid != image.owner:
        yield SECRET_READABLE.at(image, str(ca.key), "others than root may read this key")


def writable(image: Image, _: Config | None) -> Iterator[Finding]:
    for top in DECIDES_TRUST:
        own = image.stat(top)
        for path, found in [*([(top, own)] if own else []), *image.below(top)]:
            if stat.S_ISLNK(found.st_mode):
                continue
            if found.st_mode & 0o022 or found.st_uid != image.owner:
                how = f"mode {stat.S_IMODE(found.st_mode):04o}, user id {found.st_uid}"
                yield OTHERS_MAY_WRITE.at(image, path, f"others may change it: {how}")


def passwords(image: Image, _: Config | None) -> Iterator[Finding]:
    for line in (image.text("/etc/shadow") or "").splitlines():
        user, colon, rest = line.partition(":")
        if user and colon and rest.startswith(":"):
            why = f"the account '{user}' has an empty password"
            yield PASSWORD_EMPTY.at(image, "/etc/shadow", why, user=user)


CHECKS = (wanted, private, in_unit, sealed, private_keys, lab_ca, writable, passwords)
