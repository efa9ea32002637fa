"""A TPM for any number of programs at a time. The kernel's resource manager gives each the chip's
few slots as if they were its own; here they take turns: who has something loaded keeps the others
waiting until it has nothing loaded any more.

    with taken(device.tpm):  # where tests/lab/swtpm.py has started a TPM, that nobody uses yet
        ...
"""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from tpm2_pytss.constants import TPM2_CAP, TPM2_CC, TPM2_HC, TPM2_ST

HEADER = struct.Struct(">HII")  # tag, size of the whole, command or response code
LOOKS = {
    (TPM2_ST.NO_SESSIONS, code)
    for code in (
        TPM2_CC.GetCapability,
        TPM2_CC.GetRandom,
        TPM2_CC.ReadPublic,
        TPM2_CC.NV_ReadPublic,
    )
}
KINDS = (TPM2_HC.TRANSIENT_FIRST, TPM2_HC.LOADED_SESSION_FIRST)


@contextmanager
def taken(state: Path) -> Iterator[None]:
    public, chip = state / "tpm.sock", state / "chip.sock"
    public.rename(chip)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(public))
    listening.listen(64)
    thread = threading.Thread(target=_serve, args=(listening, Turns(chip)))
    thread.start()
    try:
        yield
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        listening.close()
        chip.rename(public)


def _serve(listening: socket.socket, turns: "Turns") -> None:
    with suppress(OSError):
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=_answer, args=(connection, turns), daemon=True).start()


def _answer(connection: socket.socket, turns: "Turns") -> None:
    who = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    with closing(connection), suppress(OSError, EOFError):
        while True:
            connection.sendall(turns.ask(who, _message(connection)))


def _message(connection: socket.socket) -> bytes:
    """A whole command, or response. Raises EOFError."""
    head = _exactly(connection, HEADER.size)
    return head + _exactly(connection, HEADER.unpack(head)[1] - HEADER.size)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (more := connection.recv(size - len(data))):
            raise EOFError
        data += more
    return data


class Turns:
    """`_holder`: the process that has something loaded in the TPM."""

    def __init__(self, chip: Path) -> None:
        self._chip, self._changed = chip, threading.Condition()
        self._holder: int | None = None

    def ask(self, who: int, command: bytes) -> bytes:
        with self._changed:
            while self._holder not in (None, who) and Path(f"/proc/{self._holder}").exists():
                self._changed.wait(0.5)
            answer = self._answer(command)
            if HEADER.unpack_from(command)[::2] not in LOOKS:
                self._holder = who if any(map(self._loaded, KINDS)) else None
                self._changed.notify_all()
            return answer

    def _loaded(self, kind: int) -> bool:
        parameters = struct.pack(">III", TPM2_CAP.HANDLES, kind, 1)
        size = HEADER.size + len(parameters)
        head = HEADER.pack(TPM2_ST.NO_SESSIONS, size, TPM2_CC.GetCapability)
        answer = self._answer(head + parameters)
        _, count = struct.unpack_from(">II", answer, HEADER.size + 1)  # after "more data"
        return bool(count)

    def _answer(self, command: bytes) -> bytes:
        with closing(socket.socket(socket.AF_UNIX)) as chip:
            chip.connect(str(self._chip))
            chip.sendall(command)
            return _message(chip)
