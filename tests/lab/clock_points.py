"""What becomes of a device with a wrong clock, what that has cost, and that it gets over it."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from agent.state import State, read_json
from agent.steps import assigned
from agent.steps.assigned import Assignment
from tests.lab import snapshot
from tests.lab.clock_odds import Odd, nothing
from tests.lab.clocks import Adrift, Scene, Town

CODE = re.compile(r"\[([a-z0-9-]+)\]\n?Remedy: ")
WELL = "well"


@dataclass(frozen=True)
class Point:
    """`at`: what the clock of the device says, given what time it is. `code`: why it does not come
    to its end, or WELL. `spends`: certificates that are issued meanwhile; each is used when the
    clock is right. `before`: with the device, when its clock is right still; `mend`: with it, when
    its clock is right again, as the remedy says."""

    name: str
    scene: Scene
    at: Callable[[datetime], datetime]
    code: str
    odd: Odd = nothing
    spends: int = 0
    before: Odd = nothing
    mend: Odd = nothing


@dataclass(frozen=True)
class Outcome:
    point: Point
    status: int
    code: str
    wrong: tuple[str, ...]


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
        if code != WELL:
            wrong += spent.more(Spent.of(town, device), point.spends)
        wrong += list(_healed(town, device, point, spent))
        return Outcome(point, done.returncode, code, tuple(wrong))


def verdict(status: int, said: str) -> str:
    if "Traceback" in said:
        return "traceback"
    if status == 0:
        return WELL
    found = CODE.findall(said)
    return found[-1] if found else f"exit status {status}"


def _healed(town: Town, device: Adrift, point: Point, spent: "Spent") -> Iterator[str]:
    """In one run, once the clock is right; and what was issued meanwhile is in use then."""
    town.set(town.right)
    with point.mend(town, device):
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
