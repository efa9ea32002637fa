"""The agent is killed, and the power fails, at every one of its effects.

Scenes: first boots with IoT Edge and without, by X.509 and by TPM; what a device without IoT Edge
goes through later; what the companion does about certificates; the factory step; the TPM getting
passwords; the reset. In each the effects are found by strace(1): every system call by which the
agent changes a file, syncs it, moves it to its place, sends the TPM a command that does not only
read, asks a server, starts or ends a program. Each is a place to be cut off just before it, and
just after it where that is another thing than just before the next one (tests/lab/crash.py); at
each place once the agent alone is killed, and once the power fails, with the TPM
(tests/lab/cuts.py). What happens while another program or another thread is at work is cut off at
moments close to each other.

Each time, before anything else runs, and again at the end (tests/lab/instant.py): no file, handle
or NV index that is neither of before nor of after; IoT Edge's config.toml is the old one or the new
one, whole; a certificate is for the key beside it; no failed try is counted by the TPM but what
keys of IoT Edge cost when the power fails; no secret in a file that others may read or that is no
place for one. Then the next run ends as if nothing had happened: the same files, no more and no
less, the same handles and indices, nothing loaded in the TPM, no session saved; the one after it
has nothing to do; and of certificates of each CA and of registrations there is at most one more
than was needed.
"""

import json
import re
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from tests.lab import cut_registration, cut_renewal, cuts, registering
from tests.lab.clock import Clock
from tests.lab.cut_first_boot import FirstBoot
from tests.lab.cut_manufacture import Manufacture
from tests.lab.cut_passwords import Passwords, Released
from tests.lab.cut_registration import Registration
from tests.lab.cut_renewal import PLAYED, Renewal
from tests.lab.cut_reset import WITHOUT, Reset
from tests.lab.cuts import At, Cut, Ended, Moment
from tests.lab.device import Wish
from tests.lab.line import Method
from tests.lab.registering import Stage
from tests.lab.scenes import SCENES, Scene
from tests.lab.world import World
from tests.matrices import Count, Report, Tell

WORKERS, TRIES = 2, 4  # a place may slip away: a run is not like the other to the last call
TITLE = "Killed, and the power gone, at every effect"
Cast = Callable[[ExitStack, Path], Sequence[cuts.Actor]]


@dataclass(frozen=True)
class Act:
    """`cast`: devices to play it on. `moments`: to be cut off at, besides places."""

    name: str
    cast: Cast
    moments: Sequence[Moment] = field(default=())


# --- casts ---


def first_boot(wish: Wish, stack: ExitStack, base: Path) -> list[FirstBoot]:
    worlds = [stack.enter_context(World(base / f"world-{n}")) for n in range(WORKERS)]
    return [FirstBoot(world, base / f"town-{n}", wish) for n, world in enumerate(worlds)]


def manufacture(
    method: Method, profile: str, arguments: Sequence[str], stack: ExitStack, base: Path
) -> list[Manufacture]:
    worlds = [stack.enter_context(World(base / f"world-{n}")) for n in range(WORKERS)]
    return [
        Manufacture(world, base / f"town-{n}", method, profile, *arguments)
        for n, world in enumerate(worlds)
    ]


def registration(scene: registering.Scene, stack: ExitStack, base: Path) -> list[Registration]:
    clock = Clock(base / "clock")
    world = stack.enter_context(World(base / "world", clock=clock, renewing=True, hub=True))
    other = stack.enter_context(world.another_hub())
    world.dps.behave(polls=0, retry_after=0)
    names = [f"device-{n}" for n in range(WORKERS)]
    stages = [stack.enter_context(Stage(world, other, base / name, name)) for name in names]
    actors = [Registration(stage, base / f"{stage.name}.trace") for stage in stages]
    cut_registration.play(actors, world, scene)
    return actors


def renewal(scene: Scene, stack: ExitStack, base: Path) -> list[Renewal]:
    actors = [Renewal(base / f"home-{n}") for n in range(WORKERS)]
    for actor in actors:
        stack.enter_context(actor.home.world)
    cut_renewal.together(actors, lambda each: each.home.make())
    cut_renewal.together(actors, partial(_prepared, _until(scene)))
    cut_renewal.rehearse(actors, scene)
    return actors


def passwords(what: type[Passwords], keep: str, _: ExitStack, base: Path) -> list[Passwords]:
    world = World(base / "world")
    return [what(world, base / f"board-{n}", keep) for n in range(WORKERS)]


def reset(wish: Wish, arguments: Sequence[str], stack: ExitStack, base: Path) -> list[Reset]:
    world = stack.enter_context(World(base / "world", hub=wish.target == "device"))
    wishes = [replace(wish, id=f"device-{n}") for n in range(WORKERS)]
    return [Reset(world, base / f"town-{each.id}", each, *arguments) for each in wishes]


def _prepared(scenes: Sequence[Scene], actor: Renewal) -> None:
    for scene in scenes:
        actor.home.prepare(scene)


def _until(scene: Scene) -> list[Scene]:
    """Those before it, for time goes on, and it."""
    names = list(SCENES)
    return [SCENES[name] for name in names[: names.index(scene.name) + 1]]


# --- acts ---

CALLING, LOGGING_IN = 0.05, 0.01  # seconds between moments
MADE: list[tuple[Method, str, tuple[str, ...]]] = [
    ("est-basic", "tcg", ()),
    ("est-tpm", "ek-child", ()),
    ("est-basic", "tcg", ("--force",)),
]
LET_GO = [
    ("IoT Edge", Wish(), ()),
    ("IoT Edge, all of it", Wish(), ("--decommission", "--burn-idevid", "--configuration")),
    ("no IoT Edge", Wish(target="device", attestation="tpm"), ()),
    ("IoT Edge, without its TPM", Wish(), (WITHOUT, "--configuration")),
]


