"""The tables of a tpm2-pkcs11 store, inside one transaction.

Format: tpm2-pkcs11 1.9, schema 8 (`db_init_new` in its db.c; 1.10 calls the same tables 9).
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import DiskFull, NoPermission, TokenBusy, TokenForeign, TokenUnreadable
from agent.pkcs11_objects import (
    CLASS,
    ID,
    LABEL,
    PRIVATE_BLOB,
    PRIVATE_KEY,
    PUBLIC_BLOB,
    PUBLIC_KEY,
    Key,
    Value,
    emit,
    objects,
    parse,
)

SETTLES = 0.5  # seconds
PATIENCE = 10.0  # seconds for others' locks; a write of the module takes milliseconds
TABLES = {
    "tokens": "id INTEGER PRIMARY KEY, pid INTEGER NOT NULL, label TEXT UNIQUE,"
    " config TEXT NOT NULL, FOREIGN KEY (pid) REFERENCES pobjects(id) ON DELETE CASCADE",
    "sealobjects": "id INTEGER PRIMARY KEY, tokid INTEGER NOT NULL,"
    " userpub BLOB, userpriv BLOB, userauthsalt TEXT,"
    " sopub BLOB NOT NULL, sopriv BLOB NOT NULL, soauthsalt TEXT NOT NULL,"
    " FOREIGN KEY (tokid) REFERENCES tokens(id) ON DELETE CASCADE",
    "pobjects": "id INTEGER PRIMARY KEY, hierarchy TEXT NOT NULL, config TEXT NOT NULL,"
    " objauth TEXT NOT NULL",
    "tobjects": "id INTEGER PRIMARY KEY, tokid INTEGER NOT NULL, attrs TEXT NOT NULL,"
    " FOREIGN KEY (tokid) REFERENCES tokens(id) ON DELETE CASCADE",
    "schema": "id INTEGER PRIMARY KEY, schema_version INTEGER NOT NULL",
}
LIMIT = (
    "CREATE TRIGGER IF NOT EXISTS limit_tokens BEFORE INSERT ON tokens BEGIN"
    " SELECT CASE WHEN (SELECT COUNT (*) FROM tokens) >= 255"
    " THEN RAISE(FAIL, 'Maximum token count of 255 reached.') END; END"
)
SCHEMAS = {8, 9}
# PSS signatures come out of a raw RSA operation, with a salt as long as the digest, as TLS 1.3
# wants them. TPM2_Sign may salt with as much as fits (TPM 2.0 Library, part 1, B.7).
CONFIG: dict[str, Value] = {"token-init": True, "pss-sigs-good": False}

Sealed = tuple[bytes, bytes, str]  # TPM2B_PUBLIC, TPM2B_PRIVATE, salt


@dataclass(frozen=True)
class NewToken:
    label: str
    parent: bytes
    user: Sealed = field(repr=False)
    so: Sealed = field(repr=False)
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class Stored:
    """A private key in a token; `public` and `private` are its TPM2B blobs, `id` its CKA_ID.
    `paired`: there is one public object of the same name, and it is this key's."""

    label: str
    id: bytes
    public: bytes
    private: bytes
    paired: bool


@contextlib.contextmanager
def opened(path: Path, mode: str, begin: str = "BEGIN") -> Iterator[sqlite3.Connection]:
    """One transaction ("ro", or "rw": never a new file), undone if anything is raised. Once it is
    done it is so for good: by default SQLite does not sync that its journal is gone, and a journal
    that is there again after a power cut undoes all (sqlite.org/pragma.html#pragma_synchronous)."""
    with _explained(path):
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        db = sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None)
        with contextlib.closing(db):
            db.execute("PRAGMA synchronous = EXTRA")
            db.execute(begin)
            yield db
            db.execute("COMMIT")  # else closing rolls back


