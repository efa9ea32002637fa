"""What a run leaves behind: one line in the journal for each state that changed, the summary of the
moment in /run, a file for Prometheus, and what the next run is to know."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from agent import journal, store
from agent.config import Config
from agent.errors import AgentError
from agent.events import HEALTH_CHANGED
from agent.health import memory, shown
from agent.health.memory import Memory
from agent.health.shown import Report
from agent.state import State
from agent.status import scarce
from agent.tpm import Budget

log = logging.getLogger(__name__)
RUN = Path("/run/tpm2cloud")
TPM = "tpm"  # beside the names of certificates


def tell(conf: Config, state: State, known: Memory, report: Report) -> None:
    """The changes are told before it is remembered that they were: after a kill, rather twice than
    never. What cannot be written is told, and is no failure: the device is not worse for it."""
    for name, was, now in shown.changes(known.states, report):
        seen = next(each for each in report.certificates if each.name == name)
        _line(seen.state == "fresh", name, was, now, seen.why, seen.next)
    known.states = {each.name: each.state for each in report.certificates}
    _of_tpm(known, report)
    _summary(report)
    _for_prometheus(conf, known, report)
    _kept(state, known)


@contextmanager
def witness(state: State) -> Iterator[Callable[[Config], None]]:
    """A run that came to nothing is told where others look for what came of it: else they go on
    reading that all is well. What it calls with the configuration, once it has that, is for
    Prometheus. To be entered by who has the lock."""
    confs: list[Config] = []
    try:
        yield confs.append
    except AgentError as e:
        _came_to_nothing(state, confs, e)
        raise
    except Exception as e:
        _came_to_nothing(state, confs, AgentError(f"cannot go on: {type(e).__name__}"))
        raise


def _came_to_nothing(state: State, confs: Sequence[Config], why: AgentError) -> None:
    report, known = Report(datetime.now(UTC), problem=why), memory.load(state)
    _summary(report)
    for conf in confs:
        before = known.textfile
        _for_prometheus(conf, known, report)
        if known.textfile != before:
            _kept(state, known)


def _summary(report: Report) -> None:
    text = json.dumps(shown.as_json(report), indent=2).encode() + b"\n"
    if failure := _written(summary_file(), text):
        log.warning("%s, ignoring", failure)


def _for_prometheus(conf: Config, known: Memory, report: Report) -> None:
    """Why it cannot be written is told once, not hour by hour."""
    path, failure = conf.health.textfile, None
    if path:
        failure = _written(path, shown.textfile(report).encode())
    if failure and str(failure) != known.textfile:
        log.warning("%s, ignoring", failure)
    known.textfile = str(failure or "")


def _of_tpm(known: Memory, report: Report) -> None:
    """Its lockout counter, its slots and its NV, as far as they are near their end."""
    if not isinstance(report.tpm, Budget):
        return
    was, now = known.tpm, "; ".join(scarce(report.tpm)) or "well"
    if was != now and not (was == "" and now == "well"):
        _line(now == "well", TPM, was or "unknown", now, now, "see: tpm2cloud status")
    known.tpm = now


def _line(fine: bool, name: str, was: str, now: str, why: str, then: str) -> None:
    about = journal.about(HEALTH_CHANGED, certificate=name, was=was, state=now, why=why, next=then)
    level = logging.INFO if fine else logging.WARNING
    log.log(level, "%s is %s (was: %s): %s", name, now, was, why, extra=about)


def _kept(state: State, known: Memory) -> None:
    try:
        memory.save(state, known)
    except AgentError as e:
        log.warning("%s, ignoring: what was told now is told again", e)


def summary_file() -> Path:
    """systemd names its directory, and makes it; for a person who runs us by hand it may be
    missing."""
    named = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return (Path(named) if named else RUN) / "health.json"


def _written(path: Path, data: bytes) -> AgentError | None:
    """Why it could not be, if so."""
    try:
        with store.permitted(path.parent):
            if path.parent == RUN:
                path.parent.mkdir(mode=0o755, exist_ok=True)
        store.write(path, data, mode=0o644)
    except AgentError as e:
        return e
    return None