def acts() -> Iterator[Act]:
    calling = [Moment(n * CALLING) for n in range(1, 16)]
    for attestation in ("x509", "tpm"):
        wish = Wish(attestation=attestation)
        yield Act(f"first boot, IoT Edge, {attestation}", partial(first_boot, wish), calling)
    logging_in = [Moment(n * LOGGING_IN) for n in range(16)]
    for each in registering.SCENES.values():
        yield Act(f"no IoT Edge, {each.name}", partial(registration, each), logging_in)
    for method, profile, arguments in MADE:
        name = " ".join(("factory,", method, profile, *arguments))
        yield Act(name, partial(manufacture, method, profile, arguments))
    for keep in ("sealed", "credential"):
        yield Act(f"passwords of the TPM, {keep}", partial(passwords, Passwords, keep))
        yield Act(f"passwords taken back, {keep}", partial(passwords, Released, keep))
    for what, wish, arguments in LET_GO:
        yield Act(f"reset, {what}", partial(reset, wish, arguments))
    for scene in PLAYED:
        yield Act(f"companion, {scene.name}", partial(renewal, scene))


# --- the proof ---


class Passed:
    """What passed already, in a file: a proof that was stopped goes on."""

    def __init__(self, base: Path) -> None:
        self._file, self._lock = base / "passed.json", threading.Lock()
        self._names: dict[str, list[str]] = {}
        if self._file.exists():
            self._names = json.loads(self._file.read_text())

    def __contains__(self, point: tuple[str, Cut]) -> bool:
        act, cut = point
        return str(cut) in self._names.get(act, [])

    def add(self, act: str, cut: Cut) -> None:
        with self._lock:
            self._names.setdefault(act, []).append(str(cut))
            self._file.write_text(json.dumps(self._names))


@dataclass(frozen=True)
class Outcome:
    """Of one act: the points, which of them passed, and what went wrong with the others."""

    act: str
    points: Sequence[Cut]
    passed: Sequence[Cut]
    failed: Sequence[str]

    def counts(self) -> Iterator[Count]:
        for power, what in ((False, "killed"), (True, "power cut")):
            both = (self.points, self.passed)
            points, passed = (sum(cut.power is power for cut in some) for some in both)
            yield Count(f"{self.act}: {what}", points, passed)

    def row(self) -> str:
        kinds = [kind(cut.at) for cut in self.points if not cut.power]
        numbers = [str(kinds.count(each)) for each in KINDS]
        whole = f"{len(self.passed)} of {len(self.points)}"
        return f"| {' | '.join([self.act, *numbers, whole])} |"


KINDS = ("files", "TPM", "messages", "programs", "moments")


def kind(at: At) -> str:
    if isinstance(at, Moment):
        return "moments"
    kinds = {r"TPM command": "TPM", r"message$": "messages", r"program$|the end$": "programs"}
    return next((name for text, name in kinds.items() if re.match(text, at.what)), "files")


def prove(base: Path, tell: Tell, only: str = "") -> Report:
    """`only`: a part of a point's name, as "rename"; after the end of a scene's, only of that:
    "IoT Edge, tpm: after write"."""
    passed, found = Passed(base), []
    for number, act in enumerate(acts()):
        if not act.name.endswith(only.rpartition(": ")[0]):
            continue
        try:
            with ExitStack() as stack:
                found.append(_played(act, stack, base / str(number), passed, tell, only))
        except Exception:  # it is told, and the others have their turn
            tell(told := f"{act.name}: cannot be played: {traceback.format_exc()}")
            found.append(Outcome(act.name, [], [], [told]))
    whole = [outcome for outcome in found if outcome.points or outcome.failed]
    head = f"| Scene | {' | '.join(KINDS)} | Passed |"
    table = [head, f"|---|{'---:|' * (len(KINDS) + 1)}", *(each.row() for each in whole)]
    counts = [count for outcome in whole for count in outcome.counts()]
    return Report(TITLE, counts, table, [told for each in whole for told in each.failed])


def _played(
    act: Act, stack: ExitStack, base: Path, passed: Passed, tell: Tell, only: str
) -> Outcome:
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    actors = act.cast(stack, base)
    places: list[At] = [*actors[0].places, *act.moments]
    points = [cut for cut in cuts.both(places) if only.rpartition(": ")[2] in str(cut)]
    ended = [Ended(cut, True, "") for cut in points if (act.name, cut) in passed]
    left = [cut for cut in points if (act.name, cut) not in passed]
    tell(f"{act.name}: {len(points)} points, {len(left)} of them to be tried")
    for _ in range(TRIES):
        new = cuts.survive(actors, left, lambda each: _heard(act, each, passed, tell))
        ended += [each for each in new if each.just or each.told]
        left = [each.cut for each in new if not (each.just or each.told)]
    failed = [f"{act.name}: {each.told}" for each in ended if each.told]
    late = [cut for cut in left if isinstance(cut.at, Moment)]  # over before it could be cut off
    failed += [f"{act.name}: {cut}: it never came there" for cut in left if cut not in late]
    well = [each.cut for each in ended if not each.told]
    tell(f"{act.name}: {len(well)} of {len(points) - len(late)} passed")
    return Outcome(act.name, [cut for cut in points if cut not in late], well, failed)


def _heard(act: Act, ended: Ended, passed: Passed, tell: Tell) -> None:
    if ended.told:
        tell(f"{act.name}: {ended.told}")
    elif ended.just:
        passed.add(act.name, ended.cut)
