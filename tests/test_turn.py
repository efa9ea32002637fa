"""Each device of a fleet asks DPS in its turn, and not again at once when DPS said no."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent import nap, turn
from agent.moment import Moment
from agent.turn import Failure, Turn
from tests.lab.fleet import by_chance, fullest, serial_numbers

WHO = "device-17"
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
NOW = Moment("this boot", 1000.0)
DAY = timedelta(days=1)


def later(seconds: float) -> Moment:
    return Moment(NOW.boot_id, NOW.uptime + seconds)


# --- places ---


def test_a_device_has_one_place_in_its_fleet_for_life() -> None:
    assert turn.place(WHO) == turn.place(WHO)
    assert all(0 <= turn.place(name) < 1 for name in ("", "7", "a", "9" * 100, "é\n1"))


@pytest.mark.parametrize("prefix", ["SN-", "", "0x"])
@pytest.mark.parametrize("step", [1, 2, 10, 16, 1000])
def test_serial_numbers_are_spread_better_than_by_chance(prefix: str, step: int) -> None:
    names = [f"{prefix}{number:08}" for number in range(31_000_000, 31_000_000 + 1000 * step, step)]
    assert fullest(sorted(map(turn.place, names)), 0.1) <= 110


def test_names_that_do_not_count_up_are_spread_by_chance() -> None:
    names = by_chance(10_000, random.Random(5))  # noqa: S311
    tenths = [0] * 10
    for name in names:
        tenths[int(turn.place(name) * 10)] += 1
    assert min(tenths) > 850
    assert max(tenths) < 1150


def test_different_batches_do_not_fall_on_the_same_places() -> None:
    first, second = turn.place("A-100"), turn.place("B-100")
    assert abs(first - second) > 0.001


def test_the_window_is_as_long_as_dps_needs_for_all() -> None:
    assert 60 * 100 <= turn.window(100_000, 1) <= 60 * 115
    assert turn.window(100_000, 2) == 2 * turn.window(100_000, 1)
    assert turn.window(1, 1) < 1
    assert len(set(serial_numbers(3))) == 3


# --- waiting ---


def arrived(ours: Turn, now: Moment = NOW, wall: datetime = NOON, *, window: float = 0) -> Turn:
    return turn.arrived(ours, window, now, wall)


def failed(window: float = 0, **failure: Any) -> Turn:
    ours = arrived(Turn(), window=window)
    return turn.failed(ours, Failure(**failure), WHO, window, NOW, NOON)


def boot(uptime: float, name: str = "next boot") -> Moment:
    return Moment(name, uptime)


def test_it_is_waited_from_when_it_first_wanted_to_register() -> None:
    ours = arrived(Turn())
    wait = turn.left(ours, WHO, 3600, NOW)
    assert wait == 3600 * turn.place(WHO)
    again = arrived(ours, later(30))
    assert again.since == ours.since
    assert turn.left(again, WHO, 3600, later(30)) == pytest.approx(wait - 30)
    assert turn.left(again, WHO, 3600, later(3600)) == 0


def test_what_was_waited_in_boots_before_counts_and_the_time_off_does_not() -> None:
    wait = 7200 * turn.place(WHO)
    ours = arrived(arrived(Turn()), later(600))  # was seen, and is switched off after that
    for name, wall in (("next", NOON + DAY), ("the one after", NOON - 400 * DAY)):
        ours = arrived(ours, boot(40, name), wall)
    assert turn.left(ours, WHO, 7200, boot(40)) == pytest.approx(wait - 600)
    again = Turn.of(ours.as_json())  # on disk
    assert again == ours


@pytest.mark.parametrize("minutes", [2, 5, 30, 120])
def test_a_device_that_is_never_on_for_long_comes_to_its_turn_as_soon_as_others(
    minutes: int,
) -> None:
    """Its runs are as far apart as a service waits. Of what comes after the last run of a boot
    nobody knows, and of the shortest boots that is most."""
    window, ours, on = turn.window(100_000, 2), Turn(), 0.0
    wait = window * turn.place(WHO)
    for number in range(10_000):
        uptime, left = 30.0, 0.0
        while uptime < minutes * 60:
            ours = arrived(ours, boot(uptime, str(number)), window=window)
            if (left := turn.left(ours, WHO, window, boot(uptime, str(number)))) <= turn.NEAR:
                break
            uptime += nap.length(left, uptime) + 30  # RestartSec= of the unit
        else:
            on += minutes * 60
            continue
        break
    assert left <= turn.NEAR
    assert on + uptime <= 5 * wait + 600


def test_who_is_in_no_herd_waits_for_no_turn_but_for_a_pause() -> None:
    assert turn.left(arrived(Turn()), WHO, 0, NOW) == 0
    assert turn.left(failed(), WHO, 0, NOW) >= 60


@pytest.mark.parametrize("jump", [-400 * DAY, -DAY, DAY, 400 * DAY])
def test_a_clock_that_is_set_changes_nothing_within_a_boot(jump: timedelta) -> None:
    ours = failed(told=600)
    assert 540 <= turn.pause_left(arrived(ours, later(60), NOON + jump), later(60)) <= 840
    assert turn.pause_left(ours, later(1000)) == 0


@pytest.mark.parametrize(
    ("off", "left"),
    [(timedelta(seconds=100), 500), (timedelta(seconds=1000), 0), (-400 * DAY, 600)],
)
def test_the_pause_of_a_small_fleet_goes_on_while_a_device_is_off(
    off: timedelta, left: float
) -> None:
    """A clock that was turned back does not make it longer."""
    ours = arrived(Turn.of(failed(told=600).as_json()), boot(20), NOON + off)
    assert left <= turn.pause_left(ours, boot(20)) <= 1.5 * left


def test_a_large_fleet_that_was_off_for_hours_comes_back_as_spread_as_it_was() -> None:
    """Refused as one, then switched off as one for longer than any pause lasts."""
    window, waits = 6000.0, []
    for who in serial_numbers(1000):
        ours = arrived(Turn(), window=window)
        ours = turn.failed(ours, Failure(slow=True), who, window, NOW, NOON)
        ours = arrived(ours, boot(20), NOON + DAY, window=window)
        waits.append(turn.left(ours, who, window, boot(20)))
    assert fullest(sorted(waits), window / 10) < 160


# --- pauses ---


def pause(failures: int, **failure: Any) -> float:
    ours = turn.failed(Turn(failures=failures), Failure(**failure), WHO, 0, NOW, NOON)
    return turn.left(ours, WHO, 0, NOW)


def test_pauses_double_from_a_minute_to_an_hour_and_no_two_devices_keep_the_same() -> None:
    pauses = [pause(n) for n in range(12)]
    for n, each in enumerate(pauses):
        least = min(60 * 2**n, 3600)
        assert least <= each <= 1.5 * least


def test_where_a_person_is_needed_it_is_a_quarter_of_an_hour_at_least() -> None:
    assert 15 * 60 <= pause(0, slow=True) <= 1.5 * 15 * 60


def test_dps_is_taken_at_its_word_but_not_for_ever() -> None:
    assert pause(0, told=5000) >= 5000
    assert pause(0, told=10**9) <= timedelta(days=8).total_seconds()


def test_a_fleet_that_failed_as_one_comes_back_as_spread_as_after_a_power_cut() -> None:
    window = 6000.0
    ours = arrived(Turn(), Moment(NOW.boot_id, 0))
    waits = [
        turn.pause_left(turn.failed(ours, Failure(), who, window, NOW, NOON), NOW)
        for who in serial_numbers(1000)
    ]
    assert fullest(sorted(waits), window / 10) < 160
    assert max(waits) > 0.9 * window


KEPT = Turn("x", why="no").as_json()


@pytest.mark.parametrize(
    "kept",
    [
        {},
        {"boot_id": "x"},
        {**KEPT, "since": "soon"},
        {**KEPT, "since": float("nan")},
        {**KEPT, "since": -1e300},
        {**KEPT, "seen": -1},
        {**KEPT, "until": 1e300},
        {**KEPT, "fields": 7},
        {**KEPT, "boot_id": [], "since": None, "until": {}},
    ],
)
def test_what_is_damaged_is_as_if_never_known(kept: dict[str, object]) -> None:
    assert Turn.of(kept) == Turn()
