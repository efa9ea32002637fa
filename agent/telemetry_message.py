"""A message; and what was read of a pipe and is not acknowledged, on disk: it is nowhere else."""

import json
import logging
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path

from agent import store
from agent.errors import AgentError
from agent.hub import BYTES, JSON, LIMIT, TEXT
from agent.state import read_json, write_json
from agent.telemetry_lines import Source

log = logging.getLogger(__name__)
LONGEST_ID = 128  # characters, of the hub


@dataclass(frozen=True)
class Message:
    data: bytes
    id: str

    @property
    def kind(self) -> str:
        try:
            text = self.data.decode()
        except UnicodeDecodeError:
            return BYTES
        return JSON if _is_json(text) else TEXT


def _is_json(text: str) -> bool:
    """RFC 8259, 7493: what Python takes besides (NaN, half of a surrogate pair), no hub does."""
    try:
        found = json.loads(text, parse_constant=_no_json, parse_int=str, parse_float=str)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


def _no_json(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


@dataclass(frozen=True)
class Kept:
    """`message`: is to be sent, under this very id. `part`: the beginning of a line; its end is
    still to come from `pipe` (Source.pipe)."""

    message: Message | None = None
    part: bytes = b""
    pipe: str | None = None

    def __bool__(self) -> bool:
        return bool(self.message or self.part)


class Shelf:
    """The file at `path`: there only while something is kept. Nothing is written for a source that
    is no pipe: a file is read again anyway."""

    def __init__(self, path: Path, source: Source) -> None:
        self._path, self._source = path, source
        self._there = Kept()  # in the file
        self._others = Kept()  # of that, the half line of another pipe
        self._refused = False

    def take(self) -> Message | None:
        """What an earlier run left: the message to begin with; a half line goes on in the source.
        Raises NoPermission."""
        pipe = self._source.pipe
        if pipe is None:
            return None
        found = self._there = _parsed(self._path)
        if found.part and found.pipe == pipe:
            self._source.part[:] = found.part
        elif found.part and _boot(found.pipe) == _boot(pipe):
            self._others = Kept(None, found.part, found.pipe)
        elif found.part:
            log.warning("half a line is lost: the pipe is gone that had its end")
        return found.message

    def put(self, message: Message | None) -> bool:
        """From now on, it and the half line in the source are what is kept. False: they are not; a
        disk that takes nothing is told once, and no reason to be silent."""
        wanted = self._wanted(message)
        if self._source.pipe is None:
            return not wanted
        try:
            if wanted != self._there:
                _write(self._path, wanted)
        except AgentError as e:
            if not self._refused:
                log.warning("cannot keep what is not acknowledged: %s [%s]", e, e.code)
            self._refused = True
            return False
        self._there = wanted
        return True

    def follow(self, message: Message | None) -> None:
        """If anything is on disk, it is to be true."""
        if self._there:
            self.put(message)

    def _wanted(self, message: Message | None) -> Kept:
        part, pipe = bytes(self._source.part), self._source.pipe
        if not part:
            part, pipe = self._others.part, self._others.pipe
        return Kept(message, part, pipe if part else None)


def _boot(pipe: str | None) -> str:
    return (pipe or "").partition(" ")[0]


def _write(path: Path, kept: Kept) -> None:
    if not kept:
        store.remove(path)
        return
    found = {"part": b64encode(kept.part).decode(), "pipe": kept.pipe}
    if kept.message:
        line = b64encode(kept.message.data).decode()
        found |= {"id": kept.message.id, "line": line}
    write_json(path, found)


def _parsed(path: Path) -> Kept:
    """Of a file that is damaged nothing can be sent."""
    found = read_json(path)
    try:
        if found is None:
            if store.exists(path):
                raise ValueError("no JSON object")
            return Kept()
        message = None
        if "line" in found:
            message = Message(_bytes(found["line"]), _id(found["id"]))
        part = _bytes(found["part"])
        return Kept(message, part, str(found["pipe"]) if part else None)
    except (KeyError, TypeError, ValueError):
        log.warning("what was kept in '%s' is damaged, and is not sent", path)
        return Kept()


def _bytes(text: str) -> bytes:
    found = b64decode(text, validate=True)
    if len(found) > LIMIT + 1:
        raise ValueError("too long")
    return found


def _id(text: str) -> str:
    if not (text.isascii() and text.isprintable() and 0 < len(text) <= LONGEST_ID):
        raise ValueError("no id of a message")
    return text
