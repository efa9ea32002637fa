"""The IoT hub of a device without IoT Edge, once DPS has assigned one."""

from collections.abc import Iterator
from functools import partial

from agent import inputs
from agent.check.network import Lines, Who, known, through
from agent.check.patience import SECONDS
from agent.check.probe import Probe
from agent.check.reach import Server
from agent.config import Config, Hub
from agent.errors import HubUnreachable
from agent.http import Proxy
from agent.state import State
from agent.steps import assigned, login
from agent.steps.assigned import Kept
from agent.tpm import Tpm

MQTT, WEBSOCKETS = 8883, 443


def probes(conf: Config, tpm: Tpm, state: State, who: Who) -> Iterator[Probe]:
    """None as long as it is not known which hub it is."""
    if conf.for_edge:
        return
    kept = assigned.load(state)
    if (found := kept.candidate or kept.proven) is None:
        return
    server = _server(conf, state, found.hub)
    yield from Lines(server).of(server)
    yield Probe("hub-login", partial(_login, conf, tpm, state, kept), ("hub-tls", "tpm", "inputs"))


def _server(conf: Config, state: State, hub: str) -> Server:
    transport, times = (conf.hub or Hub()).transport, known(state)
    port = WEBSOCKETS if transport == "websockets" else MQTT
    url = f"https://{hub}:{port}"

    def proxy() -> Proxy | None:
        """That of the environment is for port 443 only."""
        return through(conf, url) if port == WEBSOCKETS else inputs.proxy(conf)

    trust, floor = conf.dps.trust, lambda: times.floor
    return Server("hub", url, trust, proxy, floor=floor, away=HubUnreachable, called=hub)


def _login(conf: Config, tpm: Tpm, state: State, kept: Kept) -> str:
    """Only where it has not been yet: a hub throws out who is logged in by the same name."""
    new, old = kept.candidate, kept.proven
    if new is None or (old is not None and old.hub == new.hub):
        return "not tried: telemetry would be thrown out by it"
    from agent import hub  # the library it uses takes a second to load

    credential = login.credential(conf, tpm, new, login.in_use(state))
    where = hub.Where(new.hub, new.device_id)
    with hub.Hub(where, credential, login.route(conf), login=SECONDS) as there:
        there.connect()
    return f"lets '{new.device_id}' in"
