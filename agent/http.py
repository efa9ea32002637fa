"""One place that makes HTTPS safe, for talking to servers that a pinned trust file vouches for.

- The anchors, the name and the version are checked as agent/tls.py says; neither certifi nor the
  environment (REQUESTS_CA_BUNDLE, SSL_CERT_FILE) adds an anchor, nor ~/.netrc a password.
- No redirect is followed, nothing is sent twice, cookies and compression are not offered.
- A reply ends: at `limit` bytes, and after `timeout` seconds however slowly it drips.
- A proxy is the one that is given, else that of HTTPS_PROXY and NO_PROXY; it sees the host's name
  and encrypted bytes.
"""

import datetime
import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import IncompleteRead
from pathlib import Path
from typing import NoReturn, Self
from urllib.parse import urlsplit

import requests
import requests.utils
from cryptography.x509 import Certificate
from urllib3.exceptions import HTTPError, ProxyError

from agent.clock import Times, Vouched, http_date
from agent.errors import (
    DnsFailed,
    HttpGarbled,
    ProxyLogin,
    ProxyRefused,
    ProxyUnreachable,
    ProxyUnusable,
    ReplyTooLarge,
    ReplyTruncated,
    TimedOut,
    Unreachable,
)
from agent.http_line import Adapter, Alarm, Proxy, Session
from agent.tls import tls_context, tls_error
from agent.urls import HOST_LABEL

__all__ = [
    "Https",
    "Proxy",
    "Reply",
    "host_of",
    "http_date",
    "no_way",
    "printable",
    "proxy_of_environment",
    "retry_after",
]
NO_LOGIN = 407  # Proxy Authentication Required
_NO_TUNNEL = re.compile(r"Tunnel connection failed: ([0-9]{3})")  # http.client
WEEK = 7 * 24 * 3600


@dataclass(frozen=True)
class Reply:
    """What a server answered, complete; `headers` are found in any case. `vouched`: how long the
    chain of certificates lasts that vouched for it."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    vouched: Vouched | None = None


class Https:
    """Requests to servers for which the file `trust` vouches, over one connection kept open.

    `trust`: PEM, one or several certificates; each is an anchor, a root or not (RFC 7030, 3.6.1).
    `more`: anchors besides, such as a CA's new root.
    `identify`: puts a client certificate and its key into the context it is given.
    `explain`: called when TLS failed; raises what really happened if it knows better (a key that
    could not sign is to TLS only an odd handshake).
    `timeout`: seconds for one whole exchange. `limit`: bytes of a reply's body.
    `proxy`: to be used whatever the environment says.
    `times`: what is known of the time by what servers say, and learns of it by each reply.
    """

    def __init__(
        self,
        trust: Path,
        *,
        more: Sequence[Certificate] = (),
        identify: Callable[[ssl.SSLContext], None] | None = None,
        explain: Callable[[], None] | None = None,
        timeout: float = 30,
        limit: int = 1 << 20,
        proxy: Proxy | None = None,
        times: Times | None = None,
    ) -> None:
        self._trust, self._explain, self._timeout, self._limit = trust, explain, timeout, limit
        self._times = times
        context = self._context = tls_context(trust, more, floor=times.floor if times else None)
        if identify:
            identify(context)
            context.post_handshake_auth = True
        self._alarm, self._proxy = Alarm(timeout), proxy
        self._session = Session()
        self._session.trust_env = False
        self._session.adapters.clear()
        self._session.mount("https://", Adapter(context, self._alarm, proxy))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._session.close()
        self._alarm.close()

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Reply:
        """One exchange; any status is a reply. `url` starts with https://.

        Raises Unreachable, DnsFailed, TimedOut, ReplyTruncated, ProxyUnreachable, ProxyRefused,
        ProxyLogin, TlsDates, TlsExpiredSince, ClockImplausible (75: later); TlsUntrusted, TlsName,
        TlsClientRefused, TlsFailed, HttpGarbled, ReplyTooLarge (76); ProxyUnusable (78).
        """
        host = host_of(url)
        try:
            with self._alarm.set():
                reply = self._exchange(method, url, headers or {}, body)
        except (requests.ConnectionError, requests.Timeout, HTTPError) as e:
            self._translate(host, e)
        except requests.exceptions.InvalidHeader as e:
            if not isinstance(_causes(e)[-1], HTTPError):
                raise  # ours, not the server's
            self._translate(host, e)
        if self._alarm.rang:  # cut off, yet it looked whole: it ended with the connection
            raise self._late(host)
        if self._times and reply.vouched:
            brings = method == "POST" and reply.status == HTTPStatus.OK
            self._times.hear(host, reply.headers, reply.vouched, brings=brings)
        return reply

    def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Reply:
        with self._session.request(
            method,
            url,
            headers={"User-Agent": "tpm2cloud", "Accept-Encoding": "identity", **headers},
            data=body,
            proxies=self._proxies(url),
            timeout=self._timeout,
            allow_redirects=False,
            stream=True,
        ) as response:
            whole = bytearray()
            for piece in response.raw.stream(1 << 14, decode_content=False):
                whole += piece
                if len(whole) > self._limit:
                    why = f"the reply is longer than {self._limit} bytes"
                    raise ReplyTooLarge(f"cannot use {host_of(url)}: {why}", host=host_of(url))
            vouched = self._context.vouched
            return Reply(response.status_code, response.headers, bytes(whole), vouched)

    def _proxies(self, url: str) -> dict[str, str]:
        found = self._proxy.url if self._proxy else proxy_of_environment(url)
        return {"https": found} if found else {}

    def _late(self, host: str) -> TimedOut:
        why = f"no complete answer within {self._timeout:g} s"
        return TimedOut(f"cannot talk to {host}: {why}", host=host)

    def _translate(self, host: str, error: Exception) -> NoReturn:
        """The foreign exception in our words; the innermost cause is the one that says why."""
        causes = _causes(error)
        tls = next((e for e in causes if isinstance(e, ssl.SSLError)), None)
        if tls and self._explain:
            self._explain()
        if self._alarm.rang or any(isinstance(e, TimeoutError) for e in causes):
            raise self._late(host) from error
        if any(isinstance(e, ProxyError) for e in causes):
            message = f"cannot reach {host} through the proxy: {_why(causes)}"
            why = str(causes[-1])
            raise no_way(host, message, why, self._proxy, ProxyUnreachable) from error
        if tls and not isinstance(tls, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            raise tls_error(host, self._trust, tls) from error
        if any(isinstance(e, IncompleteRead) for e in causes):
            why = "it broke off"
            raise ReplyTruncated(f"cannot read the reply of {host}: {why}", host=host) from error
        if isinstance(causes[-1], OSError):
            kind = DnsFailed if isinstance(causes[-1], socket.gaierror) else Unreachable
            raise kind(f"cannot reach {host}: {_why(causes)}", host=host) from error
        why = f"its reply is not HTTP: {_why(causes)}"
        raise HttpGarbled(f"cannot talk to {host}: {why}", host=host) from error


def host_of(url: str) -> str:
    """The host, and the port if the URL names one; never a user or password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def no_way(
    host: str, message: str, why: str, proxy: Proxy | None, silent: type[Unreachable]
) -> Unreachable:
    """To a host: a proxy says so itself, in the words of http.client, or it is `silent`."""
    found, kind = _NO_TUNNEL.search(why), silent
    if found:
        kind = ProxyLogin if int(found[1]) == NO_LOGIN else ProxyRefused
    return kind(message, host=host, proxy=host_of(proxy.url) if proxy else "HTTPS_PROXY's proxy")


