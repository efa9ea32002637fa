"""An HTTP proxy on 127.0.0.1 that knows CONNECT alone (RFC 9110, 9.3.6), as operators put one
between devices and the world.

    with Proxy(hub.routes, username="device", password="...") as proxy:
        ...                                   # clients use proxy.url
        proxy.behave(status=502)              # from now on; or hang=True; nothing: well
        assert proxy.asked[-1].status == 200

`routes` says where "HOST:PORT" really is, for ports that only root can have and names that nobody
else knows; without one a loopback address is taken as it is, and everything else gets 502.
"""

import base64
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Self

LIMIT = 1 << 14  # bytes of a request
Target = tuple[str, int]


@dataclass(frozen=True)
class Asked:
    """A request, without the password; `status` is None where none was given."""

    line: str
    target: str
    user: str | None
    status: int | None


@dataclass
class _Lines:
    """Connections that are open, to be cut at the end."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    open: set[socket.socket] = field(default_factory=set)

    def add(self, line: socket.socket) -> socket.socket:
        with self.lock:
            self.open.add(line)
        return line

    def close(self, line: socket.socket) -> None:
        with self.lock:
            self.open.discard(line)
            line.close()

    def cut(self) -> None:
        with self.lock:
            for line in self.open:
                _end(line, socket.SHUT_RDWR)


class Proxy:
    """Runs for the length of the `with`, in threads of this process; all are gone afterwards."""

    def __init__(
        self,
        routes: Mapping[str, Target] | None = None,
        *,
        username: str | None = None,
        password: str = "",
    ) -> None:
        """With a `username` it asks for Basic authentication."""
        self.asked: list[Asked] = []
        self.username, self.password = username, password
        self._routes = dict(routes or {})
        self._status, self._hang = 200, False
        self._lines, self._over = _Lines(), threading.Event()
        self._threads: list[threading.Thread] = []

    def behave(self, *, status: int = 200, hang: bool = False) -> None:
        """From now on: `status` other than 200 for everybody, or no answer at all."""
        self._status, self._hang = status, hang

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._start(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        _end(self._listener, socket.SHUT_RDWR)  # accept() returns
        self._threads[0].join()
        self._listener.close()
        self._lines.cut()
        for thread in self._threads:
            thread.join()

    def _start(self, what: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=what, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is shut down
            while not self._over.is_set():
                line, _ = self._listener.accept()
                self._start(self._serve, self._lines.add(line))

    def _serve(self, line: socket.socket) -> None:
        try:
            if head := _head(line):
                self._answer(line, head)
        finally:
            self._lines.close(line)

    def _answer(self, line: socket.socket, head: str) -> None:
        request, *headers = head.split("\r\n")
        target, login = request.partition(" ")[2].partition(" ")[0], _login(headers)
        user = login[0] if login else None
        if self._hang:
            self.asked.append(Asked(request, target, user, None))
            self._over.wait()
            return
        status = self._judge(request, login)
        out = self._reach(target) if status == 200 else None
        status = 502 if status == 200 and out is None else status
        self.asked.append(Asked(request, target, user, status))
        _say(line, status)
        if out is not None:
            self._pump(line, out)

    def _judge(self, request: str, login: tuple[str, str] | None) -> int:
        if not request.startswith("CONNECT "):
            return 405
        if self._status != 200:
            return self._status
        wanted = None if self.username is None else (self.username, self.password)
        return 200 if wanted in (None, login) else 407

    def _reach(self, target: str) -> socket.socket | None:
        host, _, port = target.rpartition(":")
        try:
            where = self._routes.get(target) or (_loopback(host), int(port))
            return self._lines.add(socket.create_connection(where, 10))
        except (OSError, ValueError):  # ValueError: not HOST:PORT
            return None

    def _pump(self, line: socket.socket, out: socket.socket) -> None:
        """Bytes to and fro, until both ends are done."""
        out.settimeout(None)
        back = threading.Thread(target=_copy, args=(out, line))
        back.start()
        _copy(line, out)
        back.join()
        self._lines.close(out)


def _head(line: socket.socket) -> str | None:
    """The request up to the empty line; None if the client leaves before."""
    head = b""
    with contextlib.suppress(OSError):
        while not head.endswith(b"\r\n\r\n") and len(head) < LIMIT:
            if not (byte := line.recv(1)):  # no more than the head: what follows is not ours
                return None
            head += byte
    return head.decode("latin-1").rstrip() or None


def _login(headers: list[str]) -> tuple[str, str] | None:
    """User and password of Proxy-Authorization (RFC 7617)."""
    named = {n.strip().lower(): v.strip() for n, _, v in (h.partition(":") for h in headers)}
    scheme, _, credential = named.get("proxy-authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    user, _, password = base64.b64decode(credential).decode().partition(":")
    return user, password


def _loopback(host: str) -> str:
    """Raises OSError for whatever is not on this machine."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = False
    if not here:
        raise OSError(f"'{host}' is not on this machine")
    return host


def _say(line: socket.socket, status: int) -> None:
    more = 'Proxy-Authenticate: Basic realm="lab"\r\n' if status == 407 else ""
    more += "" if status == 200 else "Content-Length: 0\r\nConnection: close\r\n"
    with contextlib.suppress(OSError):  # the client has gone
        line.sendall(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{more}\r\n".encode())


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):  # one end was faster
        while data := source.recv(1 << 14):
            sink.sendall(data)
    _end(sink, socket.SHUT_WR)


def _end(line: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):  # it is at its end already
        line.shutdown(how)
