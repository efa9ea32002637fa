"""The way to one server: its name, TCP, TLS; and who answers when it is not the server.

Nothing is asked of a server here but a handshake.
"""

import http.client
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.x509 import Certificate

from agent import x509
from agent.check.stranger import instead
from agent.clock import Bound
from agent.errors import (
    AgentError,
    CaptivePortal,
    DnsFailed,
    ProxyUnreachable,
    TimedOut,
    TlsFailed,
    TlsName,
    TlsUntrusted,
    Unreachable,
)
from agent.http import Proxy, host_of, no_way, printable
from agent.tls import tls_context, tls_error

SECONDS = 10.0  # for name, TCP and TLS of one server together
CONNECT = 6.0  # of which for TCP: two SYNs may get lost (RFC 6298, 2.1 and 5.5)
HTTPS = 443
WEB = 80  # the port that captive portals answer


@dataclass(frozen=True)
class Server:
    """`name`: its probes are NAME-dns, NAME-tcp, NAME-tls. `url`: https://HOST[:PORT][/PATH], where
    a GET harms nobody. `trust`, `more`: what vouches for it, as for `Https`; `floor`: what time it
    is at least. `proxy`: what there is on the way to it. `web`: the port at which a stranger is
    looked for, where that for https is closed. `seconds`: for all of it. `away`: what it is if it
    cannot be reached. `called`: in messages, if not HOST:PORT."""

    name: str
    url: str
    trust: Path
    proxy: Callable[[], Proxy | None]
    more: Callable[[], Sequence[Certificate]] = tuple
    floor: Callable[[], Bound | None] = lambda: None
    web: int | None = None
    seconds: float = SECONDS
    away: type[Unreachable] = Unreachable
    called: str = ""

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or (HTTPS if parts.scheme == "https" else WEB)

    @property
    def shown(self) -> str:
        return self.called or host_of(self.url)


