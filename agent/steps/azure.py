"""The last of a provisioning: what brings this device into Azure, on whatever it runs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agent import store
from agent.config import Config
from agent.state import State
from agent.steps import Step, assigned, aziot, registration
from agent.tpm import Tpm


def last(
    conf: Config, tpm: Tpm, state: State, who: Callable[[], str], *, anew: bool = False
) -> list[Step]:
    """IoT Edge is configured and registers itself, or we do it. `anew`: DPS is asked, though it
    has been. Whoever of the two does it makes what the other was told untrue: another hub, another
    key, another certificate."""
    if conf.for_edge:
        edge = registration.registration(conf, state, who)
        return [aziot.configuration(conf, tpm, state, who), _after(state.assignment, edge)]
    from agent.steps import assignment  # with IoT Edge, nothing of it is needed

    ours = assignment.assignment(conf, tpm, state, who, anew=anew)
    return [_after(state.registration, ours)]


def _after(of_the_other: Path, step: Step) -> Step:
    def apply() -> None:
        store.remove(of_the_other)
        step.apply()

    return replace(step, apply=apply)


# --- what files tell of it ---


def began(conf: Config, state: State) -> bool:
    """This device was registered once, with whatever configuration."""
    if conf.for_edge:
        return registration.was_provisioned(state)
    return assigned.load(state) != assigned.Kept()


def registered(conf: Config, state: State) -> bool:
    """It is, with whatever configuration."""
    if conf.for_edge:
        return registration.provisioned(state)
    return assigned.read(state) is not None


def registered_with_another(conf: Config, state: State, who: str) -> bool:
    """All that has changed since is the LDevID that DPS and the hub know."""
    if conf.for_edge:
        return registration.registered_with_another(conf, state, who)
    return assigned.made_with_another(conf, state, who)
