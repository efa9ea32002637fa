"""Where this device is: the plan's own steps, asked and not run."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from agent.errors import AgentError, NoPermission, every_error
from agent.state import State, read_json
from agent.steps import Step

PROVISIONED, NOT_YET, FAILED, UNKNOWN = 0, 3, 4, os.EX_NOPERM
SENTENCES = {
    PROVISIONED: "provisioned",
    NOT_YET: "not yet provisioned",
    FAILED: "not provisioned, and needs what the remedy says",
    UNKNOWN: "in a state that this user may not see",
}


@dataclass(frozen=True)
class Seen:
    """One step: 'done' with its evidence, 'to do', 'waiting' (what stopped it is tried again) or
    'failed' with a code and a remedy, or 'unknown' to this user."""

    step: str
    state: Literal["done", "to do", "waiting", "failed", "unknown"]
    detail: str = ""
    code: str | None = None
    remedy: str | None = None


def look(steps: Sequence[Step], state: State) -> list[Seen]:
    """Every step; what the last run failed of is told at its step, while that is not done, or
    before them all if it did not come that far."""
    last = read_json(state.failure) or {}
    seen = _once([_look(step, last) for step in steps])
    if last.get("message") and last.get("step") is None and verdict(seen) != PROVISIONED:
        seen.insert(0, _failed("start", last))
    return seen


def _once(seen: Sequence[Seen]) -> list[Seen]:
    """What keeps several steps from being looked at is told at the first of them."""
    first: dict[str, str] = {}
    for each in seen:
        if each.state in ("waiting", "failed"):
            first.setdefault(each.detail, each.step)
    return [_as(each, first.get(each.detail, each.step)) for each in seen]


def _as(seen: Seen, first: str) -> Seen:
    return seen if first == seen.step else Seen(seen.step, "to do", f"waits, as '{first}' does")


def _look(step: Step, last: dict[str, Any]) -> Seen:
    try:
        evidence = step.done()
    except NoPermission as e:
        return Seen(step.name, "unknown", str(e), e.code, e.remedy)
    except AgentError as e:
        return Seen(step.name, _state(e.code), str(e), e.code, e.remedy)
    if evidence is not None:
        return Seen(step.name, "done", evidence)
    if last.get("step") == step.name:
        return _failed(step.name, last)
    return Seen(step.name, "to do")


def _failed(name: str, last: dict[str, Any]) -> Seen:
    when = f"{last.get('message')} (last tried {last.get('at')})"
    code = last.get("code")
    return Seen(name, _state(code), when, code, last.get("remedy"))


def _state(code: str | None) -> Literal["waiting", "failed"]:
    """What passes by itself is no failure: nobody need go there."""
    return "waiting" if code in _passing() else "failed"


def _passing() -> set[str]:
    return {error.code for error in every_error() if error.status == os.EX_TEMPFAIL}


def verdict(seen: Sequence[Seen]) -> int:
    """The exit status: 0 provisioned, 3 not yet (something to do, or waiting), 4 failed, 77 not for
    this user to know."""
    states = {each.state for each in seen}
    if "unknown" in states:
        return UNKNOWN
    return FAILED if "failed" in states else NOT_YET if states != {"done"} else PROVISIONED


def as_json(seen: Sequence[Seen]) -> dict[str, Any]:
    words = {PROVISIONED: "provisioned", NOT_YET: "not yet", FAILED: "failed", UNKNOWN: "unknown"}
    return {"state": words[verdict(seen)], "steps": [asdict(each) for each in seen]}


def as_text(seen: Sequence[Seen]) -> Iterator[str]:
    width = max(len(each.step) for each in seen)
    for each in seen:
        code = f" [{each.code}]" if each.code else ""
        yield f"{each.step:{width}}  {each.state:7}  {each.detail}{code}".rstrip()
        if each.remedy:
            yield f"{'':{width}}           Remedy: {each.remedy}"
    waits = verdict(seen) == NOT_YET and any(each.state == "waiting" for each in seen)
    yield f"This device is {SENTENCES[verdict(seen)]}{'; it is tried again' if waits else ''}."
