"""The store of tpm2-pkcs11: a token whose keys never leave the TPM, for programs that know PKCS#11.

The store is alive: others (IoT Edge's key service) make, rename and delete keys in the same token.
So a token is made whole, once, and from then on only single rows change, each time in one SQLite
transaction; nothing here ever replaces a store. The module reads a store when a program
initialises it: a running program sees a new token or an exchanged key after its restart.

The database is `tpm2_pkcs11.sqlite3` in the directory that TPM2_PKCS11_STORE names. One without any
token is nobody's: tpm2_ptool leaves it behind when `init` or `addtoken` fails, the module itself
makes it wherever it finds none, and is stuck with a part of it if killed meanwhile. Our token is
then added to it, as to a store with other tokens.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agent import pkcs11_rows as rows
from agent.errors import (
    ConfigError,
    DiskFull,
    Later,
    NoPermission,
    ReadOnly,
    TokenBusy,
    TokenForeign,
)
from agent.pkcs11_objects import Key
from agent.pkcs11_rows import PATIENCE, Stored

__all__ = ["DATABASE", "Key", "Pins", "Sealer", "Stored", "Token", "create", "look", "own", "put"]

DATABASE = "tpm2_pkcs11.sqlite3"
DISK = {errno.EROFS: ReadOnly, **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EIO), DiskFull)}


class Sealer(Protocol):
    """What is needed of the TPM."""

    def seal(self, parent: int, auth: bytes, data: bytes) -> tuple[bytes, bytes]:
        """Sealed data (TPM2B_PUBLIC, TPM2B_PRIVATE) that a wrong password does not lock up."""

    def serialized(self, handle: int) -> bytes:
        """The ESYS_TR of a persistent object, as Esys_TR_Serialize writes it."""


@dataclass(frozen=True)
class Pins:
    """The PINs of the token's user and security officer."""

    user: str = field(repr=False)
    so: str = field(repr=False)


@dataclass(frozen=True)
class Token:
    """A token as it is: `parent` is the ESYS_TR of the storage key its keys live below (empty: none
    that persists), `owner` the (uid, gid) of the database."""

    label: str
    parent: bytes
    owner: tuple[int, int]
    keys: tuple[Stored, ...]

    def holds(self, label: str, public: bytes) -> bool:
        """There is one key pair of this name, and it is this one (TPM2B_PUBLIC)."""
        named = [key for key in self.keys if key.label == label]
        return len(named) == 1 and named[0].paired and named[0].public == public


def look(directory: Path, label: str, *, below: bytes | None = None) -> Token | None:
    """The token of this name, or None. Takes no lock, as the module does not wait for one. Changes
    nothing, but for the rollback of a transaction that a killed writer left in its journal.

    `below`: the ESYS_TR of the storage key it must use. Raises TokenForeign if it uses another,
    TokenUnreadable if this is no store or of a version we do not know, TokenBusy, NoPermission.
    """
    path = directory / DATABASE
    if (owner := _owner(path)) is None:
        return None
    try:
        return _read(path, "ro", label, below, owner)
    except NoPermission:
        return _read(path, "rw", label, below, owner)


def _read(
    path: Path, mode: str, label: str, below: bytes | None, owner: tuple[int, int]
) -> Token | None:
    with rows.read(path, mode) as db:
        if (found := rows.token(db, path, label, below)) is None:
            return None
        return Token(label, found[1], owner, rows.keys(db, found[0]))


def _owner(path: Path) -> tuple[int, int] | None:
    """Whose the database is; None if there is none. Others may write in its directory, so a link
    is not followed."""
    with _permitted(path):
        try:
            found = path.lstat()
        except FileNotFoundError:
            return None
    if not stat.S_ISREG(found.st_mode):
        raise TokenForeign(f"cannot use '{path}': not a regular file", path=path)
    return found.st_uid, found.st_gid


def create(
    directory: Path,
    sealer: Sealer,
    parent: int,
    *,
    label: str,
    pins: Pins,
    owner: tuple[int, int],
    keys: Sequence[Key] = (),
) -> None:
    """Make the token, with these keys in it: all of it, or, whenever we are killed, nothing.

    `parent`: the persistent handle of the storage key. `label`: 1 to 31 bytes of UTF-8, more the
    module does not read. The directory becomes 0700, the database 0600, both `owner`'s (uid, gid).
    Raises TokenForeign if there is a token of this name below another storage key, TokenBusy if
    there is one below this, and what `look` raises.
    """
    if not 0 < len(label.encode()) < 32:
        raise ConfigError(f"cannot make the token '{label}': its name must have 1 to 31 bytes")
    user, so = _sealed(sealer, parent, pins)  # the TPM is slow: before any lock
    new = rows.NewToken(label, sealer.serialized(parent), user, so, tuple(keys))
    path, part = directory / DATABASE, directory / f"{DATABASE}.new"
    with _permitted(path):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        own(directory, owner)
        with _module_lock(directory, owner):
            part.unlink(missing_ok=True)  # a killed run's: under the lock it is no other's
            if _owner(path) is None:
                _write(part, _image(new), owner)
                part.replace(path)
            else:
                with rows.opened(path, "rw", "BEGIN IMMEDIATE") as db:
                    rows.add(db, path, new)
        _sync(directory, directory.parent)


