"""The server of tests/lab/hostile.py by http, as TPM makers publish their CA certificates."""

import contextlib
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab import pki
from tests.lab.hostile import LIMIT, Hostile, Way

NO_TLS = pki.Tls(Path(), Path(), Path())


class Plain(Hostile):
    """Runs for the length of a `with`; `url` ends with a slash."""

    def __init__(self, ways: Mapping[str, Way | Sequence[Way]]) -> None:
        super().__init__(NO_TLS, ways, plain=True)
        self.host = f"localhost:{self.port}"
        self.url = f"http://{self.host}/"

    def _serve(self, line: socket.socket) -> None:
        line.settimeout(LIMIT)
        with contextlib.suppress(OSError, EOFError), line:
            self._lines.add(line)
            try:
                self._talk(line)
            finally:
                self._lines.remove(line)
