"""DPS is asked in turn (agent/turn.py), and not again too soon after it said no; kept on disk."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from agent import journal, turn
from agent.config import Config
from agent.errors import (
    AgentError,
    DpsWaits,
    Later,
    Refused,
    ServerBusy,
    Stopped,
    TimedOut,
    TlsDates,
    Unreachable,
)
from agent.moment import Moment, moment
from agent.state import State, read_json, write_json
from agent.traffic import Traffic, traffic
from agent.turn import Turn


@contextmanager
def in_turn(
    conf: Config,
    state: State,
    who: str,
    *,
    rest: Callable[[float], object] = time.sleep,
    near: float = turn.NEAR,
) -> Iterator[None]:
    """When it is this device's turn; until then DpsWaits is raised, or, the last `near` seconds,
    it is waited here, by `rest`. What is raised within makes a pause, if it came of an answer."""
    _wait(conf, state, who, rest, near)
    asked = traffic()
    try:
        yield
    except AgentError as e:
        if _heard(e, asked):
            _failed(conf, state, who, e)
        raise
    _write(state, Turn())


def window(conf: Config) -> float:
    """Seconds in which all devices of the fleet have their turn."""
    return turn.window(conf.dps.fleet, turn.REQUESTS[conf.dps.attestation])


def _wait(
    conf: Config, state: State, who: str, rest: Callable[[float], object], near: float
) -> None:
    now, wall, before = moment(), datetime.now(UTC), _read(state)
    ours = turn.arrived(before, now)
    if ours != before:
        _write(state, ours)
    left = turn.left(ours, who, window(conf), now, wall)
    if left > near:
        raise _waits(conf, state, who, ours, now, left)
    if left > 0:
        journal.tell_systemd(f"STATUS=registration: its turn is in {left:.0f} seconds")
        rest(left)


def _waits(conf: Config, state: State, who: str, ours: Turn, now: Moment, left: float) -> DpsWaits:
    wall = datetime.now(UTC)
    at = f"{wall + timedelta(seconds=left):%Y-%m-%d %H:%M}Z"
    why = f"it has a turn of its own among {conf.dps.fleet} devices (dps.fleet), at {at}"
    if turn.pause_left(ours, now, wall) > turn.NEAR:
        why = f"DPS is asked again from {at} on; lately, {ours.why or 'it refused'}"
    message = f"cannot register '{who}' yet: {why}"
    return DpsWaits(message, seconds=int(left), path=state.turn)


def _heard(error: AgentError, before: Traffic) -> bool:
    """Somebody had to do something for us. A network that is not up yet, or a clock that is not
    right yet, is nobody."""
    if isinstance(error, TimedOut):
        return traffic() != before
    if isinstance(error, Unreachable | TlsDates | Stopped):
        return False
    return isinstance(error, Refused | ServerBusy) or traffic() != before


def _failed(conf: Config, state: State, who: str, error: AgentError) -> None:
    now, wall = moment(), datetime.now(UTC)
    after = turn.failed(
        turn.arrived(_read(state), now),
        who,
        window(conf),
        now,
        wall,
        told=error.seconds if isinstance(error, Later) else None,
        slow=isinstance(error, Refused),
        why=f"{error} [{error.code}]",
    )
    _write(state, after)


def _read(state: State) -> Turn:
    return Turn.of(read_json(state.turn) or {})


def _write(state: State, ours: Turn) -> None:
    if ours != _read(state):
        write_json(state.turn, ours.as_json(), mode=0o644)
