"""The configuration: declared once, as frozen dataclasses, with defaults for a stock device."""

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from agent import schema
from agent.errors import ConfigError

ETC = Path("/etc/tpm2cloud")
VAR = Path("/var/lib/tpm2cloud")
T = TypeVar("T")
Problems = Iterator[tuple[str, str]]
HOST = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*(:[0-9]{1,5})?")
PERCENT = re.compile("[1-9][0-9]?%")
LATEST = 0.95  # of a lifetime: what is left is for trying again
HOST_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}|[0-9A-Fa-f:]+")  # RFC 1123, 2.1; IPv6


def share(percent: str) -> float:
    return int(percent.removesuffix("%")) / 100


def https_problem(url: str) -> str | None:
    """What is wrong with an https URL, or None."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as e:
        return f"is not a URL: {e}"
    if parts.scheme != "https" or not parts.hostname:
        return f"must be https://HOST..., not {url!r}"
    if not all(map(HOST_LABEL.fullmatch, parts.hostname.removesuffix(".").split("."))):
        return f"must name a host, not {parts.hostname!r}"
    if not url.isascii() or not url.isprintable() or " " in url:
        return "must be plain ASCII without blanks"
    if parts.username or parts.query or parts.fragment:
        return "must not contain a user, a query or a fragment"
    return None


def login_problems(url: str, auth: str, username: str | None) -> Problems:
    if what := https_problem(url):
        yield "url", what
    if auth == "basic" and not username:
        yield "username", "required, for auth = 'basic'"
    if auth != "basic" and username:
        yield "username", f"has no meaning with auth = {auth!r}"


@dataclass(frozen=True, kw_only=True)
class Device:
    id: str = "{serial}"
    moved: Literal["start-over", "stop"] = "start-over"
    target: Literal["edge"] = "edge"


@dataclass(frozen=True, kw_only=True)
class Chip:
    """The TPM, as it comes from its maker: what the factory is concerned with, too."""

    tcti: str = "device:/dev/tpmrm0"
    manufacturer_roots: tuple[Path, ...] = (
        Path("/usr/share/tpm2cloud/tpm-roots.d"),
        ETC / "tpm-roots.d",
    )
    crls: tuple[Path, ...] = ()
    fetch_from: tuple[str, ...] = ()
    wait: timedelta = timedelta(seconds=30)

    def problems(self) -> Problems:
        if not self.tcti:
            yield "tcti", "must not be empty: which TPM is used would be chance"
        for each in self.fetch_from:
            if not HOST.fullmatch(each):
                yield "fetch_from", f"must be HOST or HOST:PORT each, not {each!r}"


@dataclass(frozen=True, kw_only=True)
class Tpm(Chip):
    key: Literal["ecc256", "rsa2048"] = "ecc256"


@dataclass(frozen=True, kw_only=True)
class Idevid:
    require: bool = True
    trust: Path = ETC / "idevid-ca.pem"
    certificate: Path = VAR / "idevid.pem"


@dataclass(frozen=True, kw_only=True)
class LdevidEst:
    url: str
    trust: Path = ETC / "est-ca.pem"
    issuer: Path | None = None
    auth: Literal["mtls", "basic", "secret"] = "mtls"
    username: str | None = None
    password_file: Path | None = None
    secret_file: Path | None = None
    timeout: timedelta = timedelta(seconds=30)

    def problems(self) -> Problems:
        yield from login_problems(self.url, self.auth, self.username)


@dataclass(frozen=True, kw_only=True)
class LdevidCa:
    certificate: Path
    key: Path
    valid: timedelta = timedelta(days=365)


@dataclass(frozen=True, kw_only=True)
class Ldevid:
    est: LdevidEst | None = None
    ca: LdevidCa | None = None
    renew_at: str = "70%"
    spread: str = "10%"
    rekey: bool = False
    recover: tuple[Literal["login", "ek"], ...] = ("login",)

    def problems(self) -> Problems:
        if self.est is None and self.ca is None:
            yield "est", "required (or [ldevid.ca])"
        if self.est and self.ca:
            yield "ca", "give either [ldevid.est] or [ldevid.ca]"
        shares = {"renew_at": self.renew_at, "spread": self.spread}
        wrong = [name for name, text in shares.items() if not PERCENT.fullmatch(text)]
        for name in wrong:
            yield name, f"must be '1%' to '99%' of the lifetime, not {shares[name]!r}"
        if not wrong and share(self.renew_at) + share(self.spread) > LATEST:
            yield "spread", f"with renew_at it comes to more than {LATEST:.0%} of the lifetime"


@dataclass(frozen=True, kw_only=True)
class Pkcs11:
    store: Path = VAR / "pkcs11"
    token: str = "edge"  # noqa: S105  (a label)
    owner: str = "aziotks"
    library: Path | None = None

    def problems(self) -> Problems:
        if not 1 <= len(self.token.encode()) <= 31:
            yield "token", "must be 1 to 31 bytes long (more libtpm2_pkcs11 does not read)"


@dataclass(frozen=True, kw_only=True)
class Operational:
    issued_by: Literal["est", "static"] = "est"
    url: str | None = None
    trust: Path = ETC / "operational-ca.pem"
    auth: Literal["mtls", "basic"] = "mtls"
    username: str | None = None
    password_file: Path | None = None
    renew_at: str = "80%"
    rotate_key: bool = True

    def problems(self) -> Problems:
        if self.issued_by == "est":
            if self.url is None:
                yield "url", "required, for issued_by = 'est'"
            else:
                yield from login_problems(self.url, self.auth, self.username)
        if not PERCENT.fullmatch(self.renew_at):
            yield "renew_at", f"must be '1%' to '99%' of the lifetime, not {self.renew_at!r}"


@dataclass(frozen=True, kw_only=True)
class EdgeCa:
    """What certifies IoT Edge's modules: a CA from the operational EST server, or its own."""

    issued_by: Literal["est", "device"] = "device"
    days: int = 90

    def problems(self) -> Problems:
        if self.days < 1:
            yield "days", "must be at least 1"


