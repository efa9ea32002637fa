"""Devices whose clock is not that of the world, and what becomes of them.

The servers of a town live two years after this software was released, so that a clock can be behind
theirs without being behind everything that the device holds. A scene is a device in a state, and
what is run on it; a point is a scene at some time, and whatever else is odd.
"""

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import tomlkit

from agent.state import State, read_json
from agent.steps import assigned
from agent.steps.assigned import Assignment
from tests.lab import pki, snapshot
from tests.lab.clock import Clock
from tests.lab.device import Device, Wish
from tests.lab.factory import Board
from tests.lab.ready import Ready
from tests.lab.relay import Relay, Said
from tests.lab.world import USER, World

DAY = timedelta(days=1)
YEAR = 365 * DAY
AHEAD = 2 * YEAR
CODE = re.compile(r"\[([a-z0-9-]+)\]\n?Remedy: ")
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
LATER_BOOT = Scene("later boot, X.509", by_x509, first=False)
SEND = ("telemetry", "--count", "1", "--patience", "1s")
TELEMETRY = Scene("telemetry, X.509", by_x509, SEND, first=False)
TELEMETRY_TPM = Scene("telemetry, TPM", by_tpm, SEND, first=False)
AGAIN_TPM = Scene("registering anew, TPM", by_tpm, ("provision", "--reregister"), first=False)


# --- what else is odd ---

Odd = Callable[[Town, Adrift], AbstractContextManager[None]]


def nothing(town: Town, device: Adrift) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


def before_est(
    date: Said = lambda said: said,
    *,
    starts: timedelta = -30 * DAY,
    lasts: timedelta = YEAR,
    heard: timedelta | None = None,
) -> Odd:
    """In front of the EST server, with a certificate of its own. `heard`: how far the clock of the
    device jumps in the midst of the first handshake."""

    @contextmanager
    def odd(town: Town, device: Adrift) -> Iterator[None]:
        site = town.world.owner_est
        tls = town.tls(starts, lasts)
        with Relay(tls, site.port, town.world.tls.trust, date) as relay:
            if heard is not None:
                relay.heard = once(lambda: town.clock.jump(heard))
            url = f"{relay.url}/.well-known/est/basic"
            device.configure({"ldevid": {"est": {"url": url, "username": USER}}})
            try:
                yield
            finally:
                device.configure({})

    return odd


def before_dps(
    date: Said = lambda said: said,
    *,
    starts: timedelta = -30 * DAY,
    lasts: timedelta = YEAR,
    asked: tuple[str, timedelta] | None = None,
) -> Odd:
    """In front of DPS, the same. `asked`: how far the clock jumps before the first request with
    such a word in its path."""

    @contextmanager
    def odd(town: Town, device: Adrift) -> Iterator[None]:
        dps = town.world.dps
        with Relay(town.tls(starts, lasts), dps.port, town.world.tls.trust, date) as relay:
            if asked is not None:
                jump = once(lambda: town.clock.jump(asked[1]))
                relay.asked = lambda path: jump() if asked[0] in path else None
                dps.behave(polls=2, retry_after=0)
            device.configure({"dps": {"endpoint": relay.url}})
            try:
                yield
            finally:
                device.configure({})
                dps.behave(**WELL)

    return odd


def once(act: Callable[[], object]) -> Callable[[], None]:
    left = [act]

    def do() -> None:
        if left:
            left.pop()()

    return do


# --- a point ---


@dataclass(frozen=True)
class Point:
    """`at`: what the clock of the device says, given what time it is. `code`: why it does not come
    to its end, or "provisioned". `spends`: certificates that are issued meanwhile; each is used
    when the clock is right. `before`: done with the device when its clock is right, still."""

    name: str
    scene: Scene
    at: Callable[[datetime], datetime]
    code: str
    odd: Odd = nothing
    spends: int = 0
    before: Odd = nothing


@dataclass(frozen=True)
class Outcome:
    point: Point
    status: int
    code: str
    wrong: tuple[str, ...]


WELL_CODE = "well"


def tried(town: Town, point: Point) -> Outcome:
    """What came of it, and what is wrong with that."""
    town.set(town.right)
    with point.scene.device(town) as device:
        with point.before(town, device):
            pass
        spent = Spent.of(town, device)
        town.set(point.at(town.right))
        with point.odd(town, device):
            done = town.ready(device, *point.scene.command)
        code = verdict(done.returncode, done.stdout + done.stderr)
        wrong = [] if code == point.code else [f"{code}, not {point.code}: {done.stderr[-600:]}"]
        if code != WELL_CODE:
            wrong += spent.more(Spent.of(town, device), point.spends)
        wrong += list(_healed(town, device, point, spent))
        return Outcome(point, done.returncode, code, tuple(wrong))


def verdict(status: int, said: str) -> str:
    if "Traceback" in said:
        return "traceback"
    if status == 0:
        return WELL_CODE
    found = CODE.findall(said)
    return found[-1] if found else f"exit status {status}"


def _healed(town: Town, device: Adrift, point: Point, spent: "Spent") -> Iterator[str]:
    """In one run, once the clock is right; and what was issued meanwhile is in use then."""
    town.set(town.right)
    done = town.ready(device, *point.scene.command)
    if done.returncode:
        yield f"then, with the right clock: {done.returncode}: {done.stderr[-600:]}"
    issued = Spent.of(town, device).issued - spent.issued
    if issued > max(point.scene.issues, point.spends):
        yield f"then {issued} certificates had been issued"
    found = snapshot.take(device.tcti)
    if found.loaded or found.flags["LOCKOUT_COUNTER"]:
        yield f"then, in the TPM: {found.loaded}, {found.flags}"


@dataclass(frozen=True)
class Spent:
    """What a wrong clock must not cost."""

    issued: int
    failures: int
    backoff: int
    interventions: int
    held: tuple[bytes | None, Assignment | None]

    @staticmethod
    def of(town: Town, device: Adrift) -> "Spent":
        state, site = State(device.state), town.world.owner_est
        turn, health = read_json(state.turn) or {}, read_json(state.health) or {}
        own = state.ldevid_cert
        return Spent(
            len(town.world.issued(site)),
            int(turn.get("failures", 0)),
            int((health.get("backoff") or {}).get("failures", 0)),
            len((health.get("cases") or {}).get("spent") or ()),
            (own.read_bytes() if own.exists() else None, assigned.load(state).proven),
        )

    def more(self, after: "Spent", allowed: int) -> Iterator[str]:
        if after.issued - self.issued > allowed:
            yield f"{after.issued - self.issued} certificates were issued"
        for name in ("failures", "backoff", "interventions"):
            if getattr(after, name) > getattr(self, name):
                yield f"{name}: {getattr(after, name)}, and {getattr(self, name)} before"
        for was, now in zip(self.held, after.held, strict=True):
            if was is not None and was != now:
                yield "what the device held has changed"


def all_of(town: Town, points: list[Point]) -> Iterator[Outcome]:
    for point in points:
        with ExitStack():
            yield tried(town, point)
