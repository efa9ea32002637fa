"""The last of a provisioning: what brings this device into Azure, on whatever it runs."""

from collections.abc import Callable

from agent.config import Config
from agent.state import State
from agent.steps import Step, aziot, registration
from agent.tpm import Tpm


def last(
    conf: Config, tpm: Tpm, state: State, who: Callable[[], str], *, anew: bool = False
) -> list[Step]:
    """IoT Edge is configured and registers itself, or we do it. `anew`: DPS is asked, though it
    has been."""
    if conf.for_edge:
        edge = registration.registration(conf, state, who)
        return [aziot.configuration(conf, state, who), edge]
    from agent.steps import assignment  # with IoT Edge, nothing of it is needed

    return [assignment.assignment(conf, tpm, state, who, anew=anew)]
