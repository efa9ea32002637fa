"""IoT Edge's command line. Nothing is assumed: `iotedge` may hang, and its success proves little;
what does is in aziot_identity.
"""

import contextlib
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Collection

from agent.errors import IotedgeFailed, IotedgeMissing

_QUOTED = 500  # bytes of foreign words in a message of ours
_KEPT = 64 * 1024  # bytes of a tool's output that are remembered
_PIN = re.compile(r"(pin-value=)[^&;\"' ]*")  # of a PKCS#11 URI (RFC 7512)


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


def stop(timeout: float = 300, secrets: Collection[str] = ()) -> None:
    """`iotedge system stop`: its services end, and its modules with them.

    Their sockets stay, and start them again when somebody asks, unless a condition of the unit
    keeps them down. Raises IotedgeMissing, IotedgeFailed.
    """
    _iotedge(["system", "stop"], secrets, timeout)


def _iotedge(verb: list[str], secrets: Collection[str], timeout: float) -> None:
    command = f"iotedge {' '.join(verb)}"
    program = shutil.which("iotedge")
    if program is None:
        raise IotedgeMissing(f"cannot run '{command}': there is no 'iotedge' on the PATH")
    try:
        status, output = run([program, *verb], timeout)
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


def run(argv: list[str], timeout: float, kept: int = _KEPT) -> tuple[int | None, bytes]:
    """Exit status (None: it took too long) and the last output of the program, at most `kept`
    bytes. Raises OSError.

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
            output, ended = _watch(child.pid, child.stdout.fileno(), timeout, kept)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # not reaped yet, so the number is still its
        return (child.wait() if ended else None), output


def _watch(pid: int, pipe: int, timeout: float, kept: int) -> tuple[bytes, bool]:
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
            output = (output + (data or b""))[-kept:]
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
    text = _PIN.sub(r"\1***", text)
    for secret in sorted({*secrets, *map(_escaped, secrets)}, key=len, reverse=True):
        text = text.replace(secret, "***")
    if len(text.encode()) <= _QUOTED:
        return text
    return "..." + text.encode()[3 - _QUOTED :].decode(errors="ignore")


def _escaped(secret: str) -> str:
    """As in a TOML text, which a parser's complaint may quote."""
    return json.dumps(secret, ensure_ascii=False)[1:-1]
