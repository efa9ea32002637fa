"""What the companion knows from one run to the next: health.json in the state directory."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from agent.errors import AgentError, every_error
from agent.state import State, read_json, write_json

LAST = 2**33  # seconds since 1970: in 2242


@dataclass
class Memory:
    """All of it can be lost without harm: a state is told of once more, a remedy waits anew.

    `states`: what was last told of each certificate; `tpm`: of the TPM. `trouble`: by the
    part of the last run, the error that kept it from its work, or because of which it now waits:
    "code", "message", "fields". `textfile`: why Prometheus' file could not be written, if so.
    `cases`: agent/health/ladder.py's. `backoff`: the renewal's. `traffic`: the bytes of the day
    `traffic["day"]`. `asked`: when each EST server was last asked for its CA certificates without
    need, seconds since 1970. `configuration`: as `backoff`, of telling IoT Edge of its
    configuration.
    """

    states: dict[str, str] = field(default_factory=dict)
    tpm: str = ""
    trouble: dict[str, dict[str, Any]] = field(default_factory=dict)
    textfile: str = ""
    cases: dict[str, Any] = field(default_factory=dict)
    backoff: dict[str, Any] = field(default_factory=dict)
    configuration: dict[str, Any] = field(default_factory=dict)
    traffic: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, float] = field(default_factory=dict)


def load(state: State) -> Memory:
    """What is missing or damaged, or was kept by a version that meant something else by it, is as
    if never known; entry by entry, where the others make sense without it."""
    kept, fresh = read_json(state.health) or {}, Memory()
    for each in fields(Memory):
        value = kept.get(each.name)
        if isinstance(value, type(getattr(fresh, each.name))):
            sound = _SOUND.get(each.name)
            setattr(fresh, each.name, _sifted(value, sound) if sound else value)
    return fresh


def as_trouble(e: AgentError) -> dict[str, Any]:
    """To be kept in `trouble`."""
    return {"code": e.code, "message": str(e), "fields": dict(e.fields)}


def as_error(trouble: Mapping[str, Any]) -> AgentError | None:
    """What `as_trouble` was made of; None if it cannot be said any more."""
    kinds = {kind.code: kind for kind in every_error()}
    try:
        return kinds[trouble["code"]](str(trouble["message"]), **trouble["fields"])
    except (KeyError, TypeError, IndexError, ValueError):
        return None


def _sifted(kept: Mapping[str, Any], sound: Callable[[str, Any], bool]) -> dict[str, Any]:
    return {name: value for name, value in kept.items() if sound(name, value)}


def _object(_: str, value: object) -> bool:
    return isinstance(value, dict)


def _text(_: str, value: object) -> bool:
    return isinstance(value, str)


def _bytes(name: str, value: object) -> bool:
    return isinstance(value, str) if name == "day" else isinstance(value, int) and value >= 0


def _seconds(_: str, value: object) -> bool:
    """Since 1970, and of a year that there is."""
    return isinstance(value, int | float) and 0 <= value < LAST  # which NaN is not, either


_SOUND: Mapping[str, Callable[[str, Any], bool]] = {
    "states": _text,
    "trouble": _object,
    "traffic": _bytes,
    "asked": _seconds,
}


def save(state: State, memory: Memory) -> None:
    """Only what changed is written: this is flash memory, and years are long."""
    if asdict(memory) != (read_json(state.health) or {}):
        write_json(state.health, asdict(memory), mode=0o644)
