"""A device that is to ask DPS: it waits for its turn and after a refusal, and what it is told."""

import stat
from pathlib import Path
from typing import Any

import pytest

from agent import turn
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
from agent.moment import moment
from agent.state import State, read_json, write_json
from agent.steps.turns import Asking, in_turn
from agent.turn import Turn

WHO = "device-17"


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
