"""A way through the network that fails as networks do, and comes back: a port on 127.0.0.1, before
a server of the lab.

    with Relay(server.port) as relay:
        relay.lets_through(1000, then="stall")   # of what is answered, on each connection
        relay.away()                             # nobody listens
        relay.behind = other.port                # somebody else is there
        relay.well()
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Literal, Self

from tests.lab import process

LIMIT = 100.0  # seconds after which a connection that is held ends by itself
Then = Literal["stall", "reset", "close"]


class Relay:
    """Runs for the length of the `with`, in threads of this process."""

    def __init__(self, behind: int) -> None:
        self._usual, self.behind = behind, behind
        self.port = process.free_port()
        self._most: int | None = None
        self._then: Then = "stall"
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lines: set[socket.socket] = set()
        self._listener: socket.socket | None = None

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self.away()
        for line in list(self._lines):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def lets_through(self, most: int, then: Then = "stall") -> None:
        """So many bytes of what the server answers; then no more come, or the line is broken."""
        self._most, self._then = most, then

    def away(self) -> None:
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def well(self) -> None:
        self.behind, self._most = self._usual, None
        if self._listener is None:
            self._listen()

    def _listen(self) -> None:
        listener = self._listener = socket.create_server(("127.0.0.1", self.port))
        self._start(lambda: self._accept(listener))

    def _start(self, what: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=what, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # shut down
            while True:
                line, _ = listener.accept()
                self._serve_apart(line)

    def _serve_apart(self, line: socket.socket) -> None:
        self._start(lambda: self._serve(line))

    def _serve(self, line: socket.socket) -> None:
        most, then = self._most, self._then
        with line, contextlib.suppress(OSError):
            out = socket.create_connection(("127.0.0.1", self.behind), 10)
            out.settimeout(None)
            with out:
                self._lines |= {line, out}
                forth = self._start(lambda: _copy(line, out))
                if not _copy(out, line, most):
                    self._hold(line, then)
                line.shutdown(socket.SHUT_RD if then == "reset" else socket.SHUT_RDWR)
                forth.join()  # as long as it reads, close() would not end the connection
            self._lines -= {line, out}

    def _hold(self, line: socket.socket, then: Then) -> None:
        if then == "stall":
            self._over.wait(LIMIT)
        elif then == "reset":
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _copy(source: socket.socket, sink: socket.socket, most: int | None = None) -> bool:
    """Whether the source came to its end; not, if only the first bytes are let through."""
    left = most
    with contextlib.suppress(OSError):  # one end was faster
        while data := source.recv(1 << 14):
            sink.sendall(data if left is None else data[:left])
            if left is not None and (left := left - len(data)) <= 0:
                return False
        sink.shutdown(socket.SHUT_WR)
    return True
