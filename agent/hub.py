"""An Azure IoT hub, by azure-iot-device: this device's connection to it, and messages over it.

The library's public interface only, and of that as little as there is need for: it connects once
and sends; when to try again is its caller's business. Its TLS is version 1.2 (it makes no other),
the certificates of `Route.trust` are its only anchors, and each must be a root.

The key stays in the TPM: a token (attestation by TPM) is signed in the caller's thread, whatever
the library asks for in its own; a TLS handshake (X.509) signs in the library's thread, while the
caller's waits for it.
"""

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from agent import sas
from agent.errors import ClockImplausible, HubUnreachable, TimedOut
from agent.hub_errors import Line, dropped, translated
from agent.hub_library import (
    Deadline,
    Key,
    Lifetime,
    call,
    certificates,
    failures,
    hang_up,
    of_environment,
    quiet,
    through,
)
from agent.tls import tls_context
from agent.tpm.operations import Signer
from agent.tpm.provider import TlsKey

if TYPE_CHECKING:
    from azure.iot.device import IoTHubDeviceClient, ProxyOptions

    from agent.http import Proxy

RENEW_AT = 0.8  # of a token's lifetime
LIMIT = 255 * 1024  # bytes of a message; the service's limit of 256 KB counts its properties, too
PATIENCE = 30.0  # seconds to wait for an acknowledgement
LOGIN = 60.0  # seconds that a login may take
JSON, TEXT, BYTES = "application/json", "text/plain", "application/octet-stream"


@dataclass(frozen=True)
class Where:
    """`hub`: its host name; `device_id`: this device's name there."""

    hub: str
    device_id: str


@dataclass(frozen=True)
class ByToken:
    """`sign`: HMAC-SHA256 with the key that the hub knows. `lifetime`: seconds, more than 120."""

    sign: Callable[[bytes], bytes]
    lifetime: float


@dataclass(frozen=True)
class ByCertificate:
    """`signer`: of the certificate's key; must work in any thread. `chain`: PEM, leaf first."""

    signer: Signer
    chain: Path


@dataclass(frozen=True)
class Route:
    """`trust`: PEM, roots. `websockets`: by port 443 instead of 8883. `proxy`: instead of what
    HTTPS_PROXY says, which is for port 443 only."""

    trust: Path
    websockets: bool = False
    proxy: "Proxy | None" = None


