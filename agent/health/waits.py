"""What of a device is not as it should be, and is no certificate: it is being worked at, or comes
with time, and until then all is not well."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from agent import store
from agent.config import Config
from agent.health.services import Unit
from agent.state import State
from agent.steps import azure


def waits(
    conf: Config,
    state: State,
    who: Callable[[], str],
    units: Mapping[str, Unit],
    cases: Mapping[str, Any],
) -> Iterator[str]:
    """In words. `cases`: of the ladder, by name, those of certificates left out. Only files are
    looked at. Raises NoPermission."""
    if store.exists(state.ldevid_next):
        yield "A renewed LDevID has not taken its place yet"
    whose = "IoT Edge" if conf.for_edge else "This device"
    if not azure.registered(conf, state):
        yield f"{whose} is not provisioned with its configuration yet"
    elif azure.registered_with_another(conf, state, who()):
        yield f"{whose} is not registered with the renewed LDevID yet"
    failing = {name for name, unit in units.items() if unit.fails}
    yield from (f"{name} fails" for name in sorted(failing))
    yield from (f"{name} is being helped" for name in sorted(cases.keys() - failing))
