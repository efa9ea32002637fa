"""At the hub that DPS has assigned: whether it lets this device in."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agent import inputs, network
from agent.config import Config, Hub
from agent.errors import HubRefused
from agent.state import State
from agent.steps import assigned, ldevid_key
from agent.steps.assigned import Assignment
from agent.tpm import Tpm, Transient

if TYPE_CHECKING:
    from agent.hub import ByCertificate, ByToken, Route

log = logging.getLogger(__name__)
# Seconds from one login to the next: a hub does not know at once whom DPS has told it of.
SETTLES = (2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Own:
    """An LDevID: the file of its certificate and those above it, and its key."""

    chain: Path
    key: int | Transient


def in_use(state: State) -> Own:
    return Own(state.ldevid_cert, ldevid_key.HANDLE)


def log_in(conf: Config, tpm: Tpm, new: Assignment, own: Own) -> None:
    """Raises what Hub.connect does."""
    from agent import hub

    where, login = hub.Where(new.hub, new.device_id), credential(conf, tpm, new, own)
    with network.hub(where, login, route(conf)) as there:
        there.connect()


def log_in_first(enter: Callable[[], None], rest: Callable[[float], object]) -> None:
    """`enter` logs in; DPS has told the hub of this device just now. `rest` waits."""
    for pause in SETTLES:
        try:
            return enter()
        except HubRefused as e:
            log.debug("%s; once more in %g s", e, pause)
        rest(pause)
    return enter()


def credential(conf: Config, tpm: Tpm, new: Assignment, own: Own) -> "ByCertificate | ByToken":
    """How the device logs in at the hub. `own`: counts where there is no hub key."""
    from agent import hub

    if new.key is None:
        return hub.ByCertificate(tpm.signer(own.key, known=True), own.chain)  # its blobs are here
    lifetime = (conf.hub or Hub()).token_lifetime
    return hub.ByToken(assigned.signer(tpm, new.key), int(lifetime.total_seconds()))


def route(conf: Config) -> "Route":
    """How the hub is reached."""
    from agent import hub

    transport = (conf.hub or Hub()).transport
    return hub.Route(conf.dps.trust, transport == "websockets", inputs.proxy(conf))
