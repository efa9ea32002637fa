"""What the lines of a trace (strace -y -xx) do to a disk: system calls that change files."""

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePath

from tests.lab.disk import Disk

CALL = re.compile(r"(\w+)\((.*)\) += (\d+)(<[^>]*>)?")
TOKEN = re.compile(r'(AT_FDCWD|\d+)<([^>]*)>(\(deleted\))?|"([^"]*)"|([^,\s]+)')
ONLY_LOOK, MAKES = {"openat", "lseek"}, {"O_CREAT", "O_TRUNC"}
PROGRAMS = {"vfork", "kill"}  # from then on, others are at work, too
KNOWN = {
    *("openat", "lseek", "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "fchmod", "chmod"),
    *("rename", "unlink", "unlinkat", "mkdir", "rmdir"),
}
# Should it come to call one of these, we cannot tell what it does.
UNKNOWN = {
    *("writev", "pwritev", "truncate", "fallocate", "link", "linkat", "symlink", "symlinkat"),
    *("renameat", "renameat2", "mkdirat", "fchmodat", "copy_file_range", "sendfile"),
}


@dataclass(frozen=True)
class Call:
    """`fd` and `paths`: what it is about, absolute, in this order; `data`: what it writes; `rest`:
    flags and numbers; `result`."""

    name: str
    fd: str
    paths: list[str]
    data: bytes
    rest: list[str]
    result: int


def parse(line: str) -> Call | None:
    """None: no call, or one that failed."""
    if (found := CALL.match(line)) is None:
        return None
    name, arguments, result, _ = found.groups()
    fd, texts, rest = "", list[bytes](), list[str]()
    for number, at, deleted, text, other in TOKEN.findall(arguments):
        if number:
            fd = "" if deleted else _text(at).decode()
            rest += [] if number == "AT_FDCWD" else [number]
        elif other:
            rest.append(other)
        else:
            texts.append(_text(text))
    data = texts[0] if texts and "write" in name else b""
    named = [] if "write" in name else texts
    paths = [str(Path(fd or "/", each.decode())) for each in named]
    return Call(name, fd, paths or [fd], data, rest, int(result))


def flags(call: Call) -> set[str]:
    """With which a file is opened."""
    return {flag for each in call.rest if each.startswith("O_") for flag in each.split("|")}


def _text(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


class Calls:
    """By a program whose umask is ours at first, on the disk below the directory `top`."""

    def __init__(self, disk: Disk, top: str) -> None:
        self.disk, self._top, self.alone = disk, top, True
        self._positions = dict[str, int]()
        self._umask = os.umask(0o077)
        os.umask(self._umask)

    def did(self, line: str) -> str:
        """In words, if the disk has changed by it."""
        if (call := parse(line)) is None:
            return ""
        if call.name in PROGRAMS:
            self.alone = False
        if call.name == "umask":
            self._umask = int(call.rest[0], 8)
        ours = self._ours(call)
        if not ours:
            return ""
        assert call.name not in UNKNOWN, line
        does = getattr(self, f"_{call.name}", None) if call.name in KNOWN else None
        return f"{call.name} {ours[-1]}" if does and does(call, *ours) is not False else ""

    def paths(self, line: str) -> list[str]:
        """What it changes, if it changes anything on the disk."""
        call = parse(line)
        if call is None or (call.name in ONLY_LOOK and not MAKES & flags(call)):
            return []
        return self._ours(call)

    def _ours(self, call: Call) -> list[str]:
        return [path[len(self._top) + 1 :] for path in call.paths if self._is_ours(path)]

    def _is_ours(self, path: str) -> bool:
        """One of IoT Edge's is not, for its directory is not on the disk that is looked at."""
        if path != self._top and not path.startswith(f"{self._top}/"):
            return False
        above = PurePath(path[len(self._top) + 1 :]).parent
        return self.disk.find(str(above)) is not None

    # --- each gives False if nothing changed ---

    def _openat(self, call: Call, path: str) -> bool:
        self._positions[str(call.result)] = 0
        if "O_CREAT" in flags(call) and self.disk.find(path) is None:
            self.disk.make(path, self._mode(call))
            return True
        if "O_TRUNC" not in flags(call):
            return False
        self.disk.file(path).truncate(0)
        return True

    def _mode(self, call: Call) -> int:
        return int(call.rest[-1], 8) & ~self._umask

    def _lseek(self, call: Call, path: str) -> bool:
        self._positions[call.rest[0]] = call.result
        return False

    def _write(self, call: Call, path: str) -> None:
        fd = call.rest[0]
        at = self._positions[fd]
        self._positions[fd] = at + call.result
        self.disk.file(path).write(at, call.data[: call.result])

    def _pwrite64(self, call: Call, path: str) -> None:
        self.disk.file(path).write(int(call.rest[-1]), call.data[: call.result])

    def _ftruncate(self, call: Call, path: str) -> None:
        self.disk.file(path).truncate(int(call.rest[-1]))

    def _fsync(self, call: Call, path: str) -> None:
        self.disk.sync(path)

    def _fdatasync(self, call: Call, path: str) -> None:
        self.disk.sync(path, mode=False)

    def _fchmod(self, call: Call, path: str) -> None:
        self.disk.chmod(path, int(call.rest[-1], 8))

    _chmod = _fchmod

    def _rename(self, call: Call, old: str, new: str) -> None:
        self.disk.rename(old, new)

    def _unlink(self, call: Call, path: str) -> None:
        self.disk.unlink(path)

    _unlinkat = _rmdir = _unlink

    def _mkdir(self, call: Call, path: str) -> None:
        self.disk.make(path, self._mode(call), directory=True)