def put(directory: Path, label: str, key: Key, *, below: bytes) -> None:
    """Add a key to the token `label`, or exchange the one of the same name; other rows stay.

    Needs neither PIN nor TPM. What else had this name goes: a pair linked twice is ambiguous to
    every program that asks for it by name. Rows keep their numbers, for those are what a running
    program remembers. Raises Later if the token is gone, and what `look` raises.
    """
    path = directory / DATABASE
    if _owner(path) is None:
        raise Later(f"cannot put a key into '{path}': it is not there")
    with rows.opened(path, "rw", "BEGIN IMMEDIATE") as db:
        if (found := rows.token(db, path, label, below)) is None:
            raise Later(f"cannot put a key into '{path}': no token '{label}'")
        rows.put(db, found[0], key)


def drop(directory: Path, label: str, key: str, *, below: bytes) -> None:
    """Take the key pair of this name out of the token `label`; other rows stay. Neither need be
    there. A running program may go on with what it has read. Raises what `look` raises."""
    path = directory / DATABASE
    if _owner(path) is not None:
        with rows.opened(path, "rw", "BEGIN IMMEDIATE") as db:
            if (found := rows.token(db, path, label, below)) is not None:
                rows.drop(db, found[0], key)


def remove(directory: Path, label: str) -> None:
    """Remove the token `label` and its keys, whatever TPM they are of; others in the store stay.
    It need not be there. Raises what `look` raises."""
    path = directory / DATABASE
    if _owner(path) is not None:
        with rows.opened(path, "rw", "BEGIN IMMEDIATE") as db:
            rows.remove(db, path, label)


def own(directory: Path, owner: tuple[int, int]) -> None:
    """The directory 0700 and all of the store in it 0600, `owner`'s (uid, gid). Others may be able
    to write in there, so no link is followed (raises TokenForeign)."""
    found = [(directory, 0o700), *((path, 0o600) for path in directory.glob(f"{DATABASE}*"))]
    for path, mode in found:
        if path.is_symlink():
            raise TokenForeign(f"cannot use '{path}': it is a symbolic link", path=path)
        with (
            contextlib.suppress(FileNotFoundError),  # journals come and go
            _permitted(path),
            _fd(path, os.O_RDONLY | os.O_NONBLOCK) as fd,
        ):
            _own(fd, owner, mode)


def _own(fd: int, owner: tuple[int, int], mode: int) -> None:
    now = os.fstat(fd)
    if (now.st_uid, now.st_gid) != owner:
        os.fchown(fd, *owner)
    if stat.S_IMODE(now.st_mode) != mode:
        os.fchmod(fd, mode)


def _sealed(sealer: Sealer, parent: int, pins: Pins) -> tuple[rows.Sealed, rows.Sealed]:
    """The token's wrapping key, sealed for the user and for the security officer.

    Passwords are the PINs with salt (ssl_util_hash_pass), the key is an AES-256 key in hex: it
    wraps the passwords of the keys that the module generates.
    """
    wrapping = secrets.token_hex(32).encode()

    def seal(pin: str) -> rows.Sealed:
        salt = secrets.token_hex(32)
        auth = hashlib.sha256((pin + salt).encode()).hexdigest()[:32].encode()
        return *sealer.seal(parent, auth, wrapping), salt

    return seal(pins.user), seal(pins.so)


# --- files ---


def _image(new: rows.NewToken) -> bytes:
    """The bytes of a whole database file."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        rows.add(db, Path(DATABASE), new)
        return db.serialize()


def _write(path: Path, data: bytes, owner: tuple[int, int]) -> None:
    with _fd(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
        _own(fd, owner, 0o600)
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(fd)


def _sync(*directories: Path) -> None:
    for directory in directories:
        with _fd(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
            os.fsync(fd)


@contextlib.contextmanager
def _module_lock(directory: Path, owner: tuple[int, int]) -> Iterator[None]:
    """The lock under which the module looks for a store, and makes one if there is none (take_lock
    in its db.c). Its holder removes the file at the end, so what we locked may be no file."""
    lock, until = directory / f"{DATABASE}.lock", time.monotonic() + PATIENCE
    while True:
        with _fd(lock, os.O_RDWR | os.O_CREAT) as fd:
            _own(fd, owner, 0o600)
            if _flocked(fd) and os.fstat(fd).st_nlink:
                try:
                    yield
                finally:
                    lock.unlink(missing_ok=True)
                return
        if time.monotonic() > until:
            raise TokenBusy(f"cannot make a token: another program holds '{lock}'", path=lock)
        time.sleep(0.02)


def _flocked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _fd(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _permitted(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as e:
        raise NoPermission(f"cannot use '{path}': {e.strerror}", path=path) from e
    except (FileExistsError, NotADirectoryError) as e:
        raise TokenForeign(f"cannot use '{path}': its directory is none", path=path) from e
    except OSError as e:
        if (kind := DISK.get(e.errno or 0)) is None:
            raise
        raise kind(f"cannot write '{path}': {e.strerror}", path=path) from e
