"""Why the last run of `provision` stopped, for those who ask later."""

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from agent import events, journal, store
from agent.errors import AgentError
from agent.state import State, read_json, write_json

log = logging.getLogger(__name__)
TIME = re.compile(r"\d{4,}-\d\d-\d\d \d\d:\d\d")  # as our messages have it


@contextlib.contextmanager
def remembered(state: State) -> Iterator[None]:
    """Why a run stopped is kept for `status`, until one does not; and since when, where the same
    comes again and again."""
    try:
        yield
    except AgentError as e:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        told = {"step": e.step, "code": e.code, "message": str(e), "remedy": e.remedy}
        try:
            if _timeless(read_json(state.failure) or {}) != _timeless(told):
                write_json(state.failure, {**told, "at": at}, mode=0o644)
        except AgentError as unwritten:
            about = journal.about(events.FAILURE_NOT_KEPT, **unwritten.fields)
            log.warning("%s, ignoring: status will not know of this", unwritten, extra=about)
        raise
    if store.exists(state.failure):
        store.remove(state.failure)


def _timeless(told: Mapping[str, Any]) -> dict[str, Any]:
    """A wrong clock is told of with the time that it shows, every 30 seconds another: to keep each
    would wear flash memory out."""
    return {**told, "at": None, "message": TIME.sub("", str(told.get("message")))}
