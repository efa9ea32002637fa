"""Why a run stopped, as it is kept."""

import contextlib
from pathlib import Path

from agent import failure
from agent.errors import ClockImplausible, Later
from agent.state import State


def kept(state: State, error: Later) -> int:
    """The inode: another one for each time that it was written."""
    with contextlib.suppress(Later), failure.remembered(state):
        raise error
    return state.failure.stat().st_ino


def test_a_clock_that_is_wrong_for_months_does_not_wear_flash_memory_out(tmp_path: Path) -> None:
    """Each run says what the clock says by then."""
    state = State(tmp_path)
    first = kept(state, ClockImplausible("it says 1970-01-01 00:03Z, but a file is of 2026-01-01"))
    told = state.failure.read_bytes()
    later = ClockImplausible("it says 1970-01-01 00:04Z, but a file is of 2026-01-01")
    assert (kept(state, later), state.failure.read_bytes()) == (first, told)
    kept(state, ClockImplausible("it says 1970-01-01 00:05Z, but another is of 2026-01-01"))
    assert state.failure.read_bytes() != told
