"""Why the last run of `provision` stopped, for those who ask later."""

import contextlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime

from agent import events, journal, store
from agent.errors import AgentError
from agent.state import State, read_json, write_json

log = logging.getLogger(__name__)


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
            if {**(read_json(state.failure) or {}), "at": None} != {**told, "at": None}:
                write_json(state.failure, {**told, "at": at}, mode=0o644)
        except AgentError as unwritten:
            about = journal.about(events.FAILURE_NOT_KEPT, **unwritten.fields)
            log.warning("%s, ignoring: status will not know of this", unwritten, extra=about)
        raise
    if store.exists(state.failure):
        store.remove(state.failure)
