"""Where messages go: the journal under systemd, else the terminal; and what systemd is told."""

import logging
import os
import sys

import sdnotify

SYSLOG = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}


class Prefixed(logging.Formatter):
    """`<3>message`: the priority prefix that journald reads from stderr (sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{SYSLOG.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


def setup(*, debug: bool = False) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter((Prefixed if on_journal() else logging.Formatter)("%(message)s"))
    own = logging.getLogger("agent")
    own.addHandler(handler)
    own.setLevel(logging.DEBUG if debug else logging.INFO)
    own.propagate = False


def on_journal() -> bool:
    """Is stderr the journal itself? The variable alone is inherited (systemd.exec(5))."""
    if sys.stderr is None:  # closed by whoever started us
        return False
    here = os.fstat(sys.stderr.fileno())
    return os.environ.get("JOURNAL_STREAM") == f"{here.st_dev}:{here.st_ino}"


def tell_systemd(state: str) -> None:
    """sd_notify(3): "READY=1", "STATUS=..."; nothing happens where nobody asked to be told."""
    sdnotify.SystemdNotifier().notify(state)


def one_line(text: str) -> str:
    """For a STATUS=: a line end would begin another assignment."""
    return " ".join(text.split())
