"""When an LDevID is asked for again after it was refused: by the companion and by a boot alike.

A service that fails is started again in seconds, and a fleet that boots asks as one; so a boot
keeps to the pause that the companion keeps, and leaves its own to the companion.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from agent.backoff import NEVER_MIND, SHORTEST, Backoff, pause
from agent.errors import (
    MAYBE_THE_CLOCK,
    AgentError,
    EstPending,
    Later,
    LdevidWaits,
    Refused,
    RenewalBringsNothing,
    ServerBusy,
    TimedOut,
    Unreachable,
)
from agent.state import State, read_json, write_json
from agent.steps.ldevid import Ldevid
from agent.traffic import Traffic, traffic


def after(
    error: AgentError, before: Backoff, ours: Ldevid, now: datetime, *, overdue: bool
) -> Backoff:
    """What `error` adds to what was `before`. Who says when to come back is taken at his word, if
    that is soon enough for the certificate in use; to be told so by a CA is no failure, and a clock
    that is not right yet adds nothing."""
    if isinstance(error, MAYBE_THE_CLOCK):
        return before
    failures = before.failures + (not isinstance(error, EstPending))
    most, in_vain = longest(ours, now), isinstance(error, RenewalBringsNothing)
    left = NEVER_MIND if most is None or in_vain else 2 * most
    late = (overdue or most is None) and not in_vain  # asked more often, it brings no more
    wait = pause(failures, ours.who(), late, left)
    if isinstance(error, Later) and error.seconds is not None:
        told = timedelta(seconds=error.seconds)
        wait = max(told, SHORTEST if isinstance(error, EstPending) else wait)
        wait = wait if most is None else min(wait, most)
    return Backoff(failures, now + wait, heard(error))


def longest(ours: Ldevid, now: datetime) -> timedelta | None:
    """Nobody's word keeps us waiting for more than half of the time that the certificate in use has
    left, 5 minutes at least; None if it does not work any more."""
    if not ours.works():
        return None
    return max((ours.chain()[0].not_valid_after_utc - now) / 2, SHORTEST)


def heard(error: AgentError, before: Traffic | None = None) -> bool:
    """Somebody had to do something for us, since `before`, if that is known. A network that is not
    up yet, or a clock that is not right yet, is nobody."""
    if isinstance(error, TimedOut | Refused | ServerBusy | EstPending):
        return True
    if isinstance(error, (Unreachable, *MAYBE_THE_CLOCK)):
        return False
    return before is not None and traffic() != before


# --- at a boot ---


@contextmanager
def kept(ours: Ldevid) -> Iterator[None]:
    """Raises LdevidWaits in a pause that an answer was the reason of; what is raised within makes
    the next one."""
    state, before, asked = ours.state, _read(ours.state), traffic()
    now = datetime.now(UTC)
    if before.heard and before.not_before and before.waits(now):
        raise _waits(state, before.not_before, now)
    try:
        yield
    except AgentError as e:
        if heard(e, asked):
            _write(state, after(e, before, ours, now, overdue=True))
        raise
    if before != Backoff():
        _write(state, Backoff())


def _waits(state: State, until: datetime, now: datetime) -> LdevidWaits:
    return LdevidWaits(
        "cannot get the LDevID back yet: it was refused lately, and is asked for from "
        f"{until:%Y-%m-%d %H:%M}Z on",
        seconds=int((until - now).total_seconds()),
        path=state.health,
    )


def _read(state: State) -> Backoff:
    found = (read_json(state.health) or {}).get("backoff")
    return Backoff.of(found if isinstance(found, dict) else {})


def _write(state: State, backoff: Backoff) -> None:
    """The companion's other knowledge stays."""
    write_json(
        state.health, {**(read_json(state.health) or {}), "backoff": backoff.as_json()}, mode=0o644
    )
