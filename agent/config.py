"""The configuration: declared once, as frozen dataclasses, with defaults for a stock device."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal

from agent import schema
from agent.config_files import files, of_files
from agent.urls import HOST, https_problem, proxy_problem

ETC = Path("/etc/tpm2cloud")
VAR = Path("/var/lib/tpm2cloud")
SYSTEM_CAS = Path("/etc/ssl/certs/ca-certificates.crt")  # ca-certificates
Problems = Iterator[tuple[str, str]]
PERCENT = re.compile("[1-9][0-9]?%")
NEVER = "never"  # instead of a percentage: it is not renewed
API_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(-preview)?")
TOKEN_LEAST = timedelta(seconds=121)  # azure-iot-device wants a new one 120 s before the end
TOKEN_MOST = timedelta(days=365)
HIERARCHIES = ("owner", "endorsement", "lockout")
PCR = "(?:1?[0-9]|2[0-3])"
PCRS = re.compile(f"sha(?:1|256|384|512):{PCR}(?:,{PCR})*")
LATEST = 0.95  # of a lifetime: what is left is for trying again


def share(percent: str) -> float:
    return int(percent.removesuffix("%")) / 100


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
    target: Literal["edge", "device"] = "edge"


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
class Authorization:
    """What passwords the TPM's hierarchies get, and where they are kept."""

    owner: Literal["leave", "random"] = "leave"
    endorsement: Literal["leave", "random"] = "leave"
    lockout: Literal["leave", "random"] = "leave"
    keep: Literal["sealed", "credential"] = "sealed"
    pcrs: str = "sha256:7"
    escrow: Path | None = None

    @property
    def random(self) -> tuple[str, ...]:
        """The hierarchies that get one."""
        return tuple(name for name in HIERARCHIES if getattr(self, name) == "random")

    def problems(self) -> Problems:
        if self.random and self.escrow is None:
            yield "escrow", f"required, for {self.random[0]} = 'random': without it all may be lost"
        if self.keep == "credential" and self.pcrs != Authorization.pcrs:
            yield "pcrs", "has no meaning with keep = 'credential'"
        registers = self.pcrs.partition(":")[2].split(",")
        if not PCRS.fullmatch(self.pcrs) or len(set(registers)) < len(registers):
            yield "pcrs", f"must be like 'sha256:0,2,7', registers 0 to 23, not {self.pcrs!r}"


@dataclass(frozen=True, kw_only=True)
class Tpm(Chip):
    key: Literal["ecc256", "rsa2048"] = "ecc256"
    authorization: Authorization = field(default_factory=Authorization)


@dataclass(frozen=True, kw_only=True)
class Idevid:
    require: bool = True
    trust: Path = ETC / "idevid-ca.pem"
    certificate: Path = VAR / "idevid.pem"
    approvals: Path = ETC / "boot-states.d"


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
        if self.renew_at == NEVER:
            del shares["renew_at"]
        wrong = [name for name, text in shares.items() if not PERCENT.fullmatch(text)]
        for name in wrong:
            yield name, f"must be '1%' to '99%' of the lifetime, not {shares[name]!r}"
        if wrong or self.renew_at == NEVER:
            return
        if share(self.renew_at) + share(self.spread) > LATEST:
            yield "spread", f"with renew_at it comes to more than {LATEST:.0%} of the lifetime"


@dataclass(frozen=True, kw_only=True)
class Pkcs11:
    store: Path = VAR / "pkcs11"
    token: str = "edge"  # noqa: S105  (a label)
    owner: str | None = None
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
        if not PERCENT.fullmatch(self.renew_at) and self.renew_at != NEVER:
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
class Receipt:
    """What is written down of what was done, signed by the TPM (agent/receipt)."""

    ek: bool = True
    pcrs: str = "sha256:0,1,2,3,4,5,6,7"

    def problems(self) -> Problems:
        if not PCRS.fullmatch(self.pcrs):
            yield "pcrs", f"must be like 'sha256:0,2,7', registers 0 to 23, not {self.pcrs!r}"


@dataclass(frozen=True, kw_only=True)
class Dps:
    id_scope: str
    endpoint: str = "https://global.azure-devices-provisioning.net"
    attestation: Literal["x509", "tpm"] = "x509"
    enrolment: Literal["group", "individual"] | None = None
    api_version: str = "2021-06-01"
    trust: Path = SYSTEM_CAS
    payload: Path | None = None
    fleet: int = 1000

    def problems(self) -> Problems:
        if what := https_problem(self.endpoint):
            yield "endpoint", what
        if not self.id_scope.strip():
            yield "id_scope", "must not be empty"
        if not API_VERSION.fullmatch(self.api_version):
            yield "api_version", f"must be like '2021-06-01', not {self.api_version!r}"
        if self.attestation == "tpm" and self.enrolment == "group":
            yield "enrolment", "must be 'individual', for attestation = 'tpm': DPS has no groups"
        if self.fleet < 1:
            yield "fleet", "must be at least 1: how many devices register with this service"


