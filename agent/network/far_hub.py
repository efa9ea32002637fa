"""As agent.hub.Hub, by a process that has the network; the key stays here, and so does the judge of
what it signs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from agent.errors import HubUnreachable, NetworkProcess, TlsCertificateUnusable
from agent.hub import JSON, LOGIN, PATIENCE, ByCertificate, ByToken, Route, Where
from agent.network import far, guard, wire


class FarHub:
    """Closed by the end of the `with`. See agent.hub.Hub; besides what that raises, NetworkProcess,
    after which there is no connection either."""

    def __init__(
        self,
        place: Path,
        where: Where,
        credential: ByToken | ByCertificate,
        route: Route,
        *,
        wake: Callable[[], None] = lambda: None,
        patience: float = PATIENCE,
        login: float = LOGIN,
    ) -> None:
        self.where, self._place, self._credential, self._route = where, place, credential, route
        self._wake, self._patience, self._seconds = wake, patience, login
        self._worker: far.Worker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def connect(self) -> None:
        self.close()
        how = self._how()
        self._worker = far.Worker(self._place, self._judge(), self._wake)
        self._call("hub", 0, **how)
        self._call("connect", self._seconds)

    def send(self, data: bytes, message_id: str, kind: str = JSON) -> None:
        seconds = self._seconds + self._patience
        self._call("send", seconds, data=data, message_id=message_id, kind=kind)

    def keep(self) -> None:
        self._call("keep", self._seconds)

    def due(self) -> float:
        if self._worker is None or isinstance(self._credential, ByCertificate):
            return float("inf")
        found = self._call("due", 0)
        if not isinstance(found, int | float):
            raise NetworkProcess("cannot ask the process with the network: it says no time")
        return float(found)

    def close(self) -> None:
        """Its process ends, whatever it was doing."""
        worker, self._worker = self._worker, None
        if worker:
            worker.close()

    # --- inside ---

    def _call(self, act: str, seconds: float, **arguments: Any) -> Any:
        if self._worker is None:
            hub = self.where.hub
            raise HubUnreachable(f"cannot go on with {hub}: the connection was lost", host=hub)
        try:
            return self._worker.call(act, seconds, **arguments)
        except BaseException:
            self.close()
            raise

    def _judge(self) -> guard.Judge:
        login = self._credential
        if isinstance(login, ByCertificate):
            return guard.Tls(login.signer)
        resource = f"{self.where.hub}/devices/{self.where.device_id}"
        return guard.Token(resource, login.lifetime, login.sign)

    def _how(self) -> dict[str, Any]:
        route = self._route
        return _login(self._credential) | {
            "hub": self.where.hub,
            "device_id": self.where.device_id,
            "trust": wire.file(route.trust, far.trusted(route.trust)),
            "websockets": route.websockets,
            "proxy": wire.proxy(route.proxy),
            "environment": wire.environment(),
            "patience": self._patience,
            "until": self._seconds,
        }


def _login(credential: ByToken | ByCertificate) -> dict[str, Any]:
    if isinstance(credential, ByToken):
        return {"login": None, "lifetime": credential.lifetime}
    chain = _contents(credential.chain)
    return {"login": far.shown(credential.signer, chain), "chain": str(credential.chain)}


def _contents(chain: Path) -> bytes:
    try:
        return chain.read_bytes()
    except OSError as e:
        why = f"cannot use the certificate in '{chain}' with the key in the TPM: {e.strerror}"
        raise TlsCertificateUnusable(why, path=chain) from e
