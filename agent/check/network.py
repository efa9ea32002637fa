"""Servers, as far as a connection, and the proxy in between.

All of a part are tried at once, each in a thread of its own, so dead ones are waited for together;
and what was found is kept: whoever did not resolve is not asked again.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from agent import inputs
from agent.check.probe import Probe
from agent.check.reach import SECONDS, Reach, Server
from agent.clock import Times
from agent.config import Config
from agent.errors import ProxyUnreachable
from agent.http import Proxy, host_of, proxy_of_environment
from agent.state import State
from agent.tpm import Tpm

Who = Callable[[], str]
STAGES = ("dns", "tcp", "tls")


def probes(conf: Config, tpm: Tpm, state: State, who: Who) -> Iterator[Probe]:
    """The proxy, if there is one."""
    yield Probe("proxy", partial(_proxy, conf))


def known(state: State) -> Times:
    """What servers have said of the time; nothing is added to it."""
    return Times(state.clock, keep=False)


def through(conf: Config, url: str) -> Proxy | None:
    """The proxy of the configuration, or of the environment, with the login that its URL may hold.
    Raises SecretUnreadable, ProxyUnusable."""
    if conf.proxy is not None:
        return inputs.proxy(conf)
    found = proxy_of_environment(url, ("http",))
    if found is None:
        return None
    parts = urlsplit(found)
    user, password = (None if t is None else unquote(t) for t in (parts.username, parts.password))
    return Proxy(f"http://{host_of(found)}", user, password)


def _proxy(conf: Config) -> str:
    urls = [conf.dps.endpoint]
    if conf.dps.attestation == "x509":
        urls += [conf.ldevid.est.url] if conf.ldevid and conf.ldevid.est else []
        urls += [conf.operational.url] if conf.operational and conf.operational.url else []
    found = sorted({proxy.url for url in urls if (proxy := through(conf, url))})
    for url in found:
        _listens(url)
    return ", ".join(f"{url} takes connections" for url in found) or "none is set"


def _listens(url: str) -> None:
    there = Reach(Server("proxy", url, Path(), lambda: None), until="tcp")
    there.start()
    told = there.told(time.monotonic() + SECONDS)
    if error := next((e for e in told.values() if isinstance(e, Exception)), None):
        proxy, why = host_of(url), str(error).partition(": ")[2]
        message = f"cannot reach the proxy {proxy}: {why}"
        raise ProxyUnreachable(message, host=proxy, proxy=proxy) from error


class Lines:
    """To several servers; nothing is tried before the first of the probes is looked at."""

    def __init__(self, *servers: Server) -> None:
        self._reached = {server.name: Reach(server) for server in servers}
        self._seconds = max((server.seconds for server in servers), default=SECONDS)
        self._until = 0.0

    def of(self, server: Server) -> Iterator[Probe]:
        """The probes of one of them, in their order."""
        after = "proxy"
        for stage in STAGES:
            name, needs = f"{server.name}-{stage}", ("clock",) * (stage == "tls")
            yield Probe(name, partial(self._look, server.name, stage), (after, *needs))
            after = name

    def _look(self, name: str, stage: str) -> str:
        if not self._until:
            self._until = time.monotonic() + self._seconds
            for each in self._reached.values():
                each.start()
        told = self._reached[name].told(self._until)
        found = told.get(stage) or next(e for e in told.values() if isinstance(e, Exception))
        if isinstance(found, Exception):
            raise found
        return found
