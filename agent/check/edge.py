"""IoT Edge, once it is configured: what its identity service says, its services, its host name."""

import os
import re
import socket
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from agent import aziot_identity, store
from agent.aziot_identity import Unknown
from agent.check.probe import Probe
from agent.config import Config
from agent.errors import (
    AttestationFailed,
    AziotConfigInvalid,
    HostnameUnfit,
    IotedgeDown,
    NoPermission,
    NotProvisioned,
    SystemctlFailed,
)
from agent.health import certd, services
from agent.state import State
from agent.steps import aziot, registration

LONGEST = 63  # of a label (RFC 1035, 2.3.4), which a name without a domain is
NAME = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
NOBODY = {"localhost", "localhost.localdomain"}
Who = Callable[[], str]


def probes(conf: Config, state: State, who: Who, *, asked: bool) -> Iterator[Probe]:
    """`asked`: the identity service was, and is who we say."""
    if not asked:
        yield Probe("identity-service", partial(_identity, conf, state, who), ("device-id",))
    yield Probe("iotedge-services", _services)
    yield Probe("hostname", partial(_hostname, conf, state))


def file(conf: Config) -> Probe:
    """That IoT Edge's own file can be read, before something is written into it."""
    return Probe("aziot-config-file", partial(_file, conf))


def _file(conf: Config) -> str:
    return f"{aziot.file(conf)}, {len(_settings(conf))} tables and settings"


def _settings(conf: Config) -> dict[str, Any]:
    path = aziot.file(conf)
    try:
        return tomllib.loads((store.read(path) or b"").decode())
    except ValueError as e:
        raise AziotConfigInvalid(f"cannot read '{path}': it is no TOML: {e}", path=path) from e


def _identity(conf: Config, state: State, who: Who) -> str:
    """Asked only where it should know: before that, that it does not is no fault of its own."""
    if not registration.provisioned(state):
        return "not asked: it was not provisioned yet"
    path = conf.aziot.identity_socket
    if store.exists(path) and not os.access(path, os.R_OK | os.W_OK):
        raise NoPermission(f"cannot ask '{path}': permission denied", path=path)
    found = aziot_identity.provisioning(path)
    if isinstance(found, Unknown):
        by_tpm = conf.dps.attestation == "tpm"
        kind = AttestationFailed if by_tpm else NotProvisioned
        what = f"cannot confirm that '{who()}' is provisioned"
        raise kind(f"{what}: {found}", registration_id=who())
    return f"device '{found.device_id}' at hub '{found.hub}'"


def _services() -> str:
    try:
        units = services.states(certd.UNITS)
    except SystemctlFailed as e:
        return f"not told: {e}"
    for name, unit in units.items():
        if unit.fails:
            raise IotedgeDown(f"cannot count on IoT Edge: {name} is {unit}", unit=name)
    return ", ".join(f"{name} {unit.active}" for name, unit in units.items()) or "none"


def _hostname(conf: Config, state: State) -> str:
    """What IoT Edge takes at its first configuration, unless its own file says something else."""
    given = _settings(conf).get("hostname")
    name = str(given or socket.gethostname())
    if registration.was_provisioned(state):
        return f"{name}, which IoT Edge has taken"
    if name in NOBODY or not NAME.fullmatch(name) or len(name.split(".")[0]) > LONGEST:
        raise HostnameUnfit(f"cannot configure IoT Edge with the host name '{name}'")
    return name
