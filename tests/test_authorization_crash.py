"""Killed, or without power, while the TPM gets its passwords: none is ever set that nobody has.

Some of the effects; `./tests/prove kill` goes through all of them."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import pytest

from tests.conftest import Tell
from tests.lab import cuts
from tests.lab.crash import Place
from tests.lab.cut_passwords import Passwords, Released, is_change
from tests.lab.cuts import Cut
from tests.lab.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Nobody in it listens."""
    return World(tmp_path_factory.mktemp("quiet") / "world")


@pytest.fixture(scope="module")
def actors(world: World, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Passwords]:
    base = tmp_path_factory.mktemp("passwords")
    return [Passwords(world, base / str(n), "sealed") for n in range(2)]


def test_wherever_it_is_cut_off_the_next_run_has_what_is_set(
    actors: Sequence[Passwords], tell: Tell
) -> None:
    places = some(actors[0].places)
    cut = [Cut(at, power) for at, power in zip(places, cycle((True, False)), strict=False)]
    tell(f"passwords: {cuts.summary(cuts.survive(actors, cut))}")


def some(places: Sequence[Place]) -> list[Place]:
    """All about the change itself, and a few of the others."""
    change = [place for place in places if is_change(place)]
    assert len(change) == 6
    return [*change, *places[20:60:20]]


def test_so_it_is_when_they_are_taken_back(world: World, tmp_path: Path, tell: Tell) -> None:
    actor = Released(world, tmp_path / "board", "credential")
    change = [place for place in actor.places if is_change(place)]
    files = [place for place in actor.places if "authorization" in place.what]
    some = [*change[-3:], *files[-2:]]  # the escrow goes last
    cut = [Cut(at, power) for at, power in zip(some, cycle((False, True)), strict=False)]
    tell(f"passwords taken back: {cuts.summary(cuts.survive([actor], cut))}")


def test_each_password_has_effects_of_its_own(actors: Sequence[Passwords]) -> None:
    told = [place.what for place in actors[0].places]
    for name in ("owner.sealed", "lockout.sealed", "escrow.cms", "escrow.json"):
        assert any(Path(each).name.strip(".").startswith(name) for each in told), told
