"""The configuration of the operator's tool, operator.toml: declared once, as frozen dataclasses."""

import re
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal

from agent import schema
from agent.config import SYSTEM_CAS, Problems
from agent.config_files import of_files
from agent.errors import OperatorConfigError
from agent.urls import https_problem

FILE = Path("operator.toml")
TAG = "tpm2cloud"  # on what deploy made, with the name of the enrolment group: destroy looks for it
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
GROUP = re.compile(r"[\w.()-]{0,89}[\w()-]")  # of Microsoft.Resources, naming rules
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{1,48}[A-Za-z0-9]")  # a hub's; of a DPS up to 64
SHA256 = re.compile(r"[0-9a-f]{64}")
ENROLMENT = re.compile(r"[A-Za-z0-9._:-]{0,127}[A-Za-z0-9-]")  # DPS: an enrolment group's id


@dataclass(frozen=True, kw_only=True)
class Azure:
    """Whose, and where."""

    subscription: str
    resource_group: str
    location: str

    def problems(self) -> Problems:
        if not UUID.fullmatch(self.subscription):
            yield "subscription", f"must be a UUID (az account show), not {self.subscription!r}"
        if not GROUP.fullmatch(self.resource_group):
            yield (
                "resource_group",
                "must be 1 to 90 letters, digits and ._()-, with no . at its end",
            )
        if not re.fullmatch("[a-z0-9]+", self.location):
            yield "location", f"must be like 'westeurope', not {self.location!r}"


@dataclass(frozen=True, kw_only=True)
class Hub:
    """The IoT hub."""

    name: str
    sku: Literal["F1", "B1", "B2", "B3", "S1", "S2", "S3"] = "S1"
    units: int = 1

    def problems(self) -> Problems:
        yield from _named(self.name)
        yield from _counted(self.units)
        if self.sku == "F1" and self.units != 1:
            yield "units", "must be 1 for F1"

    @property
    def partitions(self) -> int:
        """Of its messages; never changed afterwards. The free one has no more."""
        return 2 if self.sku == "F1" else 4


@dataclass(frozen=True, kw_only=True)
class Dps:
    """The device provisioning service. `login`: how its enrolments are written: with a key of its
    own, which Resource Manager gives to who may read keys, or as the one who is logged in."""

    name: str
    units: int = 1
    login: Literal["key", "entra"] = "key"

    def problems(self) -> Problems:
        yield from _named(self.name)
        yield from _counted(self.units)


def _named(name: str) -> Problems:
    if not NAME.fullmatch(name):
        yield "name", f"must be 3 to 50 letters, digits and -, not {name!r}"


def _counted(units: int) -> Problems:
    if not 1 <= units <= 200:
        yield "units", "must be 1 to 200"


@dataclass(frozen=True, kw_only=True)
class Est:
    """The EST server of the operational CA. `trust`: who vouches for it, which is never taken from
    the server itself. `issuing`: SHA-256 fingerprints of the certificates that are meant; without,
    those that issue are found out."""

    url: str
    trust: Path
    issuing: tuple[str, ...] = ()
    timeout: timedelta = timedelta(seconds=30)

    def problems(self) -> Problems:
        if what := https_problem(self.url):
            yield "url", what
        if not all(SHA256.fullmatch(each) for each in self.fingerprints):
            yield "issuing", "must be SHA-256 fingerprints, 64 hex digits each"
        if len(self.issuing) > 2:
            yield "issuing", "must be two at most: an enrolment group takes no more"

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """However they were written: openssl puts colons between."""
        return tuple(each.replace(":", "").lower() for each in self.issuing)


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """What is written into DPS: a group for all who have a certificate of the operational CA, and
    individual enrolments (tpm2cloud-operator enrol)."""

    group: str = "tpm2cloud"
    edge: bool = True
    allocation: Literal["hashed", "geoLatency", "static"] = "hashed"
    reprovision: Literal["migrate", "reset", "never"] = "migrate"

    def problems(self) -> Problems:
        if not ENROLMENT.fullmatch(self.group):
            yield "group", "must be 1 to 128 of [A-Za-z0-9._:-], the last a letter, a digit or -"


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Which Azure: the public one, unless said otherwise. `poll`: how long between two questions
    whether long work is done, where the server does not say."""

    resource_manager: str = "https://management.azure.com"
    scope: str = "https://management.azure.com/.default"
    authority: str = "https://login.microsoftonline.com"
    dps_scope: str = "https://azure-devices-provisioning.net/.default"
    device_endpoint: str = "global.azure-devices-provisioning.net"
    trust: Path = SYSTEM_CAS
    poll: timedelta = timedelta(seconds=10)

    def problems(self) -> Problems:
        for name in ("resource_manager", "scope", "authority", "dps_scope"):
            if what := https_problem(getattr(self, name)):
                yield name, what
        if self.poll < timedelta(seconds=1):
            yield "poll", "must be at least 1s"


@dataclass(frozen=True, kw_only=True)
class Operator:
    azure: Azure
    hub: Hub
    dps: Dps
    est: Est | None = None
    enrolment: Enrolment = field(default_factory=Enrolment)
    cloud: Cloud = field(default_factory=Cloud)

    def problems(self) -> Problems:
        if self.enrolment.edge and self.hub.sku.startswith("B"):
            what = "must be S1, S2, S3 or F1 for devices with IoT Edge, or enrolment.edge false"
            yield "hub.sku", what

    @property
    def tags(self) -> dict[str, str]:
        return {TAG: self.enrolment.group}


def load(path: Path) -> Operator:
    """Read and check everything; raises OperatorConfigError with every problem found."""
    return read(path)[0]


def read(path: Path) -> tuple[Operator, schema.Tree]:
    return of_files(Operator, [path], OperatorConfigError)
