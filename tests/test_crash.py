"""The agent is cut off at its effects, and then run again: a first boot with IoT Edge.

Two things happen to it:

- the agent alone is killed, and is run again at once, while IoT Edge may still be at work;
- the power goes: the agent, `iotedge` and its services, and the TPM are all gone at that moment.

An effect is every system call with which it changes a file, speaks to a server, sends the TPM a
command that does not only read, starts or ends a program. Here are some, in turn; and moments while
`iotedge` is at work. `./tests/prove kill` goes through all of them, in both ways.

Wherever it was, the next run ends as if nothing had happened, and one more has nothing to do.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path

import pytest

from tests.conftest import Tell
from tests.lab import cuts
from tests.lab.crash import Place
from tests.lab.cut_first_boot import FirstBoot
from tests.lab.cuts import At, Cut, Moment
from tests.lab.device import Wish
from tests.lab.world import World

OPERATOR = """\
# Ours.
hostname = "device-0001"

[agent]
name = "edgeAgent"
type = "docker"

[agent.config]
image = "registry.example/edge-agent:1.5"
"""


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[World]]:
    with ExitStack() as stack:
        base = tmp_path_factory.mktemp("worlds")
        yield [stack.enter_context(World(base / name)) for name in ("one", "two")]


def first_boots(
    worlds: list[World], base: Path, wish: Wish, settings: str = ""
) -> Sequence[FirstBoot]:
    """As many as there are workers, for it is not written in a certificate who asked for it."""
    return [FirstBoot(w, base / str(n), wish, settings) for n, w in enumerate(worlds)]


@pytest.fixture(scope="module")
def boots(worlds: list[World], tmp_path_factory: pytest.TempPathFactory) -> Sequence[FirstBoot]:
    return first_boots(worlds, tmp_path_factory.mktemp("c"), Wish())


def test_killed_at_an_effect_the_first_boot_is_finished_by_the_next_run(
    boots: Sequence[FirstBoot], tell: Tell
) -> None:
    assert len(boots[0].places) > 120
    killed = [Cut(place, False) for place in boots[0].places[::5]]
    tell(f"first boot: {cuts.summary(cuts.survive(boots, killed))}")


def test_when_the_power_fails_the_first_boot_is_finished_after_the_next_start(
    boots: Sequence[FirstBoot], tell: Tell
) -> None:
    """All that puts a file into its place, starts a program or has to do with one."""
    effects = boots[0].places
    edge = next(n for n, place in enumerate(effects) if place.call == "vfork")
    places: list[At] = [*effects[1:edge:8], *effects[edge::3]]
    places += [Moment(n * 0.1) for n in range(1, 6)]
    tell(f"first boot: {cuts.summary(cuts.survive(boots, [Cut(at, True) for at in places]))}")


@pytest.mark.parametrize(
    ("wish", "settings"),
    [
        (Wish(auth="basic", operational_auth="basic"), OPERATOR),
        (Wish(auth="secret", issued_by="static", key="rsa2048"), OPERATOR),
        (Wish(attestation="tpm"), ""),
    ],
    ids=lambda of: f"{of.auth}-{of.issued_by}-{of.attestation}" if isinstance(of, Wish) else "",
)
def test_so_it_is_in_other_configurations_and_with_settings_of_the_owner(
    worlds: list[World],
    tmp_path_factory: pytest.TempPathFactory,
    wish: Wish,
    settings: str,
    tell: Tell,
) -> None:
    """A sample, and all that is about the owner's settings."""
    boots = first_boots(worlds, tmp_path_factory.mktemp("c"), wish, settings)
    places = [p for n, p in enumerate(boots[0].places) if is_of_owner(p) or n % 25 == 0]
    some = [Cut(at, power) for at, power in zip(places, cycle((True, False)), strict=False)]
    how = f"{wish.auth}, {wish.issued_by}, {wish.attestation}"
    tell(f"first boot, {how}: {cuts.summary(cuts.survive(boots, some))}")


def is_of_owner(place: Place) -> bool:
    return "before-tpm" in place.what
