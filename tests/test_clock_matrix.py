"""Wrong clocks: some points of the matrix (tests/matrices/clock.py), one of each kind."""

from pathlib import Path

from tests.lab.clock_points import Outcome
from tests.lab.clock_rows import POINTS, RENEWALS
from tests.matrices import clock

SOME = (
    "first boot, X.509: the clock is a year behind",
    "first boot, X.509: the clock is a year ahead",
    "first boot, X.509: the clock is 2050",
    "first boot, TPM: the clock is 2038, after 2**31",
    "companion, X.509: the clock is a year ahead",
    "telemetry, TPM: the clock is a year behind",
    "EST server says 2038",
    "DPS says no time",
    "EST server's certificate has expired, and the clock is 45 days behind",
    "the clock jumps 10 days back while the CA issues",
    "the clock jumps 10 days back in the midst of a handshake with DPS",
    "EST said 202, and when it is time, the clock was set half an hour back",
    "EST: what was kept is of a day ago, and the clock is 45 days behind",
    "DPS: what was kept is of 200 days ahead, and the server is valid then",
    "what was kept of the time has another digit",
    "renewal, X.509: the clock is 2 days behind",
)


def test_a_wrong_clock_is_told_and_costs_nothing_and_once_it_is_right_all_goes_on(
    tmp_path: Path,
) -> None:
    wanted = [point for point in (*POINTS, *RENEWALS) if point.name in SOME]
    assert len(wanted) == len(SOME)
    assert all_well(list(clock.in_town(tmp_path / "town", wanted)), len(SOME))


def test_2_to_the_31_seconds_are_no_limit(tmp_path: Path) -> None:
    found = list(clock.live(tmp_path, "2038", "first boot, TPM"))
    assert all_well(found, 2)


def all_well(found: list[Outcome], points: int) -> bool:
    assert not [clock.shown(each) for each in found if each.wrong]
    return len(found) == points