def proxy_of_environment(url: str, schemes: Sequence[str] = ("http", "https")) -> str | None:
    """What HTTPS_PROXY, ALL_PROXY and NO_PROXY say of this URL: a URL, perhaps with a login in it.
    Raises ProxyUnusable, without quoting it."""
    found = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
    if not found:
        return None
    proxy = found if "://" in found else f"http://{found}"
    if not _is_proxy(proxy, schemes):
        ways = " or ".join(f"{scheme}://HOST:PORT" for scheme in schemes)
        raise ProxyUnusable(f"cannot reach {host_of(url)}: HTTPS_PROXY is not {ways}")
    return proxy


def _is_proxy(url: str, schemes: Sequence[str]) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    labels = (parts.hostname or "").removesuffix(".").split(".")
    host = port != 0 and all(map(HOST_LABEL.fullmatch, labels))
    no_more = parts.path in ("", "/") and not (parts.query or parts.fragment)
    return parts.scheme in schemes and host and no_more and url.isascii()


def printable(text: str, limit: int = 200) -> str:
    """What a stranger sent, fit for a terminal and a log: one line, no control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:limit]


def retry_after(headers: Mapping[str, str]) -> int | None:
    """Seconds to stay away, 0 to 7 days (RFC 9110, 10.2.3), or None if not or not legibly said.

    A date is taken relative to the server's own Date if there is one: our clock may be wrong.
    """
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"-?[0-9]+", value):
        seconds = WEEK if len(value) > 9 else int(value)
    else:
        until = http_date(value)
        if until is None:
            return None
        now = http_date(headers.get("Date", "")) or datetime.datetime.now(datetime.UTC)
        seconds = int((until - now).total_seconds())
    return min(max(seconds, 0), WEEK)


def _causes(error: BaseException) -> list[BaseException]:
    """`error`, what caused it, what caused that, and so on (urllib3 keeps some in `args`)."""
    causes = [error]
    while True:
        last = causes[-1]
        wrapped = next((a for a in last.args if isinstance(a, BaseException)), None)
        inner = last.__cause__ or last.__context__ or wrapped
        if inner is None or inner in causes:
            return causes
        causes.append(inner)


def _why(causes: list[BaseException]) -> str:
    last = causes[-1]
    text = printable(getattr(last, "strerror", None) or str(last) or type(last).__name__)
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
