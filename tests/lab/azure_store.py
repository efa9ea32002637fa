"""What the lab's Azure remembers: a file that outlives the process, and that tests read, too."""

import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Document = dict[str, Any]
TABLE = """CREATE TABLE IF NOT EXISTS document (
    kind TEXT, key TEXT, body TEXT NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID"""


class Store:
    """Documents by kind and key; keys are compared in lower case. A change is there for every
    reader when the method returns."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")  # a machine that crashes takes the lab along
        self._db.execute(TABLE)

    def close(self) -> None:
        self._db.close()

    def get(self, kind: str, key: str) -> Document | None:
        asked = "SELECT body FROM document WHERE kind = ? AND key = ?"
        row = self._db.execute(asked, (kind, key.lower())).fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def put(self, kind: str, key: str, body: Document) -> None:
        values = (kind, key.lower(), json.dumps(body))
        self._db.execute("INSERT OR REPLACE INTO document VALUES (?, ?, ?)", values)

    def delete(self, kind: str, key: str) -> None:
        """What is below this key goes, too."""
        key, below = key.lower(), f"{key.lower()}/"
        done = "DELETE FROM document WHERE kind = ? AND (key = ? OR substr(key, 1, ?) = ?)"
        self._db.execute(done, (kind, key, len(below), below))

    def drop(self, kind: str) -> None:
        self._db.execute("DELETE FROM document WHERE kind = ?", (kind,))

    def below(self, kind: str, prefix: str) -> Iterator[tuple[str, Document]]:
        """Key and document of those whose key begins so, in order."""
        asked = "SELECT key, body FROM document WHERE kind = ? AND substr(key, 1, ?) = ?"
        values = (kind, len(prefix), prefix.lower())
        for key, body in self._db.execute(f"{asked} ORDER BY key", values).fetchall():
            yield key, json.loads(body)

    def page(self, kind: str, after: str, count: int) -> list[Document]:
        """The next of a kind, in the order of their keys."""
        asked = "SELECT body FROM document WHERE kind = ? AND key > ? ORDER BY key LIMIT ?"
        rows = self._db.execute(asked, (kind, after.lower(), count)).fetchall()
        return [json.loads(body) for (body,) in rows]

    def count(self, kind: str) -> int:
        asked = "SELECT count(*) FROM document WHERE kind = ?"
        return int(self._db.execute(asked, (kind,)).fetchone()[0])


def new_etag() -> str:
    """As Resource Manager's look: eight bytes in base64."""
    return "AAAAA" + os.urandom(3).hex().upper() + "="


def shown(document: Document) -> Document:
    """Without what is nobody's business."""
    return {name: value for name, value in document.items() if name != "lab"}


def change(old: Document | None, new: Document) -> str:
    """What came of it: "create", "update", or "same"."""
    if old is None:
        return "create"
    return "same" if shown(old) == shown(new) else "update"
