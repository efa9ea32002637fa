"""A device without IoT Edge is cut off at what it does to get its place at a hub, and then run
again.

It registers for the first time, by its TPM or with its LDevID; it is moved to another hub; its key
is changed at the hub, and telemetry finds out; its LDevID is renewed. In each, the agent is killed
at one effect after the other (as in test_crash) and in its login at the hub, of which a thread is
in charge; every third time the power fails, too.

Before anything else can run, what was in use is so still, or what is to come has taken its place;
no file holds a key in the clear, and in the TPM is nothing that is not ours. Then the next runs end
as if nothing had happened; DPS may be asked once more than needed.
"""

import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import pytest

from tests.conftest import Tell
from tests.lab import crash
from tests.lab.clock import Clock
from tests.lab.crash import Place
from tests.lab.registered import End
from tests.lab.registering import SCENES, Scene, Stage, later
from tests.lab.world import World

WORKERS = 4  # most of a run is waiting: for DPS, and for the hub
ENDS = (0, 3)
EVERY = {"first-tpm": 20, "moved": 4, "rotated": 20, "first-x509": 24, "renewal": 20}
LOGIN = [0.0, 0.05]


@dataclass(frozen=True)
class Login:
    """So many seconds after it began."""

    seconds: float


@dataclass(frozen=True)
class Played:
    """Undisturbed: how it ended, and what DPS was asked for."""

    places: list[Place]
    end: End
    asked: Counter[str]


class Actor:
    """A stage, and what happened on it when nobody disturbed it."""

    def __init__(self, stage: Stage, trace: Path) -> None:
        self._stage, self._trace = stage, trace

    def make(self, scene: Scene) -> None:
        self._stage.make(scene)

    def play(self, scene: Scene, *, traced: bool) -> None:
        stage, places = self._stage, list[Place]()
        with stage.alive(scene) as device:
            before, command = stage.asked(), stage.command(scene.command)
            if traced:
                places = crash.places(device, self._trace, command, ENDS)
            end = stage.recovers(scene, stage.consistent(old_works=scene.old_works, signs=True))
            self.well = Played(places, end, stage.asked() - before)

    def survives(self, scene: Scene, at: Place | Login, *, power: bool) -> bool:
        """Whether it was cut off just there."""
        stage = self._stage
        with stage.alive(scene) as device:
            before, command = stage.asked(), stage.command(scene.command)
            if isinstance(at, Place):
                just = crash.kill_at(device, at, self._trace, command, ENDS) == at.what
            else:
                just = crash.kill_login(device, command, at.seconds)
            if power:
                device.power_cut()
                device.power_on()
            kept = stage.consistent(old_works=scene.old_works, signs=power)
            found = vars(stage.recovers(scene, kept))
            for name, value in vars(self.well.end).items():
                assert found[name] == value, name
            extra = stage.asked() - before - self.well.asked
            assert not extra or max(extra.values()) <= 1, (
                f"DPS asked beyond what is needed: {extra}"
            )
        return just


class Cast:
    """As many as there are workers."""

    def __init__(self, actors: Sequence[Actor], world: World) -> None:
        self._actors, self._world = actors, world

    def survive(self, scene: Scene, every: int) -> str:
        """All that went wrong is told together."""
        first, *others = self._actors
        first.make(scene)
        with ThreadPoolExecutor(len(self._actors)) as workers:
            list(workers.map(lambda each: each.make(scene), others))
            later(self._world, scene)
            list(workers.map(lambda each: each.play(scene, traced=each is first), self._actors))
            places = [*sampled(first.well.places, every), *map(Login, LOGIN)]
            ended = list(workers.map(self._survivor(scene), enumerate(places)))
        failed = [told for _, told in ended if told]
        assert not failed, f"{len(failed)} of {len(places)}:\n" + "\n".join(failed)
        there, cuts = sum(just for just, _ in ended), len(range(0, len(places), 3))
        kills = f"{len(places) - cuts} kills and {cuts} power cuts"
        return f"{scene.name}: {kills}, {there} just where they should be: all survived"

    def _survivor(self, scene: Scene) -> "Survivor":
        free: SimpleQueue[Actor] = SimpleQueue()
        for each in self._actors:
            free.put(each)
        return Survivor(scene, free)


@dataclass(frozen=True)
class Survivor:
    scene: Scene
    free: SimpleQueue[Actor]

    def __call__(self, at: tuple[int, Place | Login]) -> tuple[bool, str]:
        actor, (n, place) = self.free.get(), at
        try:
            return actor.survives(self.scene, place, power=n % 3 == 0), ""
        except Exception:  # told by the test, with all others
            return False, f"--- {place}, number {n}:\n{traceback.format_exc()}"
        finally:
            self.free.put(actor)


def sampled(places: list[Place], every: int) -> list[Place]:
    """All that puts a file into its place or changes what the TPM keeps; of the rest, every
    so-many-th."""
    rest = [place for place in places if not is_lasting(place)]
    left_out = {place for n, place in enumerate(rest) if n % every}
    return [place for place in places if place not in left_out]


def is_lasting(place: Place) -> bool:
    return place.call == "rename" or place.what.endswith("TPM command evictcontrol")


# --- the tests ---


@pytest.fixture(scope="module")
def cast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cast]:
    base = tmp_path_factory.mktemp("hubs")
    with ExitStack() as stack:
        clock = Clock(base / "clock")
        world = stack.enter_context(World(base / "world", clock=clock, renewing=True, hub=True))
        other = stack.enter_context(world.another_hub())
        world.dps.behave(polls=0, retry_after=0)
        names = [f"device-{n}" for n in range(WORKERS)]
        made = [Stage(world, other, base / name, name) for name in names]
        stages = [stack.enter_context(stage) for stage in made]
        yield Cast([Actor(stage, base / f"{stage.name}.trace") for stage in stages], world)


@pytest.mark.parametrize("scene", SCENES.values(), ids=lambda scene: scene.name)
def test_cut_off_anywhere_there_is_a_hub_that_it_comes_to_and_dps_is_spared(
    cast: Cast, scene: Scene, tell: Tell
) -> None:
    tell(cast.survive(scene, EVERY[scene.name]))