class Hub:
    """Closed by the end of the `with`. Not for several threads at once.

    `wake`: called in another thread when there is something to do: `keep` does it. `patience`:
    seconds to wait for an acknowledgement; `login`: that a login may take. Whatever raises an
    AgentError (HubRefused, TimedOut, HubUnreachable, ServerBusy, those of agent/tls.py and of the
    TPM, HubGarbled) leaves no connection.
    """

    def __init__(
        self,
        where: Where,
        credential: ByToken | ByCertificate,
        route: Route,
        *,
        wake: Callable[[], None] = lambda: None,
        patience: float = PATIENCE,
        login: float = LOGIN,
    ) -> None:
        self.where, self._credential, self._route = where, credential, route
        self._wake, self._patience, self._login = wake, patience, login
        self._client: IoTHubDeviceClient | None = None
        self._files = contextlib.ExitStack()
        self._asked, self._clock = threading.Event(), Lifetime(0)
        self._key: Key | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def connect(self) -> None:
        """Log in, with a token made now. What was open is closed before."""
        self.close()
        with self._speaking():
            self._client = self._new()
            call(self._client, self._new_token_wanted, self._wake)
            self._enter(self._client)

    def send(self, data: bytes, message_id: str, kind: str = JSON) -> None:
        """One message, of at most LIMIT bytes; returns when the hub has acknowledged it. If this
        raises, it may have arrived nonetheless: send it again with the same `message_id`.

        `kind`: a media type; all but BYTES are UTF-8.
        """
        from azure.iot.device import Message

        self.keep()
        encoding = None if kind == BYTES else "utf-8"
        message = Message(  # type: ignore[no-untyped-call]
            data, message_id, content_encoding=encoding, content_type=kind
        )
        with self._speaking(), self._alarm():
            self._open.send_message(message)

    def keep(self) -> None:
        """See that the connection is there, and renew the token when it is time. Raises
        HubUnreachable if the connection is lost."""
        if self._client is None or not self._client.connected:
            self.close()
            hub = self.where.hub
            raise HubUnreachable(f"cannot go on with {hub}: the connection was lost", host=hub)
        if self._asked.is_set() or self.due() <= 0:
            with self._speaking(), self._timely(self._token()) as token:
                self._open.update_sastoken(token)

    def due(self) -> float:
        """Seconds until `keep` should be called; inf if there is nothing to renew."""
        if isinstance(self._credential, ByCertificate):
            return float("inf")
        return self._credential.lifetime * RENEW_AT - self._clock.age()

    def close(self) -> None:
        """The library's threads end; nothing that was not acknowledged is sent later."""
        client, self._client = self._client, None
        if client is not None:
            call(client, None, None)
            with quiet():
                with contextlib.suppress(*failures()):
                    client.shutdown()  # it has no connection afterwards, whatever it says
                del client
                gc.collect()  # its parts hold each other, and their sockets
        self._files.close()

    # --- inside ---

    @property
    def _open(self) -> "IoTHubDeviceClient":
        if self._client is None:
            raise RuntimeError("a message is sent between connect() and close()")
        return self._client

    def _new(self) -> "IoTHubDeviceClient":
        from azure.iot.device import X509, IoTHubDeviceClient

        context = tls_context(self._route.trust)  # or says what is wrong with it
        options: dict[str, Any] = {
            "server_verification_cert": certificates(self._route.trust),
            "websockets": self._route.websockets,
            "proxy_options": self._proxy(),
            "auto_connect": False,
            "connection_retry": False,
            "ensure_desired_properties": False,
            "product_info": "tpm2cloud",
        }
        if isinstance(self._credential, ByToken):
            with self._timely(self._token()) as token:
                return IoTHubDeviceClient.create_from_sastoken(token, **options)
        self._key = Key(self._credential.signer)
        chain, tls = self._credential.chain, TlsKey(self._key)
        tls.load_into(context, chain)  # or says what is wrong with that
        reference = self._files.enter_context(tls.as_file())  # read once, when a context is made
        return IoTHubDeviceClient.create_from_x509_certificate(
            X509(str(chain), reference),  # type: ignore[no-untyped-call]
            self.where.hub,
            self.where.device_id,
            **options,
        )

    def _enter(self, client: "IoTHubDeviceClient") -> None:
        proxy = self._proxy()
        port = proxy.proxy_port if proxy else (443 if self._route.websockets else 8883)
        with Deadline(self._login, port) as deadline:
            try:
                client.connect()
            except failures() as e:
                if not deadline.rang:
                    raise
                with quiet():
                    dropped(e)
                hub, why = self.where.hub, f"it took longer than {self._login:g} s"
                raise TimedOut(f"cannot log in to {hub}: {why}", host=hub) from e

    def _token(self) -> str:
        if not isinstance(self._credential, ByToken):
            raise RuntimeError("a certificate needs no token")
        self._asked.clear()
        self._clock = Lifetime(self._credential.lifetime)
        resource = f"{self.where.hub}/devices/{self.where.device_id}"
        return sas.token(resource, self._credential.sign, self._clock.expires)

    @contextlib.contextmanager
    def _timely(self, token: str) -> Iterator[str]:
        """The library does not take one that is over."""
        try:
            yield token
        except ValueError as e:
            why = "a token that was made just now is over: the clock is being set"
            raise ClockImplausible(f"cannot log in to {self.where.hub}: {why}") from e

    def _new_token_wanted(self) -> None:
        """In a thread of the library's."""
        self._asked.set()
        self._wake()

    def _proxy(self) -> "ProxyOptions | None":
        if (proxy := self._route.proxy) is not None:
            return through(proxy.url, proxy.username, proxy.password)
        return of_environment(self.where.hub) if self._route.websockets else None

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            with quiet():
                yield
        except failures() as e:
            self.close()
            self._raise(e)
        except BaseException:
            self.close()
            raise

    def _raise(self, error: Exception) -> NoReturn:
        proxy = self._proxy()
        through = f"{proxy.proxy_address}:{proxy.proxy_port}" if proxy else None
        line = Line(self.where.hub, self.where.device_id, self._route.trust, through)
        told = translated(error, line)
        with quiet():
            dropped(error)
        if self._key is not None:
            self._key.raise_if_failed()
        raise told from error

    @contextlib.contextmanager
    def _alarm(self) -> Iterator[None]:
        """The library waits for an acknowledgement as long as the connection lasts."""
        timer = threading.Timer(self._patience, hang_up, (self._open,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
