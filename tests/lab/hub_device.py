"""This device's side of a connection to the lab's hub, by a key that both know."""

import base64
import hmac
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from agent.hub import ByCertificate, ByToken, Hub, Route, Where
from tests.lab.hub import Hub as LabHub

DEVICE = "device-0001"
SECRET = secrets.token_bytes(32)
Open = Callable[..., Hub]


def knows(lab: LabHub, **device: Any) -> None:
    """The hub knows this one device, and by nothing else than this."""
    entry = {"key": None, "thumbprint": None, "enabled": True, **device}
    new = lab.registry.with_suffix(".new")
    new.write_text(json.dumps({lab.host: {DEVICE: entry}}))
    new.rename(lab.registry)


def healthy(lab: LabHub) -> LabHub:
    """It knows one device, by SECRET."""
    lab.behave()
    knows(lab, key=base64.b64encode(SECRET).decode())
    return lab


def by_token(lifetime: float = 3600, secret: bytes = SECRET) -> ByToken:
    return ByToken(lambda data: hmac.digest(secret, data, "sha256"), lifetime)


@contextmanager
def opening(lab: LabHub) -> Iterator[Open]:
    """To be called for this device's side, which is not connected yet."""
    opened: list[Hub] = []

    def make(
        credential: ByToken | ByCertificate | None = None, route: Route | None = None, **more: Any
    ) -> Hub:
        where, route = Where(lab.host, DEVICE), route or Route(lab.tls.trust)
        opened.append(Hub(where, credential or by_token(), route, **more))
        return opened[-1]

    yield make
    for hub in opened:
        hub.close()


def last(lab: LabHub) -> dict[str, Any]:
    return lab.connections()[-1]
