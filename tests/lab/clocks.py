"""Devices whose clock is not that of the world.

The servers of a town live two years after this software was released, so that a clock can be behind
theirs without being behind everything that the device holds. A scene is a device in a state, and
what is run on it; tests/lab/clock_points.py has what becomes of it.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import tomlkit

from tests.lab import pki
from tests.lab.clock import Clock
from tests.lab.device import Device, Wish
from tests.lab.factory import Board
from tests.lab.ready import Ready
from tests.lab.world import World

DAY = timedelta(days=1)
YEAR = 365 * DAY
AHEAD = 2 * YEAR
WELL: dict[str, Any] = {"polls": 0, "retry_after": 0}


class Adrift(Device):
    """It has a clock of its own, and all of its programs live by it."""

    def __init__(self, world: World, directory: Path, wish: Wish, own: Clock) -> None:
        self.own = own
        super().__init__(world, directory, wish)

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self.own.environment()}

    def _iotedge(self) -> None:
        super()._iotedge()
        file = self.bin / "iotedge-lab.toml"
        settings = tomlkit.parse(file.read_text())
        file.write_text(tomlkit.dumps({**settings, "clock_file": str(self.own.file)}))


@dataclass
class Town:
    """`served`: the time of all servers. `clock`: that of the devices. `shelf`: those that are
    provisioned, by scene."""

    directory: Path
    world: World
    served: Clock
    clock: Clock
    ready: Ready
    shelf: dict[str, "Shelf"] = field(default_factory=dict)
    made: int = 0

    @property
    def right(self) -> datetime:
        """What time it is."""
        return self.served.now()

    def set(self, at: datetime) -> None:
        """The clock of the devices."""
        self.clock.jump(at - self.clock.now())

    def fresh(self) -> Path:
        self.made += 1
        return self.directory / f"made-{self.made}"

    def tls(self, starts: timedelta, lasts: timedelta) -> pki.Tls:
        """Of a server on localhost that devices believe; `starts`: counted from what time it is."""
        offset = self.right - datetime.now(UTC) + starts
        return self.world.vouch.server(self.fresh(), starts=offset, lasts=lasts)


@contextmanager
def town(directory: Path, ahead: timedelta = AHEAD) -> Iterator[Town]:
    """`ahead`: of our own time."""
    served, clock = Clock(directory / "served"), Clock(directory / "clock")
    served.advance(ahead)
    with World(directory / "world", clock=served, renewing=True, hub=True) as world:
        world.dps.behave(**WELL)
        with Ready(clock) as ready:
            made = Town(directory, world, served, clock, ready)
            made.set(made.right)
            yield made
            for shelf in made.shelf.values():
                shelf.device.power_cut()


# --- scenes ---


@dataclass(frozen=True)
class Scene:
    """`first`: nothing was done on the device yet. `command`: what is run on it. `issues`: the
    certificates that a run gets which ends well."""

    name: str
    wish: Callable[[str], Wish]
    command: tuple[str, ...] = ("provision",)
    first: bool = True
    issues: int = 0

    @contextmanager
    def device(self, town: Town) -> Iterator[Adrift]:
        if not self.first:
            with shelf(town, self).taken() as device:
                yield device
            return
        with made(town, self.wish(f"clock-{town.made}")) as device:
            yield device


@contextmanager
def made(town: Town, wish: Wish) -> Iterator[Adrift]:
    with Adrift(town.world, town.fresh(), wish, town.clock) as device:
        yield device
    shutil.rmtree(device.directory)


class Shelf:
    """A device that was provisioned when all clocks were right; taken as often as one likes."""

    def __init__(self, town: Town, wish: Wish) -> None:
        town.set(town.right)
        self.town, self.device = town, Adrift(town.world, town.fresh(), wish, town.clock)
        with self.device:
            done = town.ready(self.device, "provision")
            assert done.returncode == 0, done.stderr
            if wish.target == "edge":
                self.device.run(["iotedge", "system", "stop"])
        self._kept = self.device.directory.with_name(f"{self.device.directory.name}-kept")
        leave = shutil.ignore_patterns("*.sock*", ".lock", "*.log")
        shutil.copytree(self.device.directory, self._kept, symlinks=True, ignore=leave)

    @contextmanager
    def taken(self) -> Iterator[Adrift]:
        shutil.rmtree(self.device.directory)
        shutil.copytree(self._kept, self.device.directory, symlinks=True)
        try:
            self.device.power_on()
            yield self.device
        finally:
            self.device.power_cut()


def shelf(town: Town, scene: Scene) -> Shelf:
    wish = scene.wish(f"kept-{scene.name.split()[-1]}")
    return (
        town.shelf.setdefault(wish.id, Shelf(town, wish))
        if wish.id not in town.shelf
        else (town.shelf[wish.id])
    )


def by_x509(name: str) -> Wish:
    return Wish(id=name, target="device", attestation="x509")


def by_password(name: str) -> Wish:
    return Wish(id=name, target="device", attestation="x509", auth="basic")


def by_tpm(name: str) -> Wish:
    return Wish(id=name, target="device", attestation="tpm", board=Board(virgin=True))


def edge(name: str) -> Wish:
    return Wish(id=name)


FIRST = Scene("first boot, X.509", by_x509, issues=1)
PASSWORD = Scene("first boot, EST by password", by_password, issues=1)
FIRST_TPM = Scene("first boot, TPM", by_tpm)
EDGE = Scene("first boot, IoT Edge", edge, issues=1)
HEALTH = Scene("companion, X.509", by_x509, ("health",), first=False)
RENEWAL = Scene("renewal, X.509", by_x509, ("health",), first=False, issues=1)
LATER_BOOT = Scene("later boot, X.509", by_x509, first=False)
SEND = ("telemetry", "--count", "1", "--patience", "1s")
TELEMETRY = Scene("telemetry, X.509", by_x509, SEND, first=False)
TELEMETRY_TPM = Scene("telemetry, TPM", by_tpm, SEND, first=False)
AGAIN_TPM = Scene("registering anew, TPM", by_tpm, ("provision", "--reregister"), first=False)