@dataclass(frozen=True, kw_only=True)
class Health:
    """The companion, which keeps certificates healthy."""

    interventions: int = 3
    patience: timedelta = timedelta(hours=1)
    textfile: Path | None = None
    data_limit: int = 0

    def problems(self) -> Problems:
        if self.interventions < 0:
            yield "interventions", "must be 0 (none) or more"
        if self.data_limit < 0:
            yield "data_limit", "must be 0 (no limit) or more bytes"
        if self.textfile and self.textfile.suffix != ".prom":
            yield "textfile", "must end in .prom: Prometheus' node exporter reads no other"


@dataclass(frozen=True, kw_only=True)
class Dps:
    id_scope: str
    endpoint: str = "https://global.azure-devices-provisioning.net"
    attestation: Literal["x509", "tpm"] = "x509"

    def problems(self) -> Problems:
        if what := https_problem(self.endpoint):
            yield "endpoint", what
        if not self.id_scope.strip():
            yield "id_scope", "must not be empty"


@dataclass(frozen=True, kw_only=True)
class Aziot:
    directory: Path = Path("/etc/aziot")
    state: Path = Path("/var/lib/aziot")
    identity_socket: Path = Path("/run/aziot/identityd.sock")
    timeout: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Config:
    dps: Dps
    device: Device = field(default_factory=Device)
    tpm: Tpm = field(default_factory=Tpm)
    idevid: Idevid = field(default_factory=Idevid)
    ldevid: Ldevid | None = None
    pkcs11: Pkcs11 = field(default_factory=Pkcs11)
    operational: Operational | None = None
    edge_ca: EdgeCa | None = None
    aziot: Aziot = field(default_factory=Aziot)
    health: Health = field(default_factory=Health)

    def problems(self) -> Problems:
        if self.dps.attestation == "x509":
            if self.ldevid is None:
                yield "ldevid", "required, for dps.attestation = 'x509'"
            if self.operational is None:
                yield "operational", "required, for dps.attestation = 'x509'"
        est = self.ldevid and self.ldevid.est
        if est and est.auth == "mtls" and not self.idevid.require:
            yield "idevid.require", "must be true, for ldevid.est.auth = 'mtls'"
        by_est = self.operational is not None and self.operational.issued_by == "est"
        if self.edge_ca and self.edge_ca.issued_by == "est" and not by_est:
            yield "edge_ca.issued_by", "'est' needs operational.issued_by = 'est'"


def files(path: Path, drop_ins: str = "config.d") -> list[Path]:
    """The file itself, then its drop-ins `config.d/*.toml` in the order of their names. Raises
    ConfigError: glob() would pass over a directory that may not be read."""
    try:
        found = sorted((path.parent / drop_ins).iterdir())
    except FileNotFoundError:
        found = []
    except OSError as e:
        raise ConfigError(f"cannot read '{e.filename}': {e.strerror}") from e
    return [path, *(each for each in found if each.suffix == ".toml")]


def load(path: Path) -> Config:
    """Read and check everything; raises ConfigError with every problem found."""
    return read(path)[0]


def read(path: Path) -> tuple[Config, schema.Tree]:
    return of_files(Config, files(path))


def of_files(
    cls: type[T], paths: Sequence[Path], error: type[ConfigError] = ConfigError
) -> tuple[T, schema.Tree]:
    """What these files say, later ones over earlier ones, as a `cls`; and which of them says what.
    Raises `error`."""
    found = schema.Found(paths[0])
    tree = schema.read(paths, found)
    config = None if found.problems else schema.build(cls, tree, found)
    if found.problems or config is None:
        raise error("cannot use the configuration:\n  " + "\n  ".join(found.problems))
    return config, tree


def effective(config: Any, tree: schema.Tree) -> Iterator[tuple[str, Any, str]]:
    """Each setting as it counts: path, value, and the file it comes from or 'default'."""
    origins = {at: str(leaf.origin) for at, leaf in schema.leaves(tree)}
    for at, value in _walk(config, ""):
        yield at, value, origins.get(at, "default")


def written(value: Any) -> str:
    """A setting as it could stand in the file."""
    if isinstance(value, timedelta):
        value = f"{value.total_seconds():g}s"
    if isinstance(value, tuple):
        return f"[{', '.join(map(written, value))}]"
    return json.dumps(value if isinstance(value, bool | int) else str(value), ensure_ascii=False)


def _walk(section: Any, at: str) -> Iterator[tuple[str, Any]]:
    for each in dataclasses.fields(section):
        value = getattr(section, each.name)
        if dataclasses.is_dataclass(value):
            yield from _walk(value, f"{at}{each.name}.")
        elif value is not None:
            yield at + each.name, value
