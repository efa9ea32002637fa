"""What azure-iot-device's exceptions mean, in our words."""

import re
import socket
import ssl
import traceback
from dataclasses import dataclass
from pathlib import Path

from agent.errors import (
    AgentError,
    DnsFailed,
    HubGarbled,
    HubRefused,
    HubUnreachable,
    ProxyLogin,
    ProxyRefused,
    ProxyUnreachable,
    ServerBusy,
    TimedOut,
    Unreachable,
)
from agent.http import printable
from agent.tls import tls_error

NO_LOGIN = 407  # Proxy Authentication Required


@dataclass(frozen=True)
class Line:
    """Where to, as whom, and how; `proxy`: HOST:PORT, if any."""

    hub: str
    device: str
    trust: Path
    proxy: str | None


def translated(error: Exception, line: Line) -> AgentError:
    """`error`: what a call of the library raised; what lies behind it is in its causes.

    TlsDates, TimedOut, HubUnreachable, DnsFailed, ProxyUnreachable, ProxyRefused, ProxyLogin,
    ServerBusy (75); TlsUntrusted, TlsName, TlsClientRefused, TlsFailed, HubRefused,
    HubGarbled (76).
    """
    found, hub = _causes(error), line.hub
    tls = next((e for e in found if isinstance(e, ssl.SSLError)), None)
    if tls and not isinstance(tls, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return tls_error(hub, line.trust, tls)
    if any(type(e).__module__ == "socks" for e in found):
        return _by_proxy(found, line)
    if any(isinstance(e, TimeoutError) for e in found):
        return TimedOut(f"cannot talk to {hub}: no answer in time", host=hub)
    return _by_kind(error, found, hub, line.device)


def _by_kind(error: Exception, found: list[BaseException], hub: str, device: str) -> AgentError:
    from azure.iot.device import exceptions as e

    why = _why(found)
    if isinstance(error, e.CredentialError) or "identifier rejected" in why:
        return HubRefused(f"cannot log in to {hub} as '{device}': {why}", hub=hub, device=device)
    if isinstance(error, e.OperationTimeout | e.OperationCancelled):
        return TimedOut(f"cannot talk to {hub}: no answer in time", host=hub)
    if "broker unavailable" in why:
        return ServerBusy(f"cannot log in to {hub}: it is not available now", host=hub)
    if isinstance(error, e.ConnectionDroppedError | e.NoConnectionError):
        return HubUnreachable(f"cannot talk to {hub}: the connection was lost", host=hub)
    if isinstance(found[-1], OSError):
        kind = DnsFailed if isinstance(found[-1], socket.gaierror) else HubUnreachable
        return kind(f"cannot reach {hub}: {why}", host=hub)
    return HubGarbled(f"cannot talk to {hub}: {why}", hub=hub)


def _causes(error: BaseException) -> list[BaseException]:
    """`error`, what caused it, what caused that, and so on; PySocks keeps some in `socket_err`."""
    found = [error]
    while True:
        last = found[-1]
        inner = last.__cause__ or getattr(last, "socket_err", None) or last.__context__
        if inner is None or inner in found:
            return found
        found.append(inner)


def dropped(error: BaseException) -> None:
    """What its traceback holds: a socket that nobody closed would be open as long as that is."""
    for each in _causes(error):
        traceback.clear_frames(each.__traceback__)


def _by_proxy(found: list[BaseException], line: Line) -> AgentError:
    why = f"cannot reach {line.hub} through the proxy: {_why(found)}"
    status = re.match(r"([0-9]{3}): ", str(found[-1]))
    if line.proxy is None:
        return HubUnreachable(why, host=line.hub)
    kind: type[Unreachable] = ProxyUnreachable
    if status:
        kind = ProxyLogin if int(status[1]) == NO_LOGIN else ProxyRefused
    return kind(why, host=line.hub, proxy=line.proxy)


def _why(found: list[BaseException]) -> str:
    last = found[-1]
    text = printable(getattr(last, "strerror", None) or str(last) or type(last).__name__)
    text = text.removeprefix("Connection Refused: ").rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
