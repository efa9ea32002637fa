"""The plan's own steps, asked and not run; what is left of them, and why the last run stopped."""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from agent.check.probe import Probe
from agent.errors import (
    AgentError,
    AziotConfigInvalid,
    ClockImplausible,
    IotedgeMissing,
    ModuleMissing,
    NotYetProvisioned,
    TokenUnreadable,
    TpmDisabled,
    TpmUnavailable,
    UserMissing,
    every_error,
)
from agent.state import State, read_json
from agent.steps import Step

LAST = "registration"  # it comes of all the others, and of the network
# Where a run that stopped there has the true reason, and what is found after it is of that.
LOCAL = ("srk", "same-tpm", "ldevid-key", "token", "tpmd", "aziot-config")
ASKS = {"ek", "ldevid-cert", LAST}  # those that ask servers: how these are, is looked at anew
NEEDS = {"tpmd": ("ek", "srk")}  # what a step takes for granted that it is done
# What an earlier probe has found by itself, if it is still so.
LOOKED_AT = {
    kind.code
    for kind in (
        AziotConfigInvalid,
        ClockImplausible,
        IotedgeMissing,
        ModuleMissing,
        TokenUnreadable,
        TpmDisabled,
        TpmUnavailable,
        UserMissing,
    )
}


@dataclass(frozen=True)
class Plan:
    """`left`: the names of steps that are not done, as far as they were looked at."""

    state: State
    made: Callable[[], Sequence[Step]]
    left: list[str] = field(default_factory=list)

    def first(self) -> Iterator[Probe]:
        """All that is local; the TPM is looked at by other means."""
        for step in self.made():
            if step.name not in ("tpm", LAST):
                yield self._probe(step)

    def last(self) -> Iterator[Probe]:
        for step in self.made():
            if step.name == LAST:
                yield self._probe(step)

    def _probe(self, step: Step) -> Probe:
        after = () if step.name == "clock" else ("tpm", "tpm-hierarchies", "tpm-room")
        needs_name = step.name in ("aziot-config", LAST)
        return Probe(step.name, partial(self._look, step), (*after, *("device-id",) * needs_name))

    def _look(self, step: Step) -> str:
        waits = [name for name in NEEDS.get(step.name, ()) if name in self.left]
        evidence = None if waits else step.done()
        if evidence is None:
            self.left.append(step.name)
            if step.name in LOCAL:
                self._failed({step.name})
            return "to do"
        return evidence

    def failure(self) -> str:
        """Where a run has stopped, and nothing has changed since: what it stopped of."""
        return self._failed(set(self.left))

    def _failed(self, steps: Container[str]) -> str:
        last = read_json(self.state.failure) or {}
        if last.get("step") in steps and last.get("code") not in LOOKED_AT:
            raise _remembered(last)
        return "none" if not last else f"[{last.get('code')}] is over"

    def whole(self) -> str:
        if self.left:
            steps = ", ".join(self.left)
            raise NotYetProvisioned(f"cannot say that this device is provisioned: to do: {steps}")
        return "nothing is left to do"


def _remembered(last: dict[str, Any]) -> AgentError:
    """As it was told then."""
    error = AgentError(f"{last.get('message')} (since {last.get('at')})")
    kinds = {kind.code: kind for kind in every_error()}
    error.code = str(last.get("code"))
    error.status = kinds.get(error.code, AgentError).status
    error.remedy = str(last.get("remedy"))
    error.step = str(last.get("step"))
    return error
