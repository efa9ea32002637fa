"""What the companion saw and did: for a person, for programs, for Prometheus, and as exit status.

JSON names stay as they are, once released; times in it are RFC 3339, UTC, to the second.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agent.errors import AgentError
from agent.health.judge import CONDITIONS, Judged
from agent.status import Room, room_as_json, room_in_words
from agent.tpm import Budget

WELL, TRIED, PERSON = 0, 3, 4
STATES = {WELL: "well", TRIED: "being tried", PERSON: "a person is needed"}
SENTENCES = {
    WELL: "All is well with this device.",
    TRIED: "Not all is well with this device; nobody need come, it is tried again.",
    PERSON: "Not all is well with this device, and it needs a person.",
}


@dataclass(frozen=True)
class Report:
    """One look. `at`: when. `actions`: sentences. `services`: systemd's word for each unit, and
    perhaps more of it: "active (running)".

    `data`: bytes "sent" and "received" today, and their "limit", 0 for none. `problem`: what
    stopped the run, or a part of it. `waits`: what is not done yet, and is no certificate, in
    sentences. `dry`: nothing was done, the actions are what would be. `tpm`: None if it was not
    asked.
    """

    at: datetime
    certificates: Sequence[Judged] = ()
    tpm: Room | None = None
    actions: Sequence[str] = ()
    services: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, int] = field(default_factory=dict)
    problem: AgentError | None = None
    waits: Sequence[str] = ()
    dry: bool = False


# --- all in all ---


def verdict(report: Report) -> int:
    """The exit status: 0 all is well; 3 something is not, and is tried, or passes by itself; 4 a
    person is needed. What this device works without does not count."""
    bad = [each for each in report.certificates if not _fine(each)]
    if any(not each.by and each.state != "not yet valid" for each in bad):
        return PERSON
    if report.problem and report.problem.status != os.EX_TEMPFAIL:
        return PERSON
    locked = isinstance(report.tpm, Budget) and report.tpm.in_lockout
    return TRIED if bad or report.problem or report.waits or locked else WELL


def changes(before: Mapping[str, str], report: Report) -> list[tuple[str, str, str]]:
    """(certificate, its state `before`, its state now), where that is another.

    What was never looked at before is news only if it is not as it should be.
    """
    found: list[tuple[str, str, str]] = []
    for each in report.certificates:
        was = before.get(each.name)
        if was != each.state and not (was is None and _fine(each)):
            found.append((each.name, was or "unknown", each.state))
    return found


def _fine(each: Judged) -> bool:
    """Or not needed: not yet there, or nobody's to renew."""
    return each.state == "fresh" or (not each.needed and (each.state == "missing" or not each.by))


# --- for a person ---


def as_text(report: Report) -> Iterator[str]:
    """Line by line, without line ends."""
    yield from _certificates(report.certificates)
    if report.tpm:
        yield from room_in_words(report.tpm)
    if report.services:
        each = [f"{unit} {state}" for unit, state in report.services.items()]
        yield f"Services: {', '.join(each)}."
    if report.data:
        yield _data_in_words(report.data)
    yield from (f"{'It' if report.dry else 'Done:'} {action}" for action in report.actions)
    yield from (f"{each}." for each in report.waits)
    if report.problem:
        yield f"{report.problem} [{report.problem.code}]"
        yield f"  Remedy: {report.problem.remedy}"
    yield SENTENCES[verdict(report)]


def _certificates(certificates: Sequence[Judged]) -> Iterator[str]:
    """What is not there, and not missed, needs no line."""
    seen = [each for each in certificates if each.needed or each.state != "missing"]
    name = max((len(each.name) for each in seen), default=0)
    state = max((len(each.state) for each in seen), default=0)
    for each in seen:
        yield f"{each.name:{name}}  {each.state:{state}}  {each.why}"
        if each.state != "fresh":
            yield f"{'':{name}}  {'':{state}}  Next: {each.next}"


def _data_in_words(data: Mapping[str, int]) -> str:
    limit = f", of {data['limit']} allowed" if data.get("limit") else ""
    return f"Data today: {data['sent']} bytes sent, {data['received']} received{limit}."


# --- for programs ---


