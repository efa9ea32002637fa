"""The LDevID key: made once below the SRK, kept at its handle, its wrapped blobs kept in a file."""

from collections.abc import Callable
from pathlib import Path
from threading import Thread

from agent import store
from agent.errors import HandleOccupied, LdevidKeyLost
from agent.steps import Step, srk
from agent.tpm import Public, Tpm
from agent.tpm.keyfile import Wrapped, from_pem, to_pem
from agent.tpm.templates import KeyType

HANDLE = 0x81000002
Recover = Callable[[Public], Wrapped | None]


def ldevid_key(
    tpm: Tpm, file: Path, kind: KeyType, recover: Recover, meanwhile: Callable[[], None]
) -> Step:
    """`recover`: the wrapped blobs of a key, if a token still has them though the file is gone.
    `meanwhile`: what can be got ready, in a thread, while the TPM makes a key: a discrete one
    takes seconds."""

    def done() -> str | None:
        have, kept = tpm.public(HANDLE), read(file)
        if have is None or (kept is None and recover(have)):
            return None
        if kept is None:
            raise LdevidKeyLost(
                f"cannot use the key at {HANDLE:#x}: it is not known here, and '{file}', where its "
                "blobs would be, is missing or damaged",
                handle=hex(HANDLE),
            )
        if have.blob != kept.public:
            raise HandleOccupied(
                f"cannot use {HANDLE:#x}: it holds another key than '{file}'", handle=hex(HANDLE)
            )
        return f"{HANDLE:#x} {have}"

    def apply() -> None:
        have = tpm.public(HANDLE)
        key = read(file) or (recover(have) if have else None)
        if key is None:
            Thread(target=meanwhile).start()
            key = Wrapped(*tpm.create_key(srk.HANDLE, kind), srk.HANDLE)
        store.write(file, to_pem(key))  # before the handle: a key there without blobs is useless
        if have is None:
            with tpm.load(key.parent, key.public, key.private) as loaded:
                tpm.persist(loaded, HANDLE)

    return Step("ldevid-key", done, apply)


def read(file: Path) -> Wrapped | None:
    """The wrapped key, or None: a damaged file is as good as none, the token may still have it."""
    if (data := store.read(file)) is None:
        return None
    try:
        return from_pem(data)
    except ValueError:
        return None
