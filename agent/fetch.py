"""Gets a small file that proves itself (a CA certificate below a pinned root), by http or https.

Whoever answers is not believed for what he is: over http nobody could be, and what came by https is
looked at no less closely. So there is no anchor to check a server's certificate with, and none is
needed. Redirects, size and time are bounded. A proxy is the one that is given, else that of
HTTP_PROXY, HTTPS_PROXY and NO_PROXY.
"""

import http.client
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urljoin, urlsplit

from agent.errors import (
    DnsFailed,
    HttpGarbled,
    ProxyUnreachable,
    ReplyTooLarge,
    ReplyTruncated,
    TimedOut,
    Unreachable,
)
from agent.http import Proxy, host_of, no_way, printable
from agent.http_reply import Response
from agent.traffic import ends

REDIRECTS = 3
TIMEOUT = 20.0  # seconds for one exchange
PORTS = {"http": 80, "https": 443}


class NotThere(Exception):
    """The server answers, but not with the file; the text says why."""


def allowed(url: str, hosts: Sequence[str]) -> bool:
    """Is it at one of these, "HOST" (at the scheme's port) or "HOST:PORT"?"""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    if parts.scheme not in PORTS or not host or parts.username is not None:
        return False
    names = {f"{host}:{port or PORTS[parts.scheme]}"}
    if port in (None, PORTS[parts.scheme]):
        names.add(host)
    return bool(names & {each.lower() for each in hosts})


def get(
    url: str,
    hosts: Sequence[str],
    *,
    timeout: float = TIMEOUT,
    limit: int = 1 << 16,
    proxy: Proxy | None = None,
) -> bytes:
    """The body of what is at `url`, or where that redirects to, as long as it is at one of `hosts`.

    `timeout`: seconds for one exchange. `limit`: bytes. Raises NotThere; Unreachable, TimedOut,
    ReplyTruncated (75: later), HttpGarbled, ReplyTooLarge (76).
    """
    for _ in range(REDIRECTS + 1):
        if not allowed(url, hosts):
            raise NotThere(f"it redirects to {printable(host_of(url))}, which is not allowed")
        status, place, body = _exchange(url, timeout, limit, proxy)
        if status == http.client.OK:
            return body
        if status not in (301, 302, 303, 307, 308) or place is None:
            raise NotThere(f"{host_of(url)} answers {status}")
        url = urljoin(url, place)
    raise NotThere("it redirects too often")


def asked(
    url: str, *, timeout: float, limit: int, proxy: Proxy | None = None
) -> tuple[int, str | None, bytes]:
    """One exchange with whoever answers at `url`: status, Location if there is one, body. Raises as
    `get`, but no NotThere."""
    return _exchange(url, timeout, limit, proxy)


def _exchange(
    url: str, timeout: float, limit: int, proxy: Proxy | None
) -> tuple[int, str | None, bytes]:
    host = host_of(url)
    with _Line(timeout, proxy) as line:
        try:
            return _reply(line, url, limit)
        except ReplyTooLarge:
            raise
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise _translated(host, e, line) from e


def _reply(line: "_Line", url: str, limit: int) -> tuple[int, str | None, bytes]:
    headers = {"User-Agent": "tpm2cloud", "Connection": "close"}
    with line.opener.open(urllib.request.Request(url, headers=headers), timeout=line.timeout) as r:  # noqa: S310  (http or https only: `allowed`)
        body = r.read(limit + 1)
        if len(body) > limit:
            why = f"the reply is longer than {limit} bytes"
            raise ReplyTooLarge(f"cannot use {host_of(url)}: {why}", host=host_of(url))
        expected = r.headers.get("Content-Length", "")
        if expected.isdigit() and int(expected) != len(body):
            raise http.client.IncompleteRead(body)
        if line.rang:
            raise TimeoutError
        return r.status, r.headers.get("Location"), body


def _translated(host: str, error: Exception, line: "_Line") -> Exception:
    reason = getattr(error, "reason", error)
    if line.rang or isinstance(reason, TimeoutError):
        why = f"no complete answer within {line.timeout:g} s"
        return TimedOut(f"cannot talk to {host}: {why}", host=host)
    if isinstance(reason, http.client.IncompleteRead):
        return ReplyTruncated(f"cannot read the reply of {host}: it broke off", host=host)
    if isinstance(reason, OSError):
        why = printable(reason.strerror or str(reason))
        missing = DnsFailed if isinstance(reason, socket.gaierror) else Unreachable
        silent = ProxyUnreachable if line.proxy else missing
        return no_way(host, f"cannot reach {host}: {why}", why, line.proxy, silent)
    why = f"its reply is not HTTP: {printable(str(reason) or type(reason).__name__)}"
    return HttpGarbled(f"cannot talk to {host}: {why}", host=host)


class _Line:
    """Cuts the connection when an exchange takes too long, however slowly something drips."""

    def __init__(self, timeout: float, proxy: Proxy | None) -> None:
        self.timeout, self.rang, self.proxy = timeout, False, proxy
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(timeout, self._ring)
        self._timer.daemon = True
        self.opener = _opener(self.watch, proxy)

    def __enter__(self) -> "_Line":
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        self._timer.join()
        if self._socket:
            with self._socket:
                ends(self._socket)

    def watch(self, line: socket.socket) -> None:
        """A duplicate: TLS takes the original over."""
        self._socket = line.dup()
        if self.rang:
            self._ring()

    def _ring(self) -> None:
        self.rang = True
        if self._socket:
            with suppress(OSError):  # the other end was faster
                self._socket.shutdown(socket.SHUT_RDWR)


def _opener(
    watch: Callable[[socket.socket], None], proxy: Proxy | None
) -> urllib.request.OpenerDirector:
    class Through(urllib.request.BaseHandler):
        """Always: who is asked himself must not see the login, and does not."""

        handler_order = 100  # before those that send

        def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
            if proxy:
                request.set_proxy(host_of(proxy.url), "http")
                request.headers.update(proxy.login())
            return request

        https_request = http_request

    class Watched(http.client.HTTPConnection):
        response_class = Response

        def connect(self) -> None:
            super().connect()
            watch(self.sock)

    class WatchedTls(http.client.HTTPSConnection, Watched):
        """Its connect() calls that of Watched, and then does the handshake."""

    class Plain(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(Watched, request)

    class Tls(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(WatchedTls, request, context=_anybody())

    class Replies(urllib.request.HTTPErrorProcessor):
        """Any status is a reply, a redirect too."""

        def http_response(self, request: Any, response: Any) -> Any:
            return response

        https_response = http_response

    around = (Through, urllib.request.ProxyHandler({})) if proxy else ()
    return urllib.request.build_opener(*around, Plain, Tls, Replies)


def _anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # as it is over http; see above
    return context