def as_json(report: Report) -> dict[str, Any]:
    """`tpm`: as `tpm2cloud status --json` has it."""
    return {
        "at": _rfc3339(report.at),
        "state": STATES[verdict(report)],
        "certificates": [_as_json(each) for each in report.certificates],
        "tpm": room_as_json(report.tpm) if report.tpm else None,
        "services": dict(report.services),
        "data": dict(report.data),
        "actions": list(report.actions),
        "waits": list(report.waits),
        "problem": _problem(report.problem),
    }


def _as_json(each: Judged) -> dict[str, Any]:
    return {
        "name": each.name,
        "what": each.what,
        "state": each.state,
        "not_before": _rfc3339(each.not_before),
        "not_after": _rfc3339(each.not_after),
        "threshold": _rfc3339(each.threshold),
        "why": each.why,
        "next": each.next,
        "renewed_by": each.by or None,
        "needed": each.needed,
    }


def _problem(error: AgentError | None) -> dict[str, str] | None:
    if error is None:
        return None
    return {"code": error.code, "message": str(error), "remedy": error.remedy}


def _rfc3339(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


# --- for Prometheus ---

Sample = tuple[dict[str, str], float]


def textfile(report: Report) -> str:
    """For the textfile collector of Prometheus' node exporter: the text format, all gauges."""
    return "".join(f"{line}\n" for family in _families(report) for line in _written(*family))


def _families(report: Report) -> Iterator[tuple[str, str, Iterable[Sample]]]:
    """(name without prefix, help, samples) of each metric."""
    yield "health_last_run_seconds", "When it was looked.", [({}, report.at.timestamp())]
    told = "0 all is well, 3 something is tried, 4 a person is needed."
    yield "health_verdict", told, [({}, verdict(report))]
    for name, told in _DATES.items():
        yield f"certificate_{name}_seconds", told, list(_dates(report, name))
    told = "1 for the state that a certificate is in, 0 for the others."
    yield "certificate_state", told, list(_states(report))
    if isinstance(report.tpm, Budget):
        for name, told in _ROOM.items():
            yield f"tpm_{name}", told, [({}, getattr(report.tpm, name))]
    units = {unit: state.split(maxsplit=1)[:1] for unit, state in report.services.items()}
    active = [({"unit": unit}, word == ["active"]) for unit, word in units.items()]
    yield "service_active", "Whether a service is active.", active
    data = [({"direction": name}, report.data.get(name, 0)) for name in ("sent", "received")]
    yield "data_bytes", "Bytes of today.", data
    yield "data_limit_bytes", "Bytes allowed a day, 0: any.", [({}, report.data.get("limit", 0))]


_DATES = {
    "not_before": "When a certificate becomes valid.",
    "not_after": "When a certificate expires.",
    "threshold": "From when on a certificate is renewed.",
}
_ROOM = {
    "lockout_counter": "Wrong passwords that the TPM remembers.",
    "lockout_max": "Wrong passwords at which it goes into lockout.",
    "in_lockout": "Whether it is in lockout.",
    "persistent_used": "Keys kept.",
    "persistent_available": "Room for kept keys.",
    "transient_available": "Free slots for loaded keys.",
    "sessions_available": "Free slots for sessions.",
    "nv_indices": "NV indices.",
    "nv_bytes": "Bytes in them.",
}


def _dates(report: Report, name: str) -> Iterator[Sample]:
    for each in report.certificates:
        moment: datetime | None = getattr(each, name)
        if moment is not None:
            yield {"certificate": each.name}, moment.timestamp()


def _states(report: Report) -> Iterator[Sample]:
    """Without what is not there and not needed: whoever has an alert for "missing" means others."""
    for each in report.certificates:
        if each.needed or each.state != "missing":
            for state in CONDITIONS:
                yield {"certificate": each.name, "state": state}, state == each.state


def _written(name: str, told: str, samples: Iterable[Sample]) -> Iterator[str]:
    """Of a metric without samples, nothing."""
    for n, (labels, value) in enumerate(samples):
        if n == 0:
            yield f"# HELP tpm2cloud_{name} {told}"
            yield f"# TYPE tpm2cloud_{name} gauge"
        pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"tpm2cloud_{name}{f'{{{pairs}}}' if pairs else ''} {int(value)}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
