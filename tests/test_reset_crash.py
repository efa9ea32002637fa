"""A reset is cut off at its effects, and finished by the same command: see tests/lab/cut_reset.py.

Some of all that puts a file into its place or takes it away, changes the TPM, or stops a program;
every third time the power fails, too. `./tests/prove kill` goes through all effects, and through a
reset that lets all go, and one without IoT Edge.
"""

from pathlib import Path

import pytest

from tests.conftest import Tell
from tests.lab import cuts
from tests.lab.crash import Place
from tests.lab.cut_reset import WITHOUT, Reset
from tests.lab.cuts import Cut
from tests.lab.device import Wish
from tests.lab.world import World

EVERY = 7


@pytest.fixture(scope="module")
def reset(world: World, tmp_path_factory: pytest.TempPathFactory) -> Reset:
    return Reset(world, tmp_path_factory.mktemp("reset"), Wish())


def lasting(places: list[Place]) -> list[Place]:
    kinds = ("unlink", "rename", "kill")
    return [each for each in places if each.call in kinds or "evictcontrol" in each.what]


def test_cut_off_anywhere_a_reset_is_finished_and_leaves_no_key_behind_its_certificate(
    reset: Reset, tell: Tell
) -> None:
    assert len(reset.places) > 100
    some = [Cut(at, n % 3 == 0) for n, at in enumerate(lasting(reset.places)[2::EVERY])]
    tell(f"reset: {cuts.summary(cuts.survive([reset], some))}")


def test_without_its_tpm_too_and_the_rest_is_done_when_that_is_asked_again(
    world: World, tmp_path: Path, tell: Tell
) -> None:
    alone = Reset(world, tmp_path, Wish(), WITHOUT, "--configuration")
    files = [each for each in alone.places if each.call in ("unlink", "rename")]
    some = [Cut(at, power=False) for at in (*files[1 :: 2 * EVERY], files[-1])]
    tell(f"reset without the TPM: {cuts.summary(cuts.survive([alone], some))}")
