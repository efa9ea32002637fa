"""The question that goes before the remedies, and its pauses: a server that has said no, or to come
back later, or nothing at all, is not asked for the sake of IoT Edge hour by hour.

What it said is kept until then, and counts for as long.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from agent.backoff import NEVER_MIND, SHORTEST, Backoff, pause
from agent.errors import MAYBE_THE_CLOCK, AgentError, Later
from agent.health.memory import as_error, as_trouble


def failed(
    error: AgentError, before: Mapping[str, Any], seed: str, now: datetime, ends: datetime | None
) -> dict[str, Any]:
    """What is kept of an answer that was none. `ends`: the certificate that it is about; nobody's
    word makes us wait for more than half of what that has left, as long as it works. A clock that
    is not right is asked about again."""
    if isinstance(error, MAYBE_THE_CLOCK):
        return dict(before)
    failures, left = Backoff.of(before).failures + 1, ends - now if ends else timedelta()
    wait = pause(failures, seed, True, left if left > timedelta() else NEVER_MIND)
    if isinstance(error, Later) and error.seconds is not None:
        wait = max(wait, timedelta(seconds=error.seconds))
        wait = min(wait, max(left / 2, SHORTEST)) if left > timedelta() else wait
    return {**Backoff(failures, now + wait).as_json(), **as_trouble(error)}


def answered(kept: Mapping[str, Any], now: datetime) -> AgentError | None:
    """What was answered, while it is too early to ask again. What is damaged is as if never
    known."""
    until = Backoff.of(kept).not_before
    if until is None or not Backoff.of(kept).waits(now):
        return None
    again = f"{kept.get('message')}; asked again from {until:%Y-%m-%d %H:%M}Z on"
    return as_error({**kept, "message": again})
