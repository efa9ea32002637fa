"""DPS is asked in turn (agent/turn.py), and not again too soon after it said no; kept on disk."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from agent import journal, turn
from agent.config import Config
from agent.errors import (
    MAYBE_THE_CLOCK,
    AgentError,
    DpsWaits,
    Later,
    ProxyRefused,
    Refused,
    ServerBusy,
    Stopped,
    TimedOut,
    Unreachable,
    every_error,
)
from agent.moment import moment
from agent.state import State, read_json, write_json
from agent.traffic import Traffic, traffic
from agent.turn import Failure, Turn

NO = Refused | ProxyRefused  # somebody has to put something right
AT_ONCE = "tpm2cloud provision --reregister"


@dataclass(frozen=True)
class Asking:
    """Who asks. `herd`: it has no hub that lets it in, and after a power cut all such devices ask
    as one; who has one asks alone, for a reason of its own. `person`: somebody is at the device,
    who has put right what DPS disliked. `rest`: how the last `near` seconds are waited; it may
    raise."""

    who: str
    herd: bool = True
    person: bool = False
    rest: Callable[[float], object] = time.sleep
    near: float = turn.NEAR


@contextmanager
def in_turn(conf: Config, state: State, asking: Asking) -> Iterator[None]:
    """When it is this device's turn, and no pause is on. Until then what made the pause is raised
    again, if it was a refusal, else DpsWaits; `seconds` says for how long. What is raised within
    makes a pause, if it came of an answer."""
    _wait(conf, state, asking)
    asked = traffic()
    try:
        yield
    except AgentError as e:
        if _heard(e, asked):
            _failed(conf, state, asking, e)
        raise
    _write(state, Turn())


def window(conf: Config) -> float:
    """Seconds in which all devices of the fleet have their turn."""
    return turn.window(conf.dps.fleet, turn.REQUESTS[conf.dps.attestation])


def _wait(conf: Config, state: State, asking: Asking) -> None:
    now = moment()
    ours = turn.arrived(_read(state), window(conf), now, datetime.now(UTC))
    _write(state, ours)
    if asking.person and (ours.code or not ours.failures):
        return
    left = turn.left(ours, asking.who, window(conf) if asking.herd else 0.0, now)
    if left > asking.near:
        raise _waits(conf, ours, asking.who, left)
    if left > 0:
        journal.tell_systemd(f"STATUS=registration: its turn is in {left:.0f} seconds")
        asking.rest(left)


def _waits(conf: Config, ours: Turn, who: str, left: float) -> AgentError:
    at = f"{datetime.now(UTC) + timedelta(seconds=left):%Y-%m-%d %H:%M}Z"
    again = _again(ours, f"DPS is asked again from {at} on, or at once by: {AT_ONCE}")
    if again is None:
        why = f"it has a turn of its own among {conf.dps.fleet} devices (dps.fleet), at {at}"
        if ours.failures:
            why = f"DPS is asked again from {at} on; lately, {ours.why}"
        again = DpsWaits(f"cannot register '{who}' yet: {why}")
    again.seconds = int(left)
    return again


def _again(ours: Turn, when: str) -> AgentError | None:
    """The refusal that made the pause; None if none did, or it is not known any more."""
    fields: dict[str, Any] = {**ours.fields}
    for kind in every_error():
        if kind.code == ours.code and issubclass(kind, NO):
            try:
                return kind(f"{ours.why}; {when}", **fields)
            except KeyError:  # its remedy is another one, since an update
                return None
    return None


def _heard(error: AgentError, before: Traffic) -> bool:
    """Somebody had to do something for us. A network that is not up yet, or a clock that is not
    right yet, is nobody; a proxy that says no is somebody, and may lock the account."""
    if isinstance(error, TimedOut):
        return traffic() != before
    if isinstance(error, NO | ServerBusy):
        return True
    if isinstance(error, (Unreachable, Stopped, *MAYBE_THE_CLOCK)):
        return False
    return traffic() != before


def _failed(conf: Config, state: State, asking: Asking, error: AgentError) -> None:
    """A proxy is not what all of the fleet ask."""
    now, wall, all_of_it = moment(), datetime.now(UTC), window(conf)
    no, proxy = isinstance(error, NO), isinstance(error, ProxyRefused)
    failure = Failure(
        why=str(error) if no else f"{error} [{error.code}]",
        told=error.seconds if isinstance(error, Later) else None,
        code=error.code if no else "",
        fields=error.fields if no else {},
        slow=no and not proxy,
    )
    ours = turn.arrived(_read(state), all_of_it, now, wall)
    after = turn.failed(ours, failure, asking.who, 0.0 if proxy else all_of_it, now, wall)
    _write(state, after)
    error.seconds = int(turn.pause_left(after, now))


def _read(state: State) -> Turn:
    return Turn.of(read_json(state.turn) or {})


def _write(state: State, ours: Turn) -> None:
    """A server's words are in it."""
    if ours != _read(state):
        write_json(state.turn, ours.as_json())
