"""Secrets that were planted in a device: found again wherever they should not be.

What a program is started with is seen by strace, whole and of every one: not by looking at /proc
now and then.
"""

import json
import queue
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from tests.lab.device import Device

# IoT Edge's own, systemd's (a private directory), and what is no part of the device's disk.
MARK = b"so far"
OTHERS = ("edge", "credentials", "tpm", "bin", "watched")


def strace(log: Path) -> list[str]:
    """What to put before a command: arguments and environments of all that it starts go to `log`.
    It is not waited for; whoever is started and stays is watched on."""
    return [
        *("strace", "-f", "-D", "--seccomp-bpf", "-qq", "-v", "-s", "65535"),
        *("-e", "trace=execve,execveat", "-e", "signal=none", "-o", str(log), "--"),
    ]


def planted(device: Device) -> set[bytes]:
    """Every secret of this device: credentials, and the PINs that it made."""
    found = {path.read_bytes().strip() for path in device.credentials.iterdir()}
    pins = device.state / "pins.json"
    if pins.is_file() and (text := pins.read_text()):
        found |= {pin.encode() for pin in json.loads(text).values()}
    return found - {b""}


def leaks(device: Device, secrets: Iterable[bytes], said: Iterable[bytes]) -> Iterator[str]:
    """`said`: all that was told to anybody."""
    watched = device.directory / "watched"
    told = dict(enumerate(said))
    for secret in secrets:
        yield from (f"said: {text!r}" for text in told.values() if secret in text)
        for path in watched.rglob("*"):  # traces, and temporary files
            if path.is_file() and secret in path.read_bytes():
                yield f"in {path.relative_to(device.directory)}"
        for path in open_to_others(device.directory):
            if secret in path.read_bytes():
                yield f"for all to read: {path.relative_to(device.directory)}"


def open_to_others(top: Path) -> Iterator[Path]:
    for path in top.rglob("*"):
        if path.relative_to(top).parts[0] in OTHERS or not path.is_file():
            continue
        if path.stat().st_mode & 0o077:
            yield path


class Journal:
    """The socket of a journald, and the entries that come to it."""

    def __init__(self, path: Path) -> None:
        self.path, self._came = path, queue.SimpleQueue[bytes]()

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._send(b"")
        self._thread.join()
        self._socket.close()

    def _receive(self) -> None:
        while entry := self._socket.recv(1 << 20):
            self._came.put(entry)

    def _send(self, entry: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.sendto(entry, str(self.path))

    def taken(self) -> list[bytes]:
        """The entries that came since this was asked last."""
        self._send(MARK)
        return list(iter(self._came.get, MARK))
