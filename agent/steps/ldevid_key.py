"""The LDevID key: made once below the SRK, kept at its handle, its wrapped blobs kept in a file."""

import logging
from collections.abc import Callable
from pathlib import Path
from threading import Thread

from agent import journal, store
from agent.errors import HandleOccupied, LdevidKeyLost, SrkPassword, TpmAuth
from agent.events import LDEVID_KEY_REPLACED
from agent.state import State
from agent.steps import Step, srk
from agent.tpm import Public, Tpm
from agent.tpm.keyfile import Wrapped, from_pem, to_pem
from agent.tpm.templates import KeyType

log = logging.getLogger(__name__)
HANDLE = 0x81000002
Recover = Callable[[Public], Wrapped | None]


def ldevid_key(
    tpm: Tpm, state: State, kind: KeyType, recover: Recover, meanwhile: Callable[[], None]
) -> Step:
    """The one of the slot in use.

    `recover`: the wrapped blobs of a key, if a token still has them though the file is gone.
    `meanwhile`: what can be got ready, in a thread, while the TPM makes a key: a discrete one
    takes seconds.

    Where the device was flashed anew, the TPM still has the key of its earlier life, which nobody
    can use any more: without its blobs it gets into no token. If it bears our mark, a new one takes
    its place; the new one is safe on disk by then, so a power cut between the two changes nothing.
    """

    def done() -> str | None:
        file = state.ldevid_key
        have, kept = tpm.public(HANDLE), read(file)
        if have is not None and kept is not None and have.blob == kept.public:
            return f"{HANDLE:#x} {have}"
        if have is not None and not have.ours and not (kept is None and recover(have)):
            raise _foreign(kept, file)
        return None

    def apply() -> None:
        have, file = tpm.public(HANDLE), state.ldevid_key
        key = read(file) or (recover(have) if have else None)
        if key is None:
            Thread(target=meanwhile).start()
            key = make(tpm, kind)
        store.write(file, to_pem(key))  # before the handle: a key there without blobs is useless
        if have is not None and have.blob == key.public:
            return
        with tpm.load(key.parent, key.public, key.private) as loaded:
            if have is not None:
                _tell(have, state)
                tpm.evict_ours(HANDLE)
            tpm.persist(loaded, HANDLE)

    return Step("ldevid-key", done, apply)


def make(tpm: Tpm, kind: KeyType) -> Wrapped:
    """A new one, below the SRK. Raises SrkPassword."""
    try:
        return Wrapped(*tpm.create_key(srk.HANDLE, kind), srk.HANDLE)
    except TpmAuth as e:
        what = f"cannot make the LDevID key below {srk.HANDLE:#x}"
        raise SrkPassword(f"{what}: the SRK has a password: {e}", handle=hex(srk.HANDLE)) from e


def _tell(have: Public, state: State) -> None:
    """What becomes of the key that was there: it makes room for its successor, unless nobody here
    knows it."""
    before = read(state.other.ldevid_key)
    if before is not None and before.public == have.blob:
        return
    about = journal.about(LDEVID_KEY_REPLACED, handle=hex(HANDLE))
    what = "the LDevID key of an earlier installation"
    log.warning("%s, at %#x, is replaced", what, HANDLE, extra=about)


def _foreign(kept: Wrapped | None, file: Path) -> HandleOccupied | LdevidKeyLost:
    """A key without our mark: somebody else's, or made by a version that made no mark."""
    if kept is not None:
        return HandleOccupied(
            f"cannot use {HANDLE:#x}: it holds another key than '{file}'", handle=hex(HANDLE)
        )
    return LdevidKeyLost(
        f"cannot use the key at {HANDLE:#x}: it is not known here, and '{file}', where its "
        "blobs would be, is missing or damaged",
        handle=hex(HANDLE),
    )


def read(file: Path) -> Wrapped | None:
    """The wrapped key, or None: a damaged file is as good as none, the token may still have it."""
    if (data := store.read(file)) is None:
        return None
    try:
        return from_pem(data)
    except ValueError:
        return None
