"""Fixtures: a world with a clock of its own, whose EST servers renew, and behave in the end."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.lab.clock import Clock
from tests.lab.world import World

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("renewal") / "world"
    with World(directory, clock=clock, renewing=True) as world:
        yield world


@pytest.fixture(autouse=True)
def well_behaved(world: World) -> Iterator[None]:
    yield
    world.owner_server.behave()
    world.owner_server.lifetime(90 * DAY)
    world.dps.behave(retry_after=0)
