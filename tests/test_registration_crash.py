"""A device without IoT Edge is cut off at what it does to get its place at a hub, and then run
again.

It registers for the first time, by its TPM or with its LDevID; it is moved to another hub; its key
is changed at the hub, and telemetry finds out; its LDevID is renewed. In each, the agent is killed
at some of its effects (as in test_crash) and in its login at the hub, of which a thread is in
charge; every third time the power fails, too. `./tests/prove kill` goes through all of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.conftest import Tell
from tests.lab import cuts
from tests.lab.clock import Clock
from tests.lab.crash import Place
from tests.lab.cut_registration import Registration, play
from tests.lab.cuts import At, Cut, Moment
from tests.lab.registering import SCENES, Scene, Stage
from tests.lab.world import World

WORKERS = 4  # most of a run is waiting: for DPS, and for the hub
EVERY = {"first-tpm": 40, "moved": 10, "rotated": 40, "first-x509": 48, "renewal": 40}
LOGIN = [Moment(0.0), Moment(0.05)]


@dataclass(frozen=True)
class Cast:
    actors: Sequence[Registration]
    world: World


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
        actors = [Registration(stage, base / f"{stage.name}.trace") for stage in stages]
        yield Cast(actors, world)


@pytest.mark.parametrize("scene", SCENES.values(), ids=lambda scene: scene.name)
def test_cut_off_anywhere_there_is_a_hub_that_it_comes_to_and_dps_is_spared(
    cast: Cast, scene: Scene, tell: Tell
) -> None:
    places = play(cast.actors, cast.world, scene)
    some: list[At] = [*sampled(places, EVERY[scene.name]), *LOGIN]
    where = [Cut(at, n % 3 == 0) for n, at in enumerate(some)]
    tell(f"{scene.name}: {cuts.summary(cuts.survive(cast.actors, where))}")
