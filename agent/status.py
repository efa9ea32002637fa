"""Where this device is: the plan's own steps, asked and not run."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from agent.errors import AgentError, NoPermission, TpmError, every_error
from agent.state import State, read_json
from agent.steps import Step
from agent.tpm import Budget, Tpm

Room = Budget | AgentError
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
    when = f"{last.get('message')} (since {last.get('at')})"
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


# --- what is left in the TPM ---


def room(tpm: Tpm) -> Room:
    """Or why that cannot be told, which is no failure of the device."""
    try:
        return tpm.budget()
    except (TpmError, NoPermission) as e:
        return e


def scarce(room: Budget) -> Iterator[str]:
    """What may keep a step from its work; two of each are what one needs at most at a time."""
    if room.persistent_available < 2:
        yield f"kept keys: room for {room.persistent_available} more"
    if room.transient_available < 2:
        yield f"slots for loaded keys: {room.transient_available} free, {room.transient_used} taken"
    if room.sessions_available < 2:
        yield f"slots for sessions: {room.sessions_available} free, {room.sessions_used} taken"
    if room.in_lockout:
        yield f"it is in lockout, and forgives one wrong password in {room.lockout_interval} s"
    elif room.lockout_counter and room.lockout_counter + 1 >= room.lockout_max:
        yield "one more wrong password, or power cut in use, and it is in lockout"
    for name in sorted(room.disabled - {"platform"}):
        yield f"the {name} hierarchy is switched off"


def room_in_words(room: Room) -> Iterator[str]:
    if not isinstance(room, Budget):
        yield f"TPM: what is left in it cannot be told: {room}"
        return
    slots = room.transient_used + room.transient_available
    told = [
        f"{room.persistent_used} keys kept, room for {room.persistent_available}",
        f"{room.nv_indices} NV indices, {room.nv_bytes} bytes",
        f"{room.transient_used} of {slots} slots taken",
        f"{room.lockout_counter} of {room.lockout_max} wrong passwords until lockout",
    ]
    for what, names in {"password": room.passwords, "off": room.disabled}.items():
        if names:
            told.append(f"{what}: {', '.join(sorted(names))}")
    yield f"TPM: {'; '.join(told)}."
    if short := list(scarce(room)):
        yield f"Scarce in the TPM: {'; '.join(short)}."


def room_as_json(room: Room) -> dict[str, Any] | None:
    """As Budget has it, and what is scarce; None if it cannot be told."""
    if not isinstance(room, Budget):
        return None
    sets = {"passwords": sorted(room.passwords), "disabled": sorted(room.disabled)}
    return {**asdict(room), **sets, "scarce": list(scarce(room))}


# --- shown ---


def as_json(seen: Sequence[Seen], room: Room) -> dict[str, Any]:
    words = {PROVISIONED: "provisioned", NOT_YET: "not yet", FAILED: "failed", UNKNOWN: "unknown"}
    return {
        "state": words[verdict(seen)],
        "steps": [asdict(each) for each in seen],
        "tpm": room_as_json(room),
    }


def as_text(seen: Sequence[Seen], room: Room) -> Iterator[str]:
    width = max(len(each.step) for each in seen)
    for each in seen:
        code = f" [{each.code}]" if each.code else ""
        yield f"{each.step:{width}}  {each.state:7}  {each.detail}{code}".rstrip()
        if each.remedy:
            yield f"{'':{width}}           Remedy: {each.remedy}"
    if str(room) not in {each.detail for each in seen}:
        yield from room_in_words(room)
    waits = verdict(seen) == NOT_YET and any(each.state == "waiting" for each in seen)
    yield f"This device is {SENTENCES[verdict(seen)]}{'; it is tried again' if waits else ''}."
