"""Where messages go: the journal under systemd, else the terminal; and what systemd is told."""

import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from agent.events import Event

log = logging.getLogger(__name__)

SOCKET = Path("/run/systemd/journal/socket")
CGROUP = Path("/proc/self/cgroup")
SYSLOG = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}


UNIT = re.compile(r"/([^/\n]+\.service)(?=/|$)", re.MULTILINE)


def about(event: Event | None, /, **fields: object) -> dict[str, object]:
    """For `extra=`: what event a message is, and its fields: `handle=` becomes TPM2CLOUD_HANDLE=.
    Whoever reads the journal reads them: never a secret."""
    return {"event": event, "fields": fields}


class Prefixed(logging.Formatter):
    """`<3>message`: the priority prefix that journald reads from stderr (sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{SYSLOG.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class Journal(logging.Handler):
    """Entries with fields (systemd.io/JOURNAL_NATIVE_PROTOCOL). What cannot be sent so, goes to
    `spare` instead: journald is away, the entry is too large for a datagram, or it cannot even be
    formatted, which is told there."""

    def __init__(self, spare: logging.Handler, path: Path = SOCKET) -> None:
        super().__init__()
        self.spare, self.path, self.unit = spare, path, unit(CGROUP)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            entry = datagram(record, self.format(record), self.unit)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
                journald.sendto(entry, str(self.path))
        except Exception:
            self.spare.handle(record)


def datagram(record: logging.LogRecord, message: str, unit: str | None) -> bytes:
    """KEY=value lines; a value of several lines comes after its length (64 bits, little endian)."""
    return b"".join(_line(key, value) for key, value in _fields(record, message, unit))


def _line(key: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")  # as stderr does
    if b"\n" not in data:
        return key.encode() + b"=" + data + b"\n"
    return key.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def _fields(record: logging.LogRecord, message: str, unit: str | None) -> Iterator[tuple[str, str]]:
    yield "MESSAGE", message
    yield "PRIORITY", str(SYSLOG.get(record.levelno, 6))
    yield "SYSLOG_IDENTIFIER", "tpm2cloud"
    yield "CODE_FILE", record.pathname
    yield "CODE_LINE", str(record.lineno)
    yield "CODE_FUNC", str(record.funcName)
    event: Event | None = getattr(record, "event", None)
    if event:
        yield "MESSAGE_ID", event.message_id
    if unit:
        yield "OBJECT_SYSTEMD_UNIT", unit
    for name, value in getattr(record, "fields", {}).items():
        yield f"TPM2CLOUD_{name.upper()}", str(value)
        # journalctl puts no field with a digit in its name into a catalog's text.
        if event and f"@TPM2CLOUD_{name.upper()}@" in event.subject + event.meaning:
            yield f"TPMCLOUD_{name.upper()}", str(value)


def unit(cgroup: Path) -> str | None:
    """The service that we are. journald looks it up in /proc when it comes to read an entry, and a
    short run is over by then; `journalctl -u` takes the word of root for it, too."""
    try:
        found = UNIT.findall(cgroup.read_text())
    except OSError:
        return None
    return found[-1] if found else None


def setup(*, debug: bool = False) -> None:
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter((Prefixed if on_journal() else logging.Formatter)("%(message)s"))
    own = logging.getLogger("agent")
    own.addHandler(Journal(handler) if on_journal() else handler)
    own.setLevel(logging.DEBUG if debug else logging.INFO)
    own.propagate = False


def on_journal() -> bool:
    """Is stderr the journal itself? The variable alone is inherited (systemd.exec(5))."""
    if sys.stderr is None:  # closed by whoever started us
        return False
    here = os.fstat(sys.stderr.fileno())
    return os.environ.get("JOURNAL_STREAM") == f"{here.st_dev}:{here.st_ino}"


def sync() -> None:
    """What journald has, on disk: by itself it takes five minutes (journald.conf(5)). A unit that
    stays active after its process ended well has no hook for this."""
    try:
        command = ["journalctl", "--sync"]
        subprocess.run(command, capture_output=True, timeout=30, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as e:
        log.debug("cannot sync the journal, ignoring: %s", e)


def tell_systemd(state: str) -> None:
    """sd_notify(3): "READY=1", "STATUS=..."; nothing happens where nobody asked to be told."""
    if "NOTIFY_SOCKET" not in os.environ:
        return
    import sdnotify  # where a parser or a table is all that is wanted, it need not be installed

    sdnotify.SystemdNotifier().notify(state)


def one_line(text: str) -> str:
    """For a STATUS=: a line end would begin another assignment."""
    return " ".join(text.split())
