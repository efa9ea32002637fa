"""Servers, asked by this process itself, or by one that has the network for it and no TPM.

The unit decides (TPM2CLOUD_NETWORK names the worker's socket): under systemd the process with the
TPM has no network at all. On a terminal all is in one process.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.http import Https, Proxy
    from agent.hub import ByCertificate, ByToken, Hub, Route, Where
    from agent.network.far_hub import FarHub

PLACE = "TPM2CLOUD_NETWORK"


def place() -> Path | None:
    """The worker's socket, if a worker is to be asked."""
    return Path(os.environ[PLACE]) if os.environ.get(PLACE) else None


def https(trust: Path, **how: Any) -> "Https":
    """As agent.http.Https; besides what that raises, NetworkProcess."""
    if at := place():
        from agent.network.far import FarHttps

        return FarHttps(at, trust, **how)
    from agent.http import Https

    return Https(trust, **how)


def get(url: str, hosts: Sequence[str], proxy: "Proxy | None" = None) -> bytes:
    """As agent.fetch.get."""
    if at := place():
        from agent.network import far

        return far.get(at, url, hosts, proxy)
    from agent import fetch

    return fetch.get(url, hosts, proxy=proxy)


def hub(
    where: "Where", credential: "ByToken | ByCertificate", route: "Route", **how: Any
) -> "Hub | FarHub":
    """As agent.hub.Hub."""
    if at := place():
        from agent.network.far_hub import FarHub

        return FarHub(at, where, credential, route, **how)
    from agent.hub import Hub

    return Hub(where, credential, route, **how)


def card(root: Path) -> str:
    """As agent.deviceid.mac: who has no network need not see network cards either (sysfs(5)); that
    depends on the version of systemd."""
    if at := place():
        from agent.network import far

        return far.card(at)
    from agent import deviceid

    return deviceid.mac(root)
