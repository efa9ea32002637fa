"""IoT Edge at work: its command line, and what its identity service says about this device.

Nothing is assumed: `iotedge` may hang, and its success proves little. What counts is what
aziot-identityd answers on its socket, the same that edgeAgent will be told.
"""

import contextlib
import http.client
import json
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import IotedgeFailed, IotedgeMissing, NotProvisioned

SOCKET = Path("/run/aziot/identityd.sock")

_QUOTED = 500  # bytes of foreign words in a message of ours
_KEPT = 64 * 1024  # bytes of a tool's output that are remembered
_LARGEST = 256 * 1024  # bytes of a reply; the real ones have some hundred
_POLL = 1.0  # seconds


# --- the command line ----------------------------------------------------------------------------


def apply(secrets: Collection[str] = (), timeout: float = 300) -> None:
    """`iotedge config apply`: config.toml becomes the services' own files, and they restart.

    Needs root. Success means the files are written: services that do not restart change nothing
    about it. From the second time on the container engine must be running, to tell whether the
    hostname may change. A complaint about config.toml quotes its line, PIN and all: `secrets` are
    made unreadable in what is passed on. `timeout` in seconds. Raises IotedgeMissing,
    IotedgeFailed.
    """
    _iotedge(["config", "apply"], secrets, timeout)


def reprovision(secrets: Collection[str] = (), timeout: float = 300) -> None:
    """`iotedge system reprovision`: the identity service asks DPS anew, now.

    Not to be left out after a change: at start the service is content with the hub and device id
    it was once given, whatever its configuration says. Not to be done without need: what it was
    given is forgotten first, so a device that DPS then turns away, or that is offline, is nobody
    until this succeeds. Raises IotedgeMissing, IotedgeFailed.
    """
    _iotedge(["system", "reprovision"], secrets, timeout)


def _iotedge(verb: list[str], secrets: Collection[str], timeout: float) -> None:
    command = f"iotedge {' '.join(verb)}"
    program = shutil.which("iotedge")
    if program is None:
        raise IotedgeMissing(f"cannot run '{command}': there is no 'iotedge' on the PATH")
    try:
        status, output = _run([program, *verb], timeout)
    except OSError as e:
        raise IotedgeFailed(f"cannot run '{command}': {e.strerror}") from e
    if status != 0:
        said = words(output, secrets)
        raise IotedgeFailed(
            f"cannot run '{command}': it {_ending(status, timeout)}, "
            + (f"and said: '{said}'" if said else "and said nothing")
        )


def _ending(status: int | None, timeout: float) -> str:
    if status is None:
        return f"did not finish within {timeout:g} seconds"
    return f"ended with status {status}" if status > 0 else f"was killed by signal {-status}"


def _run(argv: list[str], timeout: float) -> tuple[int | None, bytes]:
    """Exit status (None: it took too long) and the last output of the program.

    Its whole process group is gone afterwards. Both ends are watched, its exit and its output:
    something it started may hold the output open for ever.
    """
    with subprocess.Popen(  # noqa: S603 - found on the PATH, arguments are ours
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
        start_new_session=True,
    ) as child:
        assert child.stdout is not None  # noqa: S101 - it is a PIPE
        try:
            output, ended = _watch(child.pid, child.stdout.fileno(), timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # not reaped yet, so the number is still its
        return (child.wait() if ended else None), output


def _watch(pid: int, pipe: int, timeout: float) -> tuple[bytes, bool]:
    """The last output, and whether the process ended by itself. Leaves it unreaped."""
    deadline = time.monotonic() + timeout
    output, exited = b"", os.pidfd_open(pid)
    os.set_blocking(pipe, False)
    with os.fdopen(exited, "rb", 0), selectors.DefaultSelector() as watched:
        watched.register(pipe, selectors.EVENT_READ)
        watched.register(exited, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            ready = {key.fd for key, _ in watched.select(left)}
            data = _available(pipe) if pipe in ready else None
            output = (output + (data or b""))[-_KEPT:]
            if data == b"":
                watched.unregister(pipe)
            elif exited in ready and not data:
                return output, True
    return output, False


def _available(pipe: int) -> bytes | None:
    try:
        return os.read(pipe, _KEPT)
    except BlockingIOError:
        return None


def words(said: bytes, secrets: Collection[str] = ()) -> str:
    """The end of what a program said, fit to be quoted: one line, no secrets, at most 500 bytes."""
    text = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", said.decode(errors="replace"))
    lines = ("".join(c for c in line if c.isprintable()).strip() for line in text.splitlines())
    text = " | ".join(line for line in lines if any(map(str.isalnum, line)))
    for secret in sorted({*secrets, *map(_escaped, secrets)}, key=len, reverse=True):
        text = text.replace(secret, "***")
    if len(text.encode()) <= _QUOTED:
        return text
    return "..." + text.encode()[3 - _QUOTED :].decode(errors="ignore")


def _escaped(secret: str) -> str:
    """As in a TOML text, which a parser's complaint may quote."""
    return json.dumps(secret, ensure_ascii=False)[1:-1]


# --- the identity service ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Provisioning:
    """What the service works with (the first three), and what DPS gave this device (the others)."""

    endpoint: str
    id_scope: str
    registration_id: str
    hub: str
    device_id: str


def provisioning(path: Path = SOCKET, timeout: float = 5) -> Provisioning | str:
    """What this device is in the cloud, or in words why that is not known. `timeout` in seconds.

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
            return f"the identity service is set to '{settings['source']}', not to DPS"
        spec = _ask(path, "POST", "/identities/device", timeout)["spec"]
        return Provisioning(
            endpoint=settings["endpoint"],
            id_scope=settings["scope_id"],
            registration_id=settings["registration_id"],
            hub=spec["hubName"],
            device_id=spec["deviceId"],
        )
    except _NoAnswer as e:
        return str(e)
    except (KeyError, TypeError) as e:
        return f"the identity service's answer was not understood: {e!r}"


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
        problem = found if isinstance(found, str) else _differs(found, registration_id, id_scope)
        if isinstance(found, Provisioning) and problem is None:
            return found
        if time.monotonic() + _POLL >= deadline:
            raise NotProvisioned(
                f"cannot confirm that '{registration_id}' is provisioned: {problem}",
                registration_id=registration_id,
            )
        time.sleep(_POLL)


def _differs(found: Provisioning, registration_id: str, id_scope: str) -> str | None:
    if (found.registration_id, found.id_scope) == (registration_id, id_scope):
        return None
    return (
        f"the identity service is at work as '{found.registration_id}' in the scope "
        f"'{found.id_scope}', not in '{id_scope}'"
    )


class _NoAnswer(Exception):
    pass


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
        raise _NoAnswer(f"no identity service can be asked at '{path}': {e.strerror or e}") from e
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
    raise _NoAnswer(f"the identity service says: '{reason}' ({status})")
