"""What the process with the TPM and the one with the network say to each other: frames of JSON over
a Unix socket, each of them bounded, and nothing in them that is more than data.

A frame: its length (4 bytes, big-endian), then a JSON object in UTF-8; bytes in it are
{"bytes": BASE64}.
"""

import base64
import json
import socket
import struct
import threading
import time
from typing import Any

SECONDS = 60  # that the other side may let a frame lie about
MOST = 8 << 20  # bytes; the longest are a reply of 1 MB in Base64, and the CAs of a system
_LENGTH = struct.Struct(">I")

Frame = dict[str, Any]


class Broken(Exception):
    """The other side is gone or silent, or says what no frame is; the text says which."""


class Frames:
    """Any thread may send; one at a time receives. `line`: stays its owner's."""

    def __init__(self, line: socket.socket) -> None:
        self._line, self._sending = line, threading.Lock()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SECONDS, 0))

    def send(self, frame: Frame) -> None:
        """Raises Broken."""
        data = json.dumps(frame, default=_packed).encode()
        if len(data) > MOST:
            raise Broken(f"what is to be said is longer than {MOST} bytes")
        try:
            with self._sending:
                self._line.settimeout(None)  # the kernel's, see above, is another
                self._line.sendall(_LENGTH.pack(len(data)) + data)
        except OSError as e:
            raise Broken("it is gone") from e

    def receive(self, seconds: float | None = None) -> Frame:
        """The next one, whole within so many seconds. Raises Broken."""
        until = None if seconds is None else time.monotonic() + seconds
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size, until))
        if length > MOST:
            raise Broken(f"what it says is longer than {MOST} bytes")
        try:
            frame = json.loads(self._exactly(length, until), object_hook=_unpacked)
        except (ValueError, TypeError, RecursionError) as e:  # {"bytes": [1]}
            raise Broken("what it says is garbled") from e
        if not isinstance(frame, dict):
            raise Broken("what it says is garbled")
        return frame

    def _exactly(self, length: int, until: float | None) -> bytes:
        data = bytearray()
        while len(data) < length:
            data += self._some(length - len(data), until)
        return bytes(data)

    def _some(self, most: int, until: float | None) -> bytes:
        left = None if until is None else until - time.monotonic()
        try:
            if left is not None and left <= 0:
                raise TimeoutError
            self._line.settimeout(left)
            piece = self._line.recv(min(most, 1 << 16))
        except TimeoutError as e:
            raise Broken("it says nothing") from e
        except OSError as e:
            raise Broken("it is gone") from e
        if not piece:
            raise Broken("it ended")
        return piece


def _packed(value: object) -> Frame:
    if not isinstance(value, bytes | bytearray):
        raise TypeError(f"{type(value).__name__} is for no frame")
    return {"bytes": base64.b64encode(value).decode()}


def _unpacked(found: Frame) -> Any:
    if found.keys() == {"bytes"}:
        return base64.b64decode(found["bytes"], validate=True)
    return found
