"""A device that is registered at DPS, and sends; and what can be in its way when DPS is asked anew.

Whatever it is, the device is afterwards as it was before: with the assignment and the hub key that
it had, by which it goes on sending; and nothing is left in its TPM.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from agent.state import State
from agent.steps import assigned
from tests.lab import hostile, pki, snapshot
from tests.lab.clock import Clock
from tests.lab.device import Device, Wish
from tests.lab.factory import Board
from tests.lab.hub import REGISTRY, Hub
from tests.lab.provisioning import Dps
from tests.lab.ready import Ready
from tests.lab.tools import Tools
from tests.lab.world import World

WELL: dict[str, Any] = {"polls": 0, "retry_after": 0}
AGAIN, FIRST = ("provision", "--reregister"), ("provision",)
SHORT = 200  # characters of a sentence in the table
# What is another each time.
CHANCE = [
    (r"by-(tpm|x509)", "NAME"),
    (r"localhost:\d+", "localhost:PORT"),
    (r"http://127\.0\.0\.1:\d+|127\.0\.0\.1:\d+", "PROXY"),
    (r"127\.\d+\.\d+\.\d+", "HUB"),
    (r"trackingId [0-9a-f-]{36}", "trackingId ..."),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?", "DATE"),
    (r"'/[^' ]*/([^/' ]+)'", r"'.../\1'"),
    (r" /(?:[^/ ]+/)+([^/ ]+)", r" .../\1"),
    (r"operations/[0-9a-f.-]+", "operations/..."),
    (r"(temporary failure in name resolution|no address associated with hostname)",
     "name or service not known"),
]  # fmt: skip
SAID = re.compile(
    r"^(?P<step>[a-z-]+): (?P<why>.*) \[(?P<code>[a-z0-9-]+)\]\nRemedy: (?P<remedy>.*)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Outcome:
    """What a person sees of it."""

    status: int
    code: str
    step: str
    why: str
    remedy: str


@dataclass
class Town:
    """`others`: servers that are not those of the device; `ca` issues for servers, too, and the
    devices trust it. `clock` is that of the devices alone."""

    directory: Path
    world: World
    clock: Clock
    ready: Ready
    ca: pki.Authority
    elsewhere: Dps
    other: Hub
    stranger: Hub
    devices: dict[str, "Registered"] = field(default_factory=dict)

    def tls(self, label: str, *, ca: pki.Authority | None = None, **how: Any) -> pki.Tls:
        """A server certificate, by `hostile.identity`."""
        return hostile.identity(ca or self.ca, self.directory / label, **how)


@contextmanager
def town(directory: Path) -> Iterator[Town]:
    clock, ca = Clock(directory / "clock"), pki.root("Public CA", lasts=10 * pki.YEAR)
    with World(directory / "world", hub=True) as world, ExitStack() as stack:
        enter = stack.enter_context
        dps = Dps(
            directory / "elsewhere", world.tls, [pki.Files(world.directory / "operations").root]
        )
        registry = directory / "registry" / REGISTRY
        registry.parent.mkdir()
        registry.write_text("{}")
        other = Hub(directory / "other", ca, registry)
        stranger = Hub(directory / "stranger", pki.root("Somebody's CA"), registry)
        for server in (dps, other, stranger):
            enter(server.running())
        ready = enter(Ready(clock))
        made = Town(directory, world, clock, ready, ca, dps, other, stranger)
        made.devices = {kind: enter(registered(made, kind)) for kind in ("tpm", "x509")}
        yield made


class Registered:
    """`kind`: "tpm" or "x509"."""

    def __init__(self, town: Town, kind: Any, device: Device) -> None:
        self.town, self.kind, self.device = town, kind, device
        self.trust = device.etc / "public-ca.pem"
        known = device.world.tls.trust.read_bytes() + pki.pem(town.ca.root)
        self.trust.write_bytes(known)
        self.configure({})

    @property
    def name(self) -> str:
        return self.device.wish.id

    def configure(self, changes: dict[str, Any]) -> None:
        usual = {"trust": str(self.trust), "fleet": 1}
        self.device.configure({**changes, "dps": {**usual, **changes.get("dps", {})}})

    def agent(self, *command: str) -> Any:
        return self.town.ready(self.device, *command)

    def sends(self) -> bool:
        """A message goes to the hub, by what the device has, and nobody else is asked."""
        world, before = self.device.world, len(self.device.world.hub.messages())
        asked = len(world.dps.requests())
        done = self.agent("telemetry", "--count", "1")
        there = len(world.hub.messages()) - before
        return (done.returncode, there, len(world.dps.requests()) - asked) == (0, 1, 0)

    def kept(self) -> tuple[assigned.Assignment | None, snapshot.Snapshot]:
        """What must not change, and all that the TPM holds."""
        return assigned.load(State(self.device.state)).proven, snapshot.take(self.device.tcti)

    def heal(self) -> None:
        """All that was behaved, and the pause that a failure makes."""
        world = self.device.world
        world.dps.behave(**WELL)
        world.hub.behave()
        self.configure({})
        State(self.device.state).turn.unlink(missing_ok=True)

    @contextmanager
    def put_back(self, *names: str) -> Iterator[None]:
        """These of its directories are as they were, when it is over."""
        device, kept = self.device, self.device.directory / "kept"
        device.power_cut()
        for name in names:
            shutil.copytree(device.directory / name, kept / name, ignore=leave, symlinks=True)
        device.power_on()
        try:
            yield
        finally:
            device.power_cut()
            for name in names:
                shutil.rmtree(device.directory / name)
                (kept / name).rename(device.directory / name)
            device.power_on()

    @property
    def tools(self) -> Tools:
        return Tools(self.device.tcti, self.device.directory)


leave = shutil.ignore_patterns("*.sock*", ".lock", "*.log")


@contextmanager
def registered(town: Town, kind: Literal["tpm", "x509"]) -> Iterator[Registered]:
    wish = Wish(
        id=f"by-{kind}", target="device", attestation=kind, board=Board(virgin=kind == "tpm")
    )
    with Device(town.world, town.directory / kind, wish) as device:
        made = Registered(town, kind, device)
        made.heal()
        done = device.agent("provision")
        assert done.returncode == 0, done.stderr
        assert made.sends()
        yield made


# --- rows ---

How = Callable[[Registered], AbstractContextManager[None]]


@dataclass(frozen=True)
class Row:
    """`what` is in the way, by `how`. `status` 0: the agent gets over it. `meanwhile`: it still
    sends, while that lasts; otherwise, when it is over. `costs`: too long for every run of the
    tests."""

    what: str
    status: int
    code: str
    how: How
    command: tuple[str, ...] = AGAIN
    meanwhile: bool = True
    costs: bool = False


def provoked(ours: Registered, row: Row) -> Outcome:
    """What came of it. Asserts that nothing was lost by it."""
    ours.heal()
    with row.how(ours):
        before = ours.kept()
        done = ours.agent(*row.command)
        assert "Traceback" not in done.stderr, done.stderr
        found = outcome(done.returncode, done.stderr)
        assert ours.kept() == before, (row.what, done.stderr)
        assert not before[1].loaded
        assert before[1].flags["LOCKOUT_COUNTER"] == 0
        if row.meanwhile:
            assert ours.sends(), row.what
    if not row.meanwhile:
        ours.heal()
        assert ours.sends(), row.what
    return found


def outcome(status: int, said: str) -> Outcome:
    found = SAID.search(said)
    assert found, (status, said)
    why, remedy = (steady(found[name]) for name in ("why", "remedy"))
    return Outcome(status, found["code"], found["step"], why, remedy)


def steady(text: str) -> str:
    for pattern, instead in CHANCE:
        text = re.sub(pattern, instead, text)
    return text if len(text) <= SHORT else f"{text[: SHORT - 3]}..."


def got_over(ours: Registered, row: Row) -> list[str]:
    """The steps that did something, as the agent put it right; it sends, then."""
    ours.heal()
    with row.how(ours):
        done = ours.agent(*row.command)
        assert done.returncode == 0, (row.what, done.stderr)
        found = re.findall(r"^([a-z-]+) +[0-9.]+ s  done: ", done.stderr, re.MULTILINE)
        assert ours.sends(), row.what
        assert not snapshot.take(ours.device.tcti).loaded
    ours.heal()
    return found
