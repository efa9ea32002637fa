"""What the companion knows from one run to the next: health.json in the state directory."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from agent.state import State, read_json, write_json


@dataclass
class Memory:
    """All of it can be lost without harm: a state is told of once more, a remedy waits anew.

    `states`: what was last told of each certificate; `tpm`: of the TPM; `trouble`: the code of the
    error that kept the last run from its work. `cases`: agent/health/ladder.py's. `backoff`: the
    renewal's. `traffic`: the bytes of the day `traffic["day"]`. `asked`: when each EST server was
    last asked for its CA certificates without need, seconds since 1970.
    """

    states: dict[str, str] = field(default_factory=dict)
    tpm: str = ""
    trouble: str = ""
    cases: dict[str, Any] = field(default_factory=dict)
    backoff: dict[str, Any] = field(default_factory=dict)
    traffic: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, float] = field(default_factory=dict)


def load(state: State) -> Memory:
    """What is missing or damaged is as if never known."""
    kept, fresh = read_json(state.health) or {}, Memory()
    for each in fields(Memory):
        value = kept.get(each.name)
        if isinstance(value, type(getattr(fresh, each.name))):
            setattr(fresh, each.name, value)
    return fresh


def save(state: State, memory: Memory) -> None:
    """Only what changed is written: this is flash memory, and years are long."""
    if asdict(memory) != (read_json(state.health) or {}):
        write_json(state.health, asdict(memory), mode=0o644)
