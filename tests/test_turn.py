"""Each device of a fleet asks DPS in its turn, and not again at once when DPS said no."""

import os
import random
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent import nap, turn
from agent.config import Config, Dps
from agent.errors import (
    AgentError,
    ClockImplausible,
    DpsBusy,
    DpsClock,
    DpsNotEnrolled,
    DpsWaits,
    ProxyLogin,
    ProxyRefused,
    TimedOut,
    TlsDates,
    Unreachable,
)
from agent.moment import Moment, moment
from agent.state import State, read_json, write_json
from agent.steps.turns import Asking, in_turn
from agent.turn import Failure, Turn
from tests.lab.clock import Clock
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


# --- on a device ---


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path)


def conf(fleet: int = 1) -> Config:
    return Config(dps=Dps(id_scope="0ne00000000", fleet=fleet))


def attempt(
    state: State, error: AgentError | None = None, *, fleet: int = 1, **asking: Any
) -> tuple[list[float], bool]:
    """What was waited for, and whether it then came to ask."""
    rests, asked = list[float](), False
    with in_turn(conf(fleet), state, Asking(WHO, rest=rests.append, **asking)):
        asked = True
        if error:
            raise error
    return rests, asked


def refused() -> DpsNotEnrolled:
    return DpsNotEnrolled("cannot register: unknown", host="h", registration_id=WHO, id_scope="0ne")


def paused(state: State) -> float:
    return turn.pause_left(Turn.of(read_json(state.turn) or {}), moment())


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
    write_json(state.turn, Turn(now.boot_id, now.uptime - wait + 30, seen=now.uptime).as_json())
    rests, asked = attempt(state, fleet=1_000_000)
    assert asked
    assert all(rest <= 30 for rest in rests)


@pytest.mark.parametrize("how", [{"herd": False}, {"person": True}])
def test_who_has_a_hub_and_who_is_asked_by_a_person_waits_for_no_turn(
    state: State, how: dict[str, Any]
) -> None:
    assert attempt(state, fleet=1_000_000, **how) == ([], True)


def test_after_a_refusal_dps_is_left_alone_and_it_is_told_as_what_it_is(state: State) -> None:
    with pytest.raises(DpsNotEnrolled) as first:
        attempt(state, refused())
    with pytest.raises(
        DpsNotEnrolled, match=r"unknown; DPS is asked again from .*Z on, or at"
    ) as e:
        attempt(state)
    assert (e.value.status, e.value.remedy) == (76, first.value.remedy)
    assert "--reregister" in str(e.value)
    for error in (first.value, e.value):
        assert error.seconds is not None
        assert 14 * 60 < error.seconds < 24 * 60
    assert stat.S_IMODE(state.turn.stat().st_mode) == 0o600  # a server's words are in it


def test_a_person_who_has_put_it_right_is_not_held_up_by_a_refusal(state: State) -> None:
    with pytest.raises(DpsNotEnrolled):
        attempt(state, refused(), fleet=1_000_000, herd=False)
    with pytest.raises(DpsNotEnrolled):
        attempt(state, fleet=1_000_000, herd=False)
    assert attempt(state, fleet=1_000_000, person=True)[1]


def test_what_dps_said_of_when_to_come_back_counts_for_a_person_too(state: State) -> None:
    with pytest.raises(DpsBusy):
        attempt(state, DpsBusy("cannot register: 429", seconds=7200, host="h"))
    for person in (False, True):
        with pytest.raises(DpsWaits, match="lately, cannot register: 429") as caught:
            attempt(state, person=person)
        assert caught.value.seconds is not None
        assert caught.value.seconds > 7100


def test_a_refusal_that_nobody_knows_any_more_is_waited_for_all_the_same(state: State) -> None:
    with pytest.raises(DpsNotEnrolled):
        attempt(state, refused())
    changes: list[dict[str, Any]] = [{"code": "of-old"}, {"fields": {}}]
    for change in changes:
        write_json(state.turn, {**(read_json(state.turn) or {}), **change})
        with pytest.raises(DpsWaits, match="lately, cannot register: unknown"):
            attempt(state)


@pytest.mark.parametrize(
    "error",
    [
        Unreachable("cannot reach it", host="h"),
        TimedOut("nothing came", host="h"),
        TlsDates("the clock", host="h"),
        DpsClock("the clock"),
        ClockImplausible("the clock"),
    ],
)
def test_whom_nobody_heard_or_whose_clock_is_wrong_tries_on(
    state: State, error: AgentError
) -> None:
    with pytest.raises(type(error)):
        attempt(state, error)
    assert attempt(state)[1]


@pytest.mark.parametrize("kind", [ProxyLogin, ProxyRefused])
def test_a_proxy_that_says_no_is_not_asked_every_30_seconds(
    state: State, kind: type[ProxyRefused]
) -> None:
    """Or it locks the account; but nobody else of the fleet is in its way."""
    for least in (60, 120, 240):
        with pytest.raises(kind):
            attempt(state, kind("no", proxy="p", host="h"), fleet=1_000_000, person=True)
        assert least - 5 <= paused(state) <= 1.5 * least
        with pytest.raises(kind, match="no; DPS is asked again") as caught:
            attempt(state, fleet=1_000_000, near=0)
        assert caught.value.status == 75


def test_a_success_ends_it(state: State) -> None:
    write_json(state.turn, Turn(moment().boot_id, 0.0, failures=7, why="old").as_json())
    attempt(state)
    assert Turn.of(read_json(state.turn) or {}) == Turn()


# --- a service waits before it ends ---


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
