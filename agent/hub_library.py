"""What our side of azure-iot-device needs around it (agent/hub.py)."""

import contextlib
import logging
import os
import re
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, urlsplit

from agent.http import proxy_of_environment
from agent.tpm.operations import Signer

if TYPE_CHECKING:
    from azure.iot.device import IoTHubDeviceClient, ProxyOptions

CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
LOGGERS = ("azure.iot.device", "paho")


class Lifetime:
    """Of a token, made now: by the wall clock, which the hub compares with its own, and by one that
    goes on in a suspended device, and that nobody sets."""

    def __init__(self, seconds: float) -> None:
        self._wall, self._since = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
        self.expires = int(self._wall + seconds)

    def age(self) -> float:
        wall = time.time() - self._wall
        return max(wall, time.clock_gettime(time.CLOCK_BOOTTIME) - self._since)


class Key:
    """A signer that keeps what went wrong in the library's thread for ours."""

    def __init__(self, signer: Signer) -> None:
        self._signer, self._lock = signer, threading.Lock()
        self._error: BaseException | None = None

    @property
    def public_key(self) -> Any:
        return self._signer.public_key

    def sign(self, digest: bytes, hash_name: str, *, pss: bool = False) -> bytes:
        with self._lock:
            try:
                return self._signer.sign(digest, hash_name, pss=pss)
            except BaseException as e:
                self._error = e
                raise

    def raise_if_failed(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error


class Deadline:
    """For a login: the library waits in it, in a thread of its own, as long as the other end says
    something once a minute. `port`: of the hub, or of the proxy. `rang`: it was cut off."""

    def __init__(self, seconds: float, port: int) -> None:
        self._seconds, self._port, self.rang = seconds, port, False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        left = self._seconds
        while not self._over.wait(left):
            self.rang, left = True, 1.0  # perhaps it has no connection yet
            cut_off(self._port)


def cut_off(port: int) -> None:
    """All connections of this process to that port of whomever: the library tells of none."""
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # it is closed by now, or not connected
            if not str(fd.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(fd.name))) as line:
                internet = line.family in (socket.AF_INET, socket.AF_INET6)
                if internet and line.getpeername()[1] == port:
                    line.shutdown(socket.SHUT_RDWR)


def hang_up(client: "IoTHubDeviceClient") -> None:
    """What waits for an acknowledgement is cancelled. In a thread of its own, perhaps at the same
    time as its owner closes it."""
    with contextlib.suppress(*failures()):
        client.disconnect()


def call(client: Any, new_token: Callable[[], None] | None, change: object) -> None:
    """In a thread of the library's; its annotations of these are wrong."""
    client.on_new_sastoken_required = new_token
    client.on_connection_state_change = change


def of_environment(hub: str) -> "ProxyOptions | None":
    """What HTTPS_PROXY and NO_PROXY say of this host. Raises ProxyUnusable: the library would take
    one of another scheme for HTTP."""
    url = proxy_of_environment(f"https://{hub}", ("http",))
    if url is None:
        return None
    parts = urlsplit(url)
    username, password = (unquote(part or "") for part in (parts.username, parts.password))
    return through(url, username, password)


def through(proxy: str, username: str | None, password: str | None) -> "ProxyOptions":
    from azure.iot.device import ProxyOptions

    url = urlsplit(proxy)
    where = (url.hostname, url.port or 80)
    return ProxyOptions("HTTP", *where, username, password)  # type: ignore[no-untyped-call]


def certificates(trust: Path) -> str:
    """As the library wants them: PEM, and not a letter besides that is not ASCII."""
    return "\n".join(CERTIFICATE.findall(trust.read_text(encoding="latin-1")))


def failures() -> tuple[type[Exception], ...]:
    from azure.iot.device import exceptions as e

    return (e.ClientError, e.OperationTimeout, e.OperationCancelled)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The library's threads log tracebacks of what is raised here, too; its TLS contexts are of a
    kind that Python deprecates, and its sockets are closed when they are forgotten."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        yield
