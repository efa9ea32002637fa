"""A service that failed waits before it ends, where to be started again at once is of no use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent import nap
from tests.lab.clock import Clock


@pytest.mark.parametrize(
    ("seconds", "uptime", "wait"),
    [
        (None, 1e6, 0),
        (60, 1e6, 0),
        (300, 1e6, 240),
        (86400, 1e6, 600),
        (86400, 300, 150),
        (86400, 50, 0),
    ],
)
def test_it_waits_if_it_is_worth_it_and_not_longer_than_half_of_what_it_has_been_up(
    seconds: float | None, uptime: float, wait: float
) -> None:
    assert nap.length(seconds, uptime) == wait


SET_WHILE_IT_WAITS = """
import os, struct
from agent import nap
rests = []
def rest(seconds):
    rests.append(seconds)
    if len(rests) == 2:
        with open(os.environ["LAB_CLOCK"], "r+b", buffering=0) as clock:
            clock.write(struct.pack("=qq", 86400, 0))
nap.until_set(300, rest)
print(len(rests))
"""


def test_it_goes_on_when_the_clock_is_set(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SET_WHILE_IT_WAITS]
    lives = {**os.environ, **Clock(tmp_path).environment()}
    done = subprocess.run(command, env=lives, capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"