@dataclass(frozen=True, kw_only=True)
class Hub:
    """How a device without IoT Edge talks to its IoT Hub."""

    transport: Literal["mqtt", "websockets"] = "mqtt"
    token_lifetime: timedelta = timedelta(hours=1)

    def problems(self) -> Problems:
        if not TOKEN_LEAST <= self.token_lifetime <= TOKEN_MOST:
            yield "token_lifetime", "must be from 121 seconds to 365 days"


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """The HTTP proxy to all servers; its password is the credential proxy-password."""

    url: str
    username: str | None = None
    password_file: Path | None = None

    def problems(self) -> Problems:
        if what := proxy_problem(self.url):
            yield "url", what
        if self.password_file and not self.username:
            yield "password_file", "has no meaning without username"
        if self.username and ":" in self.username:
            yield "username", "must not contain a ':' (RFC 7617)"


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
    receipt: Receipt = field(default_factory=Receipt)
    hub: Hub | None = None
    proxy: Proxy | None = None

    @property
    def for_edge(self) -> bool:
        """IoT Edge is on board, and talks to Azure; otherwise we do."""
        return self.device.target == "edge"

    @property
    def token_owner(self) -> str:
        """The user whose the PKCS#11 token is: that of IoT Edge's key service."""
        return self.pkcs11.owner or ("aziotks" if self.for_edge else "root")

    def problems(self) -> Problems:
        yield from self._of_x509() if self.dps.attestation == "x509" else ()
        yield from self._of_edge() if self.for_edge else self._of_device()
        yield from self._of_individual()
        yield from self._of_receipt()
        est = self.ldevid and self.ldevid.est
        if est and est.auth == "mtls" and not self.idevid.require:
            yield "idevid.require", "must be true, for ldevid.est.auth = 'mtls'"
        by_est = self.operational is not None and self.operational.issued_by == "est"
        if self.edge_ca and self.edge_ca.issued_by == "est" and not by_est:
            yield "edge_ca.issued_by", "'est' needs operational.issued_by = 'est'"

    def _of_receipt(self) -> Problems:
        if not self.receipt.ek and ("{ek}" in self.device.id or "{ek-sha256}" in self.device.id):
            yield "receipt.ek", "must be true where device.id is made of the EK: a receipt has both"

    def _of_x509(self) -> Problems:
        if self.ldevid is None:
            yield "ldevid", "required, for dps.attestation = 'x509'"
        if self.operational is None and self.for_edge:
            yield "operational", "required, for dps.attestation = 'x509'"

    def _of_edge(self) -> Problems:
        if self.hub is not None:
            yield "hub", "has no meaning with device.target = 'edge': IoT Edge talks to the hub"
        for name in ("api_version", "trust", "payload", "fleet"):
            if getattr(self.dps, name) != getattr(Dps, name):
                yield f"dps.{name}", "has no meaning with device.target = 'edge': IoT Edge asks DPS"

    def _of_device(self) -> Problems:
        by_tpm = self.dps.attestation == "tpm"
        if self.hub and not by_tpm and self.hub.token_lifetime != Hub.token_lifetime:
            yield "hub.token_lifetime", "has no meaning with dps.attestation = 'x509'"
        if self.operational is not None and self.operational.issued_by != "static":
            yield (
                "operational.issued_by",
                "must be 'static', for device.target = 'device': DPS sees the LDevID",
            )
        if self.edge_ca is not None:
            yield "edge_ca", "has no meaning with device.target = 'device'"

    def _of_individual(self) -> Problems:
        """DPS then knows the one certificate, and would turn away the one that comes after it."""
        if self.dps.attestation != "x509" or self.dps.enrolment != "individual":
            return
        by_est = self.operational is not None and self.operational.issued_by == "est"
        section: Ldevid | Operational | None = self.operational if by_est else self.ldevid
        if section is not None and section.renew_at != NEVER:
            yield (
                f"{'operational' if by_est else 'ldevid'}.renew_at",
                "must be 'never', for dps.enrolment = 'individual': DPS knows this certificate "
                "only, and refuses a renewed one; enrol a group to have it renewed",
            )


def load(path: Path) -> Config:
    """Read and check everything; raises ConfigError with every problem found."""
    return read(path)[0]


def read(path: Path) -> tuple[Config, schema.Tree]:
    return of_files(Config, files(path))