@contextlib.contextmanager
def read(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """The store as it is after some transaction, read without a lock if that can be.

    The module has no patience (it sets no busy timeout): a lock of ours, even a reader's, at the
    moment of its COMMIT makes its C_GenerateKeyPair fail, and leaves its objects in the TPM.
    """
    try:
        data = _unlocked(path)
    except OSError:
        data = None  # SQLite finds out why, and says so in its own words
    if data is None:
        with opened(path, mode) as db:
            yield db
        return
    with _explained(path), contextlib.closing(sqlite3.connect(":memory:")) as db:
        if data:
            db.deserialize(data)
        yield db


def _unlocked(path: Path) -> bytes | None:
    """The bytes of the file, between two transactions; None if one stays unfinished for too long (a
    killed writer's), or in WAL mode. A writer's journal is there before it changes the file, and
    every transaction changes the counter in the header (SQLite's file format, 1.3.7, 4)."""
    until = time.monotonic() + SETTLES
    while time.monotonic() < until:
        before, data, after = _state(path), path.read_bytes(), _state(path)
        if data[19:20] == b"\2":  # what SQLite itself goes by (file format, 1.3.3)
            return None
        if before == after and before[0] == 0 and before[-1] == data[:100]:
            return data
        time.sleep(0.005)
    return None


def _state(path: Path) -> tuple[object, ...]:
    try:
        unfinished = path.with_name(f"{path.name}-journal").stat().st_size
    except FileNotFoundError:
        unfinished = 0
    with path.open("rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        return unfinished, found.st_ino, found.st_size, found.st_mtime_ns, file.read(100)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as e:  # not the module's YAML, no hex in it, or no text at all
        raise TokenUnreadable(f"cannot use '{path}': {e}", path=path) from e
    except sqlite3.DatabaseError as e:
        match getattr(e, "sqlite_errorcode", None) and e.sqlite_errorcode & 0xFF:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                raise TokenBusy(f"cannot use '{path}': {e}", path=path) from e
            case None if isinstance(e, sqlite3.OperationalError):  # a text that is not UTF-8
                raise TokenUnreadable(f"cannot use '{path}': {e}", path=path) from e
            case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_ERROR:
                raise TokenUnreadable(f"cannot use '{path}': {e}", path=path) from e
            case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
                raise NoPermission(f"cannot use '{path}': {e}", path=path) from e
            case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
                raise DiskFull(f"cannot write '{path}': {e}", path=path) from e
        raise


def version(db: sqlite3.Connection, path: Path) -> int:
    """The schema, or 0 of a store that was never finished."""
    names = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    row = db.execute("SELECT schema_version FROM schema").fetchone() if "schema" in names else None
    found = row[0] if row else 0
    if found not in SCHEMAS and (found != 0 or names - TABLES.keys()):
        why = "not a store of tpm2-pkcs11, or of a version that is not known"
        raise TokenUnreadable(f"cannot use '{path}': {why}", path=path)
    return int(found)


def token(
    db: sqlite3.Connection, path: Path, label: str, below: bytes | None
) -> tuple[int, bytes] | None:
    """The number of the token `label`, and the ESYS_TR of its parent (`below`, if given)."""
    if not version(db, path):
        return None
    sql = (
        "SELECT tokens.id, pobjects.config, sealobjects.id FROM tokens"
        " LEFT JOIN pobjects ON pobjects.id = pid LEFT JOIN sealobjects ON tokid = tokens.id"
        " WHERE label = ?"
    )
    if (row := db.execute(sql, (label,)).fetchone()) is None:
        return None
    if None in row:
        raise TokenUnreadable(f"cannot use '{path}': the token '{label}' has no PINs", path=path)
    parent = bytes.fromhex(str(parse(row[1]).get("esys-tr", "")))
    if below is not None and _name(parent) != _name(below):
        why = "its keys live below another storage key"
        raise TokenForeign(f"cannot use the token '{label}' in '{path}': {why}", path=path)
    return row[0], parent


def _name(esys_tr: bytes) -> bytes:
    """What is the same whatever version wrote it: the handle and the TPM2B_NAME."""
    return esys_tr[: 6 + int.from_bytes(esys_tr[4:6], "big")]


def keys(db: sqlite3.Connection, tokid: int) -> tuple[Stored, ...]:
    rows = [attributes for _, attributes in _objects(db, tokid)]
    halves = [_stored(row, False) for row in rows if row.get(f"{CLASS}") == PUBLIC_KEY]
    pairs = {half.label: half.public for half in halves}
    alone = {label for label in pairs if sum(half.label == label for half in halves) == 1}
    return tuple(
        _stored(row, label in alone and pairs[label] == public)
        for row in rows
        if row.get(f"{CLASS}") == PRIVATE_KEY
        for label, public in [(_text(row), _bytes(row, PUBLIC_BLOB))]
    )


def _stored(row: dict[str, Value], paired: bool) -> Stored:
    public, private = _bytes(row, PUBLIC_BLOB), _bytes(row, PRIVATE_BLOB)
    return Stored(_text(row), _bytes(row, ID), public, private, paired)


def _text(row: dict[str, Value]) -> str:
    return _bytes(row, LABEL).decode(errors="replace")


def _bytes(row: dict[str, Value], attribute: int) -> bytes:
    return bytes.fromhex(str(row.get(f"{attribute}", "")))


def _objects(db: sqlite3.Connection, tokid: int) -> Iterator[tuple[int, dict[str, Value]]]:
    sql = "SELECT id, attrs FROM tobjects WHERE tokid = ? ORDER BY id"
    for number, text in db.execute(sql, (tokid,)).fetchall():
        yield number, parse(text)


def add(db: sqlite3.Connection, path: Path, new: NewToken) -> None:
    """A token with its keys; the tables too, if there are none."""
    if token(db, path, new.label, new.parent) is not None:
        raise TokenBusy(f"cannot make the token '{new.label}': another run just did", path=path)
    for name, columns in TABLES.items():
        db.execute(f"CREATE TABLE IF NOT EXISTS {name}({columns})")
    db.execute(LIMIT)
    if not version(db, path):
        db.execute("REPLACE INTO schema (id, schema_version) VALUES (1, 8)")
    config = emit({"transient": False, "esys-tr": new.parent.hex()})
    primary = _insert(db, "pobjects", hierarchy="o", config=config, objauth="")
    tokid = _insert(db, "tokens", pid=primary, label=new.label, config=emit(CONFIG))
    user = dict(zip(("userpub", "userpriv", "userauthsalt"), new.user, strict=True))
    so = dict(zip(("sopub", "sopriv", "soauthsalt"), new.so, strict=True))
    _insert(db, "sealobjects", tokid=tokid, **user, **so)
    for key in new.keys:
        put(db, tokid, key)


def remove(db: sqlite3.Connection, path: Path, label: str) -> None:
    """The token of this name and all that is in it, overwritten; it need not be there."""
    db.execute("PRAGMA secure_delete = ON")  # else what is in the file's free pages stays
    if (found := token(db, path, label, None)) is None:
        return
    primary = db.execute("SELECT pid FROM tokens WHERE id = ?", found[:1]).fetchone()
    db.execute("DELETE FROM tobjects WHERE tokid = ?", found[:1])
    db.execute("DELETE FROM sealobjects WHERE tokid = ?", found[:1])
    db.execute("DELETE FROM tokens WHERE id = ?", found[:1])
    db.execute("DELETE FROM pobjects WHERE id = ? AND id NOT IN (SELECT pid FROM tokens)", primary)


def _insert(db: sqlite3.Connection, table: str, **columns: object) -> int:
    names, values = ", ".join(columns), ", ".join("?" * len(columns))
    sql = f"INSERT INTO {table} ({names}) VALUES ({values})"  # noqa: S608 (no input in it)
    return int(db.execute(sql, tuple(columns.values())).lastrowid or 0)


def put(db: sqlite3.Connection, tokid: int, key: Key) -> None:
    """The key pair of this name becomes this one, in the rows of the old."""
    before = list(_objects(db, tokid))
    for kind, attributes in objects(key).items():
        rows = [n for n, row in before if row.get(f"{CLASS}") == kind and _text(row) == key.label]
        if rows:
            db.execute("UPDATE tobjects SET attrs = ? WHERE id = ?", (emit(attributes), rows[0]))
        else:
            _insert(db, "tobjects", tokid=tokid, attrs=emit(attributes))
        _delete(db, rows[1:])


def drop(db: sqlite3.Connection, tokid: int, label: str) -> None:
    """The key pair of this name goes."""
    named = [(n, row.get(f"{CLASS}")) for n, row in _objects(db, tokid) if _text(row) == label]
    _delete(db, [n for n, kind in named if kind in (PUBLIC_KEY, PRIVATE_KEY)])


def _delete(db: sqlite3.Connection, numbers: Sequence[int]) -> None:
    db.executemany("DELETE FROM tobjects WHERE id = ?", [(number,) for number in numbers])
