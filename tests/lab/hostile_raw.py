"""Servers that do not get as far as TLS: bytes of their own in the place of a handshake."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

from tests.lab.hostile import LIMIT

Speak = Callable[[socket.socket, threading.Event], None]
ALERT, HANDSHAKE, DATA = 21, 22, 23
# ServerHello (RFC 8446, 4.1.3): the random that makes it a HelloRetryRequest.
RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
AES128, RC4 = 0x1301, 0x0005  # cipher suites: of TLS 1.3, and one that nobody offers
P384 = 24  # a group


@contextlib.contextmanager
def raw(speak: Speak) -> Iterator[int]:
    """It takes connections, and does this with each; its port."""
    over, threads = threading.Event(), list[threading.Thread]()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(line: socket.socket) -> None:
            line.settimeout(LIMIT)
            with contextlib.suppress(OSError), line:
                line.recv(1 << 14)  # the ClientHello
                speak(line, over)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    line, _ = listener.accept()
                    threads.append(threading.Thread(target=serve, args=(line,), daemon=True))
                    threads[-1].start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()


def record(kind: int, data: bytes, version: int = 0x0303) -> bytes:
    """RFC 8446, 5.1."""
    return struct.pack(">BHH", kind, version, len(data)) + data


def message(kind: int, data: bytes) -> bytes:
    """Of a handshake: RFC 8446, 4."""
    return struct.pack(">BI", kind, len(data))[:1] + len(data).to_bytes(3, "big") + data


def server_hello(
    random: bytes = bytes(32), suite: int = AES128, version: int = 0x0303, extensions: bytes = b""
) -> bytes:
    body = struct.pack(">H", version) + random + b"\0" + struct.pack(">HB", suite, 0)
    return record(HANDSHAKE, message(2, body + struct.pack(">H", len(extensions)) + extensions))


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack(">HH", kind, len(data)) + data


TLS_1_3 = extension(43, b"\x03\x04")  # supported_versions


def alert(code: int, level: int = 2) -> bytes:
    return record(ALERT, bytes([level, code]))


# --- what is said ---


def once(data: bytes) -> Speak:
    """And then waits for what the client has to say about it."""

    def speak(line: socket.socket, over: threading.Event) -> None:
        line.sendall(data)
        line.shutdown(socket.SHUT_WR)
        while line.recv(1 << 14):
            pass

    return speak


def then_silent(data: bytes) -> Speak:
    def speak(line: socket.socket, over: threading.Event) -> None:
        line.sendall(data)
        over.wait(LIMIT)

    return speak


def endlessly(data: bytes, seconds: float = 0.0) -> Speak:
    def speak(line: socket.socket, over: threading.Event) -> None:
        while not over.wait(seconds):
            line.sendall(data)

    return speak


def hung_up(line: socket.socket, over: threading.Event) -> None:
    """FIN."""


def slammed(line: socket.socket, over: threading.Event) -> None:
    """RST."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def twice(line: socket.socket, over: threading.Event) -> None:
    """To retry is asked for, again and again."""
    share = extension(51, struct.pack(">H", P384))
    while not over.is_set():
        line.sendall(server_hello(RETRY, extensions=TLS_1_3 + share))
        if not line.recv(1 << 14):
            return


def dripping(line: socket.socket, over: threading.Event) -> None:
    """A ServerHello that takes its time."""
    line.sendall(record(HANDSHAKE, message(2, bytes(1000))[:4]))
    while not over.wait(0.05):
        line.sendall(record(HANDSHAKE, b"\0"))
