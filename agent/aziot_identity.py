"""IoT Edge's identity service, and what it says about this device.

What counts is what aziot-identityd answers on its socket, the same that edgeAgent will be told.
"""

import http.client
import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.aziot import words
from agent.errors import NotProvisioned

SOCKET = Path("/run/aziot/identityd.sock")

_LARGEST = 256 * 1024  # bytes of a reply; the real ones have some hundred
_POLL = 1.0  # seconds
_NOBODY = "device identity not found"  # aziot-identityd's error.rs, DeviceNotFound


@dataclass(frozen=True, kw_only=True)
class Provisioning:
    """What the service works with (the first three), and what DPS gave this device (the others)."""

    endpoint: str
    id_scope: str
    registration_id: str
    hub: str
    device_id: str
    settled = True


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """`reason`: why it is not known what this device is, in words.

    `nobody`: the service is up and knows of nobody that this device would be: it is set to another
    way than DPS, or was not given an identity. Else it may be somebody, and not be able to say so:
    it is down, still starts, or cannot reach the key. `listens`: something takes connections.
    """

    reason: str
    nobody: bool = False
    listens: bool = True

    @property
    def settled(self) -> bool:
        """It will not know better by being waited for, nor after a restart."""
        return self.nobody

    def __str__(self) -> str:
        return self.reason


Known = Provisioning | Unknown


def provisioning(path: Path = SOCKET, timeout: float = 5) -> Known:
    """What this device is in the cloud, if that is known. `timeout` in seconds.

    Two requests, api-version 2021-12-01:
    - `GET /identities/provisioning` is configuration, not state: `source` (`dps`, `manual`,
      `none`), and for `dps` `auth`, `endpoint`, `scope_id`, `registration_id`, `payload`.
    - `POST /identities/device` is state: `{"type": "aziot", "spec": {"hubName", "deviceId",
      "gatewayHost", "auth"}}` if DPS, now or at some earlier start, assigned this device to a hub
      and its key is usable; else 400 `device identity not found`, 404 if the key is not usable.

    Root may ask; of other users only those the service is configured for: the socket is 0660 of
    its own user, and `POST` gets 401 for a uid it does not know. The service answers nothing while
    it talks to DPS, and at start not before it has succeeded: then the socket is systemd's, takes
    connections, and the wait ends by `timeout`.
    """
    try:
        settings = _ask(path, "GET", "/identities/provisioning", timeout)
        if settings["source"] != "dps":
            why = f"the identity service is set to '{settings['source']}', not to DPS"
            return Unknown(reason=why, nobody=True)
        spec = _ask(path, "POST", "/identities/device", timeout)["spec"]
        return Provisioning(
            endpoint=settings["endpoint"],
            id_scope=settings["scope_id"],
            registration_id=settings["registration_id"],
            hub=spec["hubName"],
            device_id=spec["deviceId"],
        )
    except _NoAnswer as e:
        return e.unknown
    except (KeyError, TypeError) as e:
        return Unknown(reason=f"the identity service's answer was not understood: {e!r}")


def answer(path: Path = SOCKET, wait: float = 60) -> Known:
    """What `provisioning` says once the service knows: at most `wait` seconds are given to one that
    takes connections and says nothing (systemd holds its socket while it starts), or that does not
    get at its key."""
    deadline = time.monotonic() + wait
    while True:
        found = provisioning(path, max(0.1, min(30, deadline - time.monotonic())))
        absent = isinstance(found, Unknown) and not found.listens
        if found.settled or absent or time.monotonic() + _POLL >= deadline:
            return found
        time.sleep(_POLL)


def confirm(
    registration_id: str, id_scope: str, path: Path = SOCKET, wait: float = 60
) -> Provisioning:
    """Ask, for at most `wait` seconds, until the service is provisioned as just this.

    To be called after `reprovision()`, or the answer may be an old one. Raises NotProvisioned with
    the service's own words.
    """
    deadline = time.monotonic() + wait
    while True:
        found = provisioning(path, max(0.1, min(5, deadline - time.monotonic())))
        problem = _problem(found, registration_id, id_scope)
        if isinstance(found, Provisioning) and problem is None:
            return found
        if time.monotonic() + _POLL >= deadline:
            raise NotProvisioned(
                f"cannot confirm that '{registration_id}' is provisioned: {problem}",
                registration_id=registration_id,
            )
        time.sleep(_POLL)


def _problem(found: Known, registration_id: str, id_scope: str) -> str | None:
    if isinstance(found, Unknown):
        return found.reason
    if (found.registration_id, found.id_scope) == (registration_id, id_scope):
        return None
    return (
        f"the identity service is at work as '{found.registration_id}' in the scope "
        f"'{found.id_scope}', not in '{id_scope}'"
    )


class _NoAnswer(Exception):
    def __init__(self, reason: str, *, nobody: bool = False, listens: bool = True) -> None:
        super().__init__(reason)
        self.unknown = Unknown(reason=reason, nobody=nobody, listens=listens)


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("identityd.sock", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _ask(path: Path, method: str, target: str, timeout: float) -> Any:
    """The JSON the service answers. Raises _NoAnswer with the reason in words."""
    body = json.dumps({"type": "aziot"}) if method == "POST" else None
    headers = {"Content-Type": "application/json"} if body else {}
    connection = _Connection(path, timeout)
    try:
        connection.request(method, f"{target}?api-version=2021-12-01", body, headers)
        response = connection.getresponse()
        said = response.read(_LARGEST)
    except TimeoutError as e:
        raise _NoAnswer(
            "the identity service does not answer: it is still talking to DPS, or fails to start"
        ) from e
    except http.client.HTTPException as e:
        raise _NoAnswer(f"what listens at '{path}' talks no HTTP, or hung up: {e!r}") from e
    except OSError as e:
        listens = not isinstance(e, FileNotFoundError | ConnectionRefusedError)
        why = f"no identity service can be asked at '{path}': {e.strerror or e}"
        raise _NoAnswer(why, listens=listens) from e
    finally:
        connection.close()
    return _json(response.status, said)


def _json(status: int, said: bytes) -> Any:
    try:
        answer = json.loads(said)
        if status == http.HTTPStatus.OK:
            return answer
        reason = words(str(answer["message"]).encode())
    except (ValueError, KeyError, TypeError):
        reason = words(said)
    nobody = reason == _NOBODY and status == http.HTTPStatus.BAD_REQUEST
    raise _NoAnswer(f"the identity service says: '{reason}' ({status})", nobody=nobody)
