"""Between a device and its TPM: it lets another TPM answer what is only looked at.

What is on the wire is that of swtpm's data and control sockets: whole TPM commands and replies
(TPM 2.0 Library, part 1, 18), and control messages, which are passed on as they are.
"""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

# TPM2_CC (part 2, 6.5.2): NV_ReadPublic and NV_Read; ReadPublic
NV = {0x169, 0x14E}
KEYS = {0x173}
HEADER = 10  # tag, size, code


Ask = Callable[[bytes], bytes]


@contextlib.contextmanager
def between(honest: Path, shown: Path, at: Path, commands: set[int]) -> Iterator[str]:
    """The TCTI of a TPM that is the one at the socket `honest`, but for those `commands`, which the
    one at `shown` answers. `at`: a socket to be made."""

    def answer(command: bytes, ask: Ask) -> bytes:
        return _ask(shown, command) if code(command) in commands else ask(command)

    with through(honest, at, answer) as tcti:
        yield tcti


@contextlib.contextmanager
def through(honest: Path, at: Path, answer: Callable[[bytes, Ask], bytes]) -> Iterator[str]:
    """The TCTI of a TPM for which `answer` speaks; it may ask the one at the socket `honest`."""

    def command(message: bytes) -> bytes:
        return answer(message, lambda said: _ask(honest, said))

    def control(message: bytes) -> bytes:
        return _talk(honest.with_name(f"{honest.name}.ctrl"), message, bool)

    with _serving(at, command, _whole), _serving(at.with_name(f"{at.name}.ctrl"), control, bool):
        yield f"swtpm:path={at}"


def code(command: bytes) -> int:
    """Which it is (TPM2_CC)."""
    return int.from_bytes(command[6:10], "big")


def _whole(message: bytes) -> bool:
    return len(message) >= HEADER and len(message) >= int.from_bytes(message[2:6], "big")


def _ask(path: Path, command: bytes) -> bytes:
    return _talk(path, command, _whole)


def _talk(path: Path, message: bytes, enough: Callable[[bytes], bool]) -> bytes:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(path))
        line.sendall(message)
        return _read(line, enough)


def _read(line: socket.socket, enough: Callable[[bytes], bool]) -> bytes:
    message = b""
    while not enough(message) and (piece := line.recv(1 << 16)):
        message += piece
    return message


@contextlib.contextmanager
def _serving(
    at: Path, answer: Callable[[bytes], bytes], enough: Callable[[bytes], bool]
) -> Iterator[None]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while message := _read(self.request, enough):
                self.request.sendall(answer(message))

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    with Server(str(at), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            at.unlink()
