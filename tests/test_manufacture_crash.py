"""The factory step is cut off at its effects, and then run again: by a kill, or by the power of the
board, with its TPM. The next run ends as if nothing had happened. Here are some of the effects;
`./tests/prove kill` goes through all of them, in both ways."""

from pathlib import Path

import pytest

from tests.conftest import Tell
from tests.lab import cuts
from tests.lab.cut_manufacture import Manufacture
from tests.lab.cuts import Cut
from tests.lab.line import Method
from tests.lab.world import World


@pytest.mark.parametrize(
    ("method", "profile", "arguments"),
    [("est-basic", "tcg", ()), ("est-tpm", "ek-child", ()), ("est-basic", "tcg", ("--force",))],
)
def test_a_board_is_made_wherever_the_step_was_cut_off(
    world: World,
    tmp_path: Path,
    tell: Tell,
    method: Method,
    profile: str,
    arguments: tuple[str, ...],
) -> None:
    line = Manufacture(world, tmp_path / "town", method, profile, *arguments)
    some = [Cut(place, n % 2 == 0) for n, place in enumerate(line.places[::5])]
    how = " ".join((method, profile, *arguments))
    tell(f"manufacture {how}: {cuts.summary(cuts.survive([line], some))}")
