"""The connection below agent/http.py: its proxy, its anchors, and when it is cut off."""

import base64
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import requests.adapters
from urllib3 import HTTPSConnectionPool
from urllib3.connection import HTTPSConnection

from agent.http_reply import Response
from agent.traffic import ends


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy that is asked to CONNECT. `url`: http://HOST:PORT, no user nor password in it;
    these are for Basic (RFC 7617), without a `username` there is no login."""

    url: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def login(self) -> dict[str, str]:
        """The header, or none: to be put where no log and no exception sees it."""
        if self.username is None:
            return {}
        both = f"{self.username}:{self.password or ''}".encode()
        return {"Proxy-Authorization": f"Basic {base64.b64encode(both).decode()}"}


class Alarm:
    """Cuts the line when an exchange takes too long: a read timeout starts anew at every byte."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._line: socket.socket | None = None
        self.rang = False

    def watch(self, line: socket.socket) -> None:
        """From now on this connection is it: a duplicate, for TLS takes the original over."""
        self.close()
        self._line = line.dup()
        if self.rang:  # while it was still connecting
            self._ring()

    @contextlib.contextmanager
    def set(self) -> Iterator[None]:
        self.rang = False
        timer = threading.Timer(self._seconds, self._ring)
        timer.daemon = True
        timer.start()
        try:
            yield
        except BaseException:
            self.close()  # nobody else holds the connection now: let the server see it end
            raise
        finally:
            timer.cancel()
            timer.join()

    def _ring(self) -> None:
        self.rang = True
        if line := self._line:
            with contextlib.suppress(OSError):  # the other end was faster
                line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        line, self._line = self._line, None
        if line:
            with line:
                ends(line)


class Session(requests.Session):
    def __init__(self) -> None:
        super().__init__()
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))  # none of any server

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None, or requests would read a redirect's body without limit and parse its Location,
        even when told not to follow."""


class Adapter(requests.adapters.HTTPAdapter):
    """Hands our context to urllib3, whole: without this, requests adds certifi's anchors to it."""

    def __init__(self, context: ssl.SSLContext, alarm: Alarm, proxy: Proxy | None = None) -> None:
        class Connection(HTTPSConnection):
            response_class = Response

            def _new_conn(self) -> socket.socket:
                line = super()._new_conn()
                alarm.watch(line)
                return line

        class Pool(HTTPSConnectionPool):
            ConnectionCls = Connection

        self._context, self._pools, self._proxy = context, {"https": Pool}, proxy
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs, ssl_context=self._context)
        manager.pool_classes_by_scheme = self._pools
        return manager

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        """Of a CONNECT: the login of the configured proxy; of another, what its URL says."""
        found: dict[str, str] = super().proxy_headers(proxy)
        return self._proxy.login() if self._proxy else found

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """The anchors are in the context already, and are all there are."""
