"""The side with the TPM: what it asks the process with the network, which it does not trust.

It gets contents, not paths, and answers or the errors of agent/errors; what it wants signed, a
judge looks at (agent/network/guard.py). Only this one login is in its hands.
"""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import Certificate

from agent import traffic
from agent.clock import Times
from agent.errors import NetworkProcess, TrustUnreadable
from agent.http import Https, Proxy, Reply, host_of
from agent.network import guard, wire
from agent.network.frames import Broken, Frame, Frames
from agent.network.login import TlsLogin

Found = TypeVar("Found")
SLACK = 60.0  # seconds, more than it may take itself: to be started, and to look up a name
_ASKING = {"request", "get", "connect", "send", "keep"}  # somebody, over a network
_MANY = 16  # frames that may wait


class Worker:
    """One process with the network, which ends with this. Not for several threads at once.

    `judge`: signs what it asks for. `wake`: called in another thread when it has news.
    """

    def __init__(
        self, place: Path, judge: guard.Judge, wake: Callable[[], None] | None = None
    ) -> None:
        self._judge, self._wake, self._closed = judge, wake, False
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._frames = Frames(self._line)
        self._unsigned: BaseException | None = None
        try:
            self._line.connect(str(place))
        except OSError as e:
            self._line.close()
            self._broken(Broken(f"'{place}': {e.strerror}"))
        self._mail: queue.Queue[Frame | Broken] = queue.Queue(_MANY)
        if wake:
            threading.Thread(target=self._read, daemon=True).start()

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):  # it was faster
            self._line.shutdown(socket.SHUT_RDWR)
        self._line.close()

    def call(self, act: str, seconds: float, **arguments: Any) -> Any:
        """What it did; `seconds` it may take, besides what it is waited for. Raises what that
        raises, what our key does, and NetworkProcess."""
        try:
            self._frames.send({"act": act, **arguments})
            return self._result(seconds + SLACK)
        except Broken as e:
            self.close()
            if act in _ASKING:  # perhaps it has: then it must count as a try
                traffic.add(traffic.Traffic(sent=1))
            self._broken(e)

    def _broken(self, e: Broken) -> NoReturn:
        raise NetworkProcess(f"cannot ask the process with the network: {e}") from e

    def _result(self, seconds: float) -> Any:
        until, self._unsigned, signed = time.monotonic() + seconds, None, 0
        while True:
            frame = self._next(until - time.monotonic())
            if "sign" not in frame:
                return self._told(frame)
            signed, began = signed + 1, time.monotonic()
            self._sign(frame, signed)
            until += time.monotonic() - began

    def _told(self, frame: Frame) -> Any:
        wire.spend(frame)
        if "error" not in frame:
            return frame.get("result")
        error = wire.as_error(frame["error"])
        if isinstance(error, wire.Unsigned) and self._unsigned:
            raise self._unsigned
        raise error

    def _sign(self, frame: Frame, times: int) -> None:
        """An error of the key is told to whoever made the call: that fails now."""
        try:
            if times > guard.TIMES:
                raise guard.Denied("nobody logs in so often at once")
            made = self._judge.sign(frame)
        except guard.Denied as e:
            raise Broken(f"it wants a signature that it may not have: {e}") from e
        except Exception as e:
            self._unsigned = e
            made = None
        self._frames.send({"signed": made})

    def _next(self, seconds: float) -> Frame:
        if not self._wake:
            return self._frames.receive(seconds)
        try:
            found = self._mail.get(timeout=max(seconds, 0))
        except queue.Empty as e:
            raise Broken("it says nothing") from e
        if isinstance(found, Broken):
            raise found
        return found

    def _read(self) -> None:
        """In a thread of its own: news may come at any time."""
        wake = self._wake or (lambda: None)
        try:
            while True:
                frame = self._frames.receive()
                wake() if "wake" in frame else self._mail.put(frame)
        except Broken as e:
            self._mail.put(e)
            if not self._closed:  # else that is no news
                wake()


class FarHttps(Https):
    """As Https, by a worker, one for as long as this is open. `identify`: a TlsLogin."""

    def __init__(
        self,
        place: Path,
        trust: Path,
        *,
        more: Sequence[Certificate] = (),
        identify: Callable[[Any], None] | None = None,
        explain: Callable[[], None] | None = None,  # the key is here: it is known anyhow
        timeout: float = 30,
        limit: int = 1 << 20,
        proxy: Proxy | None = None,
        times: Times | None = None,
    ) -> None:
        login, self._seconds, self._times = identify and _login(identify), timeout, times
        contents = trusted(trust)
        self._worker = Worker(place, guard.Tls(login.signer) if login else guard.NoKey())
        try:
            self._worker.call(
                "https",
                0,
                trust=wire.file(trust, contents),
                more=[each.public_bytes(Encoding.DER) for each in more],
                login=login and shown(login.signer, login.chain),
                timeout=timeout,
                limit=limit,
                proxy=wire.proxy(proxy),
                floor=wire.floor(times),
                environment=wire.environment(),
            )
        except BaseException:
            self._worker.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """What it has sent is told at the end; where that fails, it was told why before."""
        with contextlib.suppress(NetworkProcess):
            self._worker.call("close", 0)
        self._worker.close()

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Reply:
        found = self._worker.call(
            "request",
            self._seconds,
            method=method,
            url=url,
            headers=dict(headers or {}),
            body=body,
        )
        reply = _understood(wire.as_reply, found)
        if self._times and reply.vouched:
            brings = method == "POST" and reply.status == HTTPStatus.OK
            self._times.hear(host_of(url), reply.headers, reply.vouched, brings=brings)
        return reply


def get(place: Path, url: str, hosts: Sequence[str], proxy: Proxy | None) -> bytes:
    """agent.fetch.get."""
    from agent import fetch

    how = {"hosts": list(hosts), "proxy": wire.proxy(proxy), "environment": wire.environment()}
    seconds = fetch.TIMEOUT * (fetch.REDIRECTS + 1)
    return _understood(_bytes, _once(place, "get", seconds, url=url, **how))


def card(place: Path) -> str:
    """agent.deviceid.mac."""
    return _understood(_text, _once(place, "card", 0))


def _once(place: Path, act: str, seconds: float, **arguments: Any) -> Any:
    worker = Worker(place, guard.NoKey())
    try:
        return worker.call(act, seconds, **arguments)
    finally:
        worker.close()


def trusted(trust: Path) -> bytes:
    """Raises TrustUnreadable."""
    try:
        return trust.read_bytes()
    except OSError as e:
        raise TrustUnreadable(f"cannot read '{trust}': {e.strerror}", path=trust) from e


def shown(signer: Any, chain: bytes) -> Frame:
    key = signer.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {"key": key, "chain": chain}


def _login(identify: Callable[[Any], None]) -> TlsLogin:
    if not isinstance(identify, TlsLogin):
        raise TypeError("only a key in the TPM logs in through another process")
    return identify


def _bytes(found: Any) -> bytes:
    if not isinstance(found, bytes):
        raise Broken("what it says is no file")
    return found


def _text(found: Any) -> str:
    if not isinstance(found, str):
        raise Broken("what it says is no text")
    return found


def _understood(read: Callable[[Any], Found], found: Any) -> Found:
    try:
        return read(found)
    except Broken as e:
        raise NetworkProcess(f"cannot ask the process with the network: {e}") from e