class Reach:
    """Stage by stage, in a thread of its own, which ends at the first that fails. One that is still
    in the resolver, which nothing can interrupt, is left behind."""

    def __init__(self, server: Server, until: str = "tls") -> None:
        self._server, self._last = server, until
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stage, self._found = "dns", dict[str, str | Exception]()
        self._told: dict[str, str | Exception] | None = None
        self._addresses = list[str]()
        self._line: socket.socket | None = None
        self._proxy: Proxy | None = None

    def start(self) -> None:
        self._thread.start()

    def told(self, until: float) -> dict[str, str | Exception]:
        """What came of it, at the latest at `until` (time.monotonic)."""
        if self._told is None:
            self._thread.join(max(0.0, until - time.monotonic()))
            self._told = dict(self._found)
            if self._thread.is_alive():
                self._told.setdefault(self._stage, self._late())
                self._cut()
        return self._told

    def _cut(self) -> None:
        if line := self._line:
            with suppress(OSError):  # it is at its end already
                socket.socket.shutdown(line, socket.SHUT_RDWR)  # an SSLSocket's is not for threads

    def _late(self) -> AgentError:
        host = self._server.shown
        if self._stage == "dns":
            why = f"no DNS server answers within {self._server.seconds:g} s"
            return DnsFailed(f"cannot reach {host}: {why}", host=host)
        why = f"no complete answer within {self._server.seconds:g} s"
        return TimedOut(f"cannot talk to {host}: {why}", host=host)

    def _run(self) -> None:
        try:
            for stage, look in self._looks():
                self._stage = stage
                self._found[stage] = look()
        except Exception as e:  # raised where it is asked for
            self._found[self._stage] = e
            if isinstance(e, AgentError) and self._last == "tls":
                self._blame(e)
        finally:
            if self._line:
                self._line.close()

    def _looks(self) -> Iterator[tuple[str, Callable[[], str]]]:
        yield "dns", self._dns
        yield "tcp", self._tcp
        if self._last == "tls":
            yield "tls", self._tls

    # --- the stages: evidence, or what a request over `Https` would raise ---

    def _dns(self) -> str:
        server = self._server
        self._proxy = server.proxy()
        if self._proxy:
            return f"left to the proxy {host_of(self._proxy.url)}"
        try:
            found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
        except socket.gaierror as e:
            why = _lower(e.strerror or str(e))
            raise DnsFailed(f"cannot reach {server.shown}: {why}", host=server.shown) from e
        self._addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        return f"{server.host} is {', '.join(self._addresses)}"

    def _tcp(self) -> str:
        host = self._server.shown
        try:
            return self._tunnelled(self._proxy) if self._proxy else self._connected()
        except TimeoutError as e:
            why = f"no answer within {CONNECT:g} s"
            raise TimedOut(f"cannot talk to {host}: {why}", host=host) from e
        except (OSError, http.client.HTTPException) as e:
            why = _lower(getattr(e, "strerror", None) or str(e))
            if self._proxy:
                message = f"cannot reach {host} through the proxy: {why}"
                raise no_way(host, message, str(e), self._proxy, ProxyUnreachable) from e
            raise self._server.away(f"cannot reach {host}: {why}", host=host) from e

    def _connected(self) -> str:
        """To the first address that takes it; otherwise what the last one says."""
        error: OSError = TimeoutError()
        for address in self._addresses:
            try:
                place = (address, self._server.port)
                self._line = socket.create_connection(place, CONNECT / len(self._addresses))
                return f"{address} takes connections at port {self._server.port}"
            except OSError as e:
                error = e
        raise error

    def _tunnelled(self, proxy: Proxy) -> str:
        at = urlsplit(proxy.url)
        line = http.client.HTTPConnection(at.hostname or "", at.port, timeout=CONNECT)
        line.set_tunnel(self._server.host, self._server.port, proxy.login())
        try:
            line.connect()
        except BaseException as e:
            line.close()
            traceback.clear_frames(e.__traceback__)  # in which http.client still holds the socket
            raise
        self._line = line.sock
        return f"the proxy {host_of(proxy.url)} lets us through"

    def _tls(self) -> str:
        server = self._server
        context = tls_context(server.trust, server.more(), floor=server.floor())
        if (line := self._line) is None:
            raise RuntimeError("there is a connection by now")
        line.settimeout(server.seconds)
        try:
            return self._shaken(context, line)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError) as e:
            why = "it hangs up in the TLS handshake"
            raise server.away(f"cannot reach {server.shown}: {why}", host=server.shown) from e
        except ssl.SSLError as e:
            raise tls_error(server.shown, server.trust, e) from e
        except TimeoutError as e:
            raise self._late() from e

    def _shaken(self, context: ssl.SSLContext, line: socket.socket) -> str:
        server = self._server
        tls = context.wrap_socket(line, server_hostname=server.host, do_handshake_on_connect=False)
        self._line = tls  # which has taken `line` over
        try:
            tls.do_handshake()
        except ssl.SSLCertVerificationError:
            raise
        except ssl.SSLError:
            if not tls._sslobj.get_unverified_chain():  # type: ignore[attr-defined]  # public in 3.13
                raise  # it did not come to that the server named itself
            return f"trusted by {server.trust}; it wants a certificate of ours"
        leaf = x509.parse(tls.getpeercert(binary_form=True) or b"")[0]
        until = f"{leaf.not_valid_after_utc:%Y-%m-%d %H:%M}Z"
        return f"{tls.version()}, '{x509.describe(leaf)}' until {until}, by {server.trust}"

    # --- somebody else ---

    def _blame(self, error: AgentError) -> None:
        """A captive portal is not a server's fault, and is not mended at the server."""
        url, host = self._stranger(error), self._server.shown
        if url and (why := instead(url, self._server.host, self._proxy)):
            portal = CaptivePortal(f"cannot talk to {host}: {why}; {error}", host=host)
            portal.__cause__ = error
            self._found[self._stage] = portal

    def _stranger(self, error: AgentError) -> str | None:
        """Where it would answer: in the place of the server, with TLS or without; or, where it lets
        no TLS through, at the port for http."""
        server = self._server
        if isinstance(error, TlsUntrusted | TlsName):
            return server.url
        if isinstance(error, TlsFailed):
            return server.url.replace("https:", "http:", 1)
        silent = isinstance(error, Unreachable) and not isinstance(error, DnsFailed)
        web = server.web or (WEB if server.port == HTTPS else None)
        return f"http://{server.host}:{web}/" if silent and web and not self._proxy else None


def _lower(text: str) -> str:
    text = printable(text)
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
