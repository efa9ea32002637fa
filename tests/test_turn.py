"""Each device of a fleet asks DPS in its turn, and not again at once when DPS said no."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent import turn
from agent.config import Config, Dps
from agent.errors import (
    AgentError,
    DpsBusy,
    DpsNotEnrolled,
    DpsWaits,
    TimedOut,
    TlsDates,
    Unreachable,
)
from agent.moment import Moment, moment
from agent.state import State, read_json, write_json
from agent.steps.turns import in_turn
from agent.turn import Turn
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


def test_it_is_waited_from_when_it_first_wanted_to_register_in_this_boot() -> None:
    ours = turn.arrived(Turn(), NOW)
    wait = turn.left(ours, WHO, 3600, NOW, NOON)
    assert wait == 3600 * turn.place(WHO)
    again = turn.arrived(ours, later(30))
    assert again == ours
    assert turn.left(again, WHO, 3600, later(30), NOON) == pytest.approx(wait - 30)
    assert turn.left(again, WHO, 3600, later(3600), NOON) == 0


def test_the_power_returns_for_all_so_another_boot_waits_anew() -> None:
    ours = turn.arrived(turn.arrived(Turn(), NOW), Moment("next boot", 40.0))
    assert turn.left(ours, WHO, 3600, Moment("next boot", 40.0), NOON) == 3600 * turn.place(WHO)


@pytest.mark.parametrize("jump", [-400 * DAY, -DAY, DAY, 400 * DAY])
def test_a_clock_that_is_set_changes_nothing_within_a_boot(jump: timedelta) -> None:
    ours = turn.failed(turn.arrived(Turn(), NOW), WHO, 0, NOW, NOON, told=600)
    assert 540 <= turn.left(ours, WHO, 0, later(60), NOON + jump) <= 840
    assert turn.left(ours, WHO, 0, later(1000), NOON + jump) == 0


def test_a_pause_lasts_over_a_restart_by_the_wall_clock() -> None:
    ours = turn.failed(turn.arrived(Turn(), NOW), WHO, 0, NOW, NOON, told=600)
    boot = Moment("next boot", 20.0)
    ours = turn.arrived(Turn.of(ours.as_json()), boot)
    assert turn.left(ours, WHO, 0, boot, NOON + timedelta(seconds=100)) >= 500
    assert turn.left(ours, WHO, 0, boot, NOON + timedelta(seconds=1000)) == 0


def test_a_clock_that_was_turned_back_does_not_make_a_pause_last_for_years() -> None:
    ours = turn.failed(turn.arrived(Turn(), NOW), WHO, 0, NOW, NOON, told=600)
    boot = Moment("next boot", 20.0)
    ours = turn.arrived(ours, boot)
    assert turn.left(ours, WHO, 0, boot, NOON - 400 * DAY) == 0


# --- pauses ---


def pause(failures: int, **more: object) -> float:
    ours = turn.arrived(Turn(failures=failures), NOW)
    return turn.left(turn.failed(ours, WHO, 0, NOW, NOON, **more), WHO, 0, NOW, NOON)  # type: ignore[arg-type]


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
    ours = turn.arrived(Turn(), Moment(NOW.boot_id, 0))
    waits = [
        turn.pause_left(turn.failed(ours, who, window, NOW, NOON), NOW, NOON)
        for who in serial_numbers(1000)
    ]
    assert fullest(sorted(waits), window / 10) < 160
    assert max(waits) > 0.9 * window


@pytest.mark.parametrize(
    "kept",
    [
        {},
        {"boot_id": "x"},
        {"boot_id": "x", "since": "soon", "until": 0, "why": ""},
        {"boot_id": "x", "since": float("nan"), "until": 0, "why": ""},
        {"boot_id": "x", "since": -1, "until": 0, "why": ""},
        {"boot_id": "x", "since": 0, "until": 1e300, "why": ""},
        {"boot_id": [], "since": None, "until": {}, "why": 7},
    ],
)
def test_what_is_damaged_is_as_if_never_known(kept: dict[str, object]) -> None:
    assert Turn.of(kept) == Turn()


# --- on a device ---


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path)


def conf(fleet: int = 1) -> Config:
    return Config(dps=Dps(id_scope="0ne00000000", fleet=fleet))


def attempt(
    state: State, error: AgentError | None = None, *, fleet: int = 1
) -> tuple[list[float], bool]:
    """What was waited for, and whether it then came to ask."""
    rests, asked = list[float](), False
    with in_turn(conf(fleet), state, WHO, rest=rests.append):
        asked = True
        if error:
            raise error
    return rests, asked


def test_a_device_of_a_small_fleet_waits_a_moment_and_asks(state: State) -> None:
    rests, asked = attempt(state, fleet=1000)
    assert asked
    assert all(0 < rest <= 70 for rest in rests)


def test_a_device_of_a_large_fleet_comes_again_until_its_turn_is_near(state: State) -> None:
    with pytest.raises(DpsWaits, match="among 1000000 devices") as caught:
        attempt(state, fleet=1_000_000)
    wait = turn.window(1_000_000, 1) * turn.place(WHO)
    assert caught.value.seconds is not None
    assert abs(caught.value.seconds - wait) < 60
    now = moment()
    write_json(state.turn, Turn(now.boot_id, max(0.0, now.uptime - wait + 30)).as_json())
    if now.uptime > wait:  # this machine has been up for so long
        assert attempt(state, fleet=1_000_000)[1]


def test_after_a_refusal_dps_is_left_alone_and_the_reason_is_not_forgotten(state: State) -> None:
    refusal = DpsNotEnrolled(
        "cannot register: unknown", host="h", registration_id=WHO, id_scope="s"
    )
    with pytest.raises(DpsNotEnrolled):
        attempt(state, refusal)
    with pytest.raises(DpsWaits, match=r"lately, cannot register: unknown \[dps-not-enr") as caught:
        attempt(state)
    assert caught.value.seconds is not None
    assert 14 * 60 < caught.value.seconds < 24 * 60
    state.turn.unlink()  # as the remedy says
    assert attempt(state)[1]


def test_retry_after_is_kept_over_processes(state: State) -> None:
    with pytest.raises(DpsBusy):
        attempt(state, DpsBusy("cannot register: 429", seconds=7200, host="h"))
    with pytest.raises(DpsWaits) as caught:
        attempt(state)
    assert caught.value.seconds is not None
    assert caught.value.seconds > 7100


@pytest.mark.parametrize(
    "error",
    [
        Unreachable("cannot reach it", host="h"),
        TimedOut("nothing came", host="h"),
        TlsDates("the clock", host="h"),
    ],
)
def test_whom_nobody_heard_tries_on(state: State, error: AgentError) -> None:
    with pytest.raises(type(error)):
        attempt(state, error)
    assert attempt(state)[1]


def test_a_success_ends_it_and_the_next_registration_has_a_turn_again(state: State) -> None:
    write_json(state.turn, Turn(moment().boot_id, 0.0, failures=7, why="old").as_json())
    attempt(state)
    assert Turn.of(read_json(state.turn) or {}) == Turn()
