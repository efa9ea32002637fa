"""What is to be sent, one line at a time, and waiting for it."""

import fcntl
import json
import os
import select
import stat
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from agent import store
from agent.hub import LIMIT
from agent.moment import moment

CHUNK = 1 << 16
FOREVER = float("inf")
LONGEST = 3600.0  # seconds of one wait: the clocks may have been set meanwhile


class Wake:
    """Ends a wait. `call` and `stop` may be called in any thread, and by signals."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.stopped = False

    def call(self) -> None:
        with suppress(BlockingIOError):  # there are calls enough
            os.write(self._write, b"\0")

    def stop(self, *_: object) -> None:
        """There is to be an end."""
        self.stopped = True
        self.call()

    def wait(self, seconds: float, fd: int | None = None) -> None:
        """Until the time is over, somebody calls, or there is something to read from `fd`."""
        if self.stopped:
            return
        poll = select.poll()
        for each in (self._read, fd):
            if each is not None:
                poll.register(each, select.POLLIN)
        poll.poll(min(max(seconds, 0), LONGEST) * 1000)
        with suppress(BlockingIOError):
            os.read(self._read, CHUNK)

    def rest(self, seconds: float) -> None:
        """Until the time is over, or `stop`."""
        until = time.monotonic() + seconds
        while not self.stopped and (left := until - time.monotonic()) > 0:
            self.wait(left)


class Source(Protocol):
    """`fd`: where more comes from, if it has to be waited for. `pipe`: names it, beginning with the
    boot; None if it is none: what was read can be read again. `part`: of a line that is not whole
    yet."""

    fd: int | None
    pipe: str | None
    part: bytearray

    @property
    def ended(self) -> bool: ...

    def take(self) -> bytes | None:
        """A message; longer than LIMIT if it is too long, and then not all of it. None: there is
        none now."""
        ...

    def due(self) -> float:
        """Seconds until there will be one; inf: when there is something to read from `fd`."""
        ...


class Lines:
    """The lines of a file, or of a pipe. Of a pipe no byte is read that is not of the line asked
    for: what is not sent before we end, whoever reads it next finds there. `path` is what the
    errors name that are raised (those of store.permitted)."""

    def __init__(self, fd: int, path: Path) -> None:
        self.fd: int | None = fd
        self.ended = False
        self._in, self._path = fd, path
        self.part, self._ready = bytearray(), bytearray()
        with store.permitted(path):
            found = os.fstat(fd)
        piped = stat.S_ISFIFO(found.st_mode) or stat.S_ISSOCK(found.st_mode)
        here = f"{moment().boot_id} {found.st_dev} {found.st_ino}"
        self.pipe: str | None = here if piped else None
        self._whole = not (piped or os.isatty(fd))

    def take(self) -> bytes | None:
        with store.permitted(self._path):
            while not self.ended and (self._whole or self._ready or self._readable()):
                if self._line(self._read()):
                    return self._taken()
        return self._taken() if self.ended and self.part else None

    def due(self) -> float:
        return FOREVER

    def _readable(self) -> bool:
        return bool(select.select([self._in], [], [], 0)[0])

    def _read(self) -> bytes:
        """Nothing is the end."""
        if self._ready:
            data = bytes(self._ready)
            self._ready.clear()
            return data
        if self._whole:
            return os.read(self._in, CHUNK)
        return b"".join(_up_to_the_line_end(self._in))

    def _line(self, data: bytes) -> bool:
        """Whether a line is whole by this."""
        self.ended = not data
        line, end, rest = data.partition(b"\n")
        self.part += line[: LIMIT + 1 - len(self.part)]
        self._ready += rest
        return bool(end)

    def _taken(self) -> bytes:
        line = bytes(self.part)
        self.part.clear()
        return line.removesuffix(b"\r")


def _up_to_the_line_end(fd: int) -> Iterator[bytes]:
    """Of what is there, byte by byte; at least one, or nothing if it is the end."""
    (there,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
    for _ in range(max(there, 1)):
        byte = os.read(fd, 1)
        yield byte
        if byte in (b"\n", b""):
            return


class Counted:
    """`count` messages, one each `interval` seconds."""

    def __init__(self, count: int, interval: float) -> None:
        self.fd: int | None = None
        self.pipe: str | None = None
        self.part = bytearray()
        self._count, self._interval = count, interval
        self._made, self._next = 0, time.monotonic()

    @property
    def ended(self) -> bool:
        return self._made == self._count

    def take(self) -> bytes | None:
        if self.ended or self.due() > 0:
            return None
        self._made += 1
        self._next = time.monotonic() + self._interval
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        return json.dumps({"message": self._made, "of": self._count, "time": at}).encode()

    def due(self) -> float:
        return self._next - time.monotonic()


@contextmanager
def source(file: str, count: int | None, interval: float) -> Iterator[Source]:
    """`file`: "-" is standard input; with a `count` it does not matter. Raises what
    store.permitted does."""
    if count is not None:
        yield Counted(count, interval)
    elif file == "-":
        yield Lines(0, Path("/dev/stdin"))
    else:
        with store.permitted(Path(file)):
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield Lines(fd, Path(file))
        finally:
            os.close(fd)
