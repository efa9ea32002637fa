"""IoT Edge's services: what systemd says of them, what they said themselves, and their restart.

`systemctl` and `journalctl` by $PATH. Words of the services are those of cert-renewal 1.6; a line
of theirs begins with a time and a level, which are passed over.
"""

import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from agent import aziot
from agent.aziot import words
from agent.errors import SystemctlFailed
from agent.health.certd import CERTD, EDGED, IDENTITYD

LARGEST = 1024 * 1024  # bytes of what is said; a service that crash-loops says as much in a day
PATIENCE = 120.0  # seconds; a unit may take TimeoutStopSec=40 to stop
SOCKETS = (
    "aziot-keyd.socket",
    "aziot-certd.socket",
    "aziot-identityd.socket",
    "aziot-tpmd.socket",
    "aziot-edged.mgmt.socket",
    "aziot-edged.workload.socket",
)
RENEWERS = (CERTD, IDENTITYD, EDGED)
PROPERTIES = "Id,LoadState,ActiveState,SubState,Result,NRestarts,InvocationID"

# What they say when they give up, and when it goes on (engine.rs). The first two of the former are
# followed by nothing ever more; the third by the end of the service, or by nothing, too.
_GAVE_UP = (
    re.compile(r"(Tried to renew (\S+), but .*\. \2 will no longer be auto-renewed)\."),
    re.compile(r"(Failed to write new cert (\S+): .*)\."),
    re.compile(r"(Failed to initialize cert renewal for (\S+): .*)\."),
)
_GOES_ON = re.compile(r"Certificate (\S+) (?:will be auto-renewed|was renewed)\.")
_GREP = "auto-renewed|was renewed|write new cert|cert renewal for"


@dataclass(frozen=True)
class Unit:
    """As systemd has it: `active` "active", "failed", ...; `sub` "running", "auto-restart", ...;
    `result` "success", "exit-code", ...; `restarts`: by systemd, because it failed, since somebody
    last started it; `invocation`: another one at each start."""

    name: str
    active: str
    sub: str
    result: str
    restarts: int
    invocation: str

    @property
    def fails(self) -> bool:
        """It is down, and should not be, or only waits for its next try."""
        return self.active == "failed" or self.sub == "auto-restart"

    def __str__(self) -> str:
        again = f", started anew {self.restarts} times" if self.restarts else ""
        return f"{self.active} ({self.sub}{again})"


def states(units: Sequence[str]) -> dict[str, Unit]:
    """Those of these services that are installed. Raises SystemctlFailed."""
    found = _show([f"{each}.service" for each in units])
    return {each.name: each for each in map(_unit, found)}


def _show(units: Sequence[str], secrets: Collection[str] = ()) -> list[dict[str, str]]:
    """What there is to be said of those that are installed."""
    blocks = _systemctl("show", f"--property={PROPERTIES}", *units, secrets=secrets)
    said = [
        dict(line.partition("=")[::2] for line in block.splitlines())
        for block in blocks.strip().split("\n\n")
    ]
    return [each for each in said if each.get("LoadState") == "loaded"]


def _unit(said: Mapping[str, str]) -> Unit:
    restarts = said.get("NRestarts", "")
    return Unit(
        said.get("Id", "").removesuffix(".service"),
        said.get("ActiveState", ""),
        said.get("SubState", ""),
        said.get("Result", ""),
        int(restarts) if re.fullmatch("[0-9]{1,9}", restarts) else 0,
        said.get("InvocationID", ""),
    )


def running(units: Sequence[str]) -> list[str]:
    """Those of these units, named whole, that are installed and not down. Raises
    SystemctlFailed."""
    down = ("inactive", "failed")
    return [each["Id"] for each in _show(units) if each.get("ActiveState") not in down]


def stop(units: Sequence[str]) -> None:
    """By their whole names. Raises SystemctlFailed."""
    _systemctl("stop", *units)


def restart(*units: str, secrets: Collection[str] = ()) -> None:
    """`secrets`: here and below, not to be quoted. Raises SystemctlFailed."""
    _systemctl("restart", *(f"{each}.service" for each in units), secrets=secrets)


def start(secrets: Collection[str] = ()) -> None:
    """All that `iotedge system stop` stopped: first the sockets, for aziot-identityd that finds
    aziot-certd away takes its certificate for lost, and deletes the key. Raises SystemctlFailed."""
    services = [f"{IDENTITYD}.service", f"{EDGED}.service"]
    here = {each.get("Id") for each in _show([*SOCKETS, *services], secrets)}
    for group in (SOCKETS, services):
        if units := [each for each in group if each in here]:
            _systemctl("start", *units, secrets=secrets)


def stopped_renewals(since: datetime, secrets: Collection[str] = ()) -> dict[str, str]:
    """The certificates, by certd's ids, of which their service said that it no longer renews them,
    in its words; what it said before `since`, or took back later, does not count. Raises
    SystemctlFailed."""
    units = [f"--unit={each}.service" for each in RENEWERS]
    at = f"--since=@{since.timestamp():.0f}"
    command = ["journalctl", "--no-pager", "--quiet", "--output=cat", f"--grep={_GREP}", at]
    given_up: dict[str, str] = {}
    for line in _said("journalctl", [*command, *units], secrets, nothing=1).splitlines():
        if goes_on := _GOES_ON.search(line):
            given_up.pop(goes_on[1], None)
        elif found := next(filter(None, (each.search(line) for each in _GAVE_UP)), None):
            given_up[found[2]] = words(found[1].encode(), secrets)
    return given_up


def _systemctl(verb: str, *arguments: str, secrets: Collection[str] = ()) -> str:
    return _said(f"systemctl {verb}", ["systemctl", "--no-pager", verb, *arguments], secrets)


def _said(doing: str, command: Sequence[str], secrets: Collection[str], *, nothing: int = 0) -> str:
    """What it says, the end of it. `nothing`: the status that means that there is nothing to
    say."""
    program = shutil.which(command[0])
    if program is None:
        raise SystemctlFailed(f"cannot run '{doing}': it is not on the PATH")
    try:
        status, output = aziot.run([program, *command[1:]], PATIENCE, LARGEST)
    except OSError as e:
        raise SystemctlFailed(f"cannot run '{doing}': {e.strerror}") from e
    if status is None:
        why = f"it did not finish within {PATIENCE:g} seconds"
        raise SystemctlFailed(f"cannot run '{doing}': {why}")
    if status not in (0, nothing) or (status and output):
        said = words(output, secrets) or f"it ended with status {status}"
        raise SystemctlFailed(f"cannot run '{doing}': '{said}'")
    return output.decode(errors="replace")
