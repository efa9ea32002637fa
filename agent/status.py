"""Where this device is: the plan's own steps, asked and not run."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from agent.errors import AgentError
from agent.state import State, read_json
from agent.steps import Step

PROVISIONED, NOT_YET, FAILED = 0, 3, 4


@dataclass(frozen=True)
class Seen:
    """One step: 'done' with its evidence, 'to do', or 'failed' with a code and a remedy."""

    step: str
    state: Literal["done", "to do", "failed"]
    detail: str = ""
    code: str | None = None
    remedy: str | None = None


def look(steps: Sequence[Step], state: State) -> list[Seen]:
    """Every step; what the last run failed of is told at its step, while that is not done."""
    last = read_json(state.failure) or {}
    return [_look(step, last) for step in steps]


def _look(step: Step, last: dict[str, Any]) -> Seen:
    try:
        evidence = step.done()
    except AgentError as e:
        return Seen(step.name, "failed", str(e), e.code, e.remedy)
    if evidence is not None:
        return Seen(step.name, "done", evidence)
    if last.get("step") == step.name:
        when = f"{last.get('message')} (last tried {last.get('at')})"
        return Seen(step.name, "failed", when, last.get("code"), last.get("remedy"))
    return Seen(step.name, "to do")


def verdict(seen: Sequence[Seen]) -> int:
    """The exit status: 0 provisioned, 3 not yet, 4 failed."""
    states = {each.state for each in seen}
    return FAILED if "failed" in states else NOT_YET if "to do" in states else PROVISIONED


def as_json(seen: Sequence[Seen]) -> dict[str, Any]:
    words = {PROVISIONED: "provisioned", NOT_YET: "not yet", FAILED: "failed"}
    return {"state": words[verdict(seen)], "steps": [asdict(each) for each in seen]}


def as_text(seen: Sequence[Seen]) -> Iterator[str]:
    width = max(len(each.step) for each in seen)
    for each in seen:
        code = f" [{each.code}]" if each.code else ""
        yield f"{each.step:{width}}  {each.state:6}  {each.detail}{code}".rstrip()
        if each.remedy:
            yield f"{'':{width}}          Remedy: {each.remedy}"
    yield f"This device is {as_json(seen)['state']}."
