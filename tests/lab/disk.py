"""A file system that forgets what was not synced: what a disk may hold after the power failed.

POSIX promises that what fsync(2) was called for is there. Of all else it promises nothing: what was
written to a file may be there, or not, or the sectors of it that the disk came to; a name that was
made, taken away or given to another file in a directory may be so or not, whatever became of its
neighbours, or of the file's own data, until the directory was synced. A rename is done or not done.

disk = Disk(tree)
disk.file("state/x").write(0, b"abc")
for what, tree in disk.states():  # each is what may be found
    ...
"""

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import PurePath

SECTOR, PAGE = 512, 4096
FEW = 3  # changes of names that wait to be synced, of which every subset is tried

# What becomes of data that was not synced. A file that was made anew may be there without it;
# or with all of its size, and nothing in it; of its sectors may be there the first half, which it
# then ends with, or the other one, or those of every other page.
DATA = ("lost", "empty", "zeros", "head", "tail", "pages", "kept")

Tree = dict[str, tuple[int, bytes | None]]  # mode and content by path; None: of a directory


@dataclass
class File:
    """`synced` and `synced_mode` are on the disk for certain; `least`: how much of the former was
    never cut off since."""

    data: bytearray
    mode: int
    synced: bytes = b""
    synced_mode: int = 0o600
    least: int = 0
    dirty: set[int] = field(default_factory=set)  # sectors

    def write(self, at: int, data: bytes) -> None:
        if at > len(self.data):
            self.truncate(at)
        self.data[at : at + len(data)] = data
        self.dirty |= {*range(at // SECTOR, -(-(at + len(data)) // SECTOR))}

    def truncate(self, size: int) -> None:
        self.least = min(self.least, size)
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))

    def sync(self, *, mode: bool = True) -> None:
        self.synced, self.least = bytes(self.data), len(self.data)
        self.dirty.clear()
        if mode:
            self.synced_mode = self.mode

    def left(self, how: str) -> tuple[int, bytes]:
        """Mode and content."""
        mode = self.synced_mode if how in ("lost", "head") else self.mode
        if self.data == self.synced:
            return mode, self.synced
        match how:
            case "lost":
                return mode, self.synced
            case "empty":
                return mode, self.synced[: self.least]
            case "kept":
                return mode, bytes(self.data)
        return mode, self._mixed(how)

    def _mixed(self, how: str) -> bytes:
        dirty, half = sorted(self.dirty), len(self.dirty) // 2
        chosen = {
            "zeros": [],
            "head": dirty[:half],
            "tail": dirty[half:],
            "pages": [n for n in dirty if n * SECTOR // PAGE % 2 == 0],
        }[how]
        size = len(self.data)
        if how == "head":
            size = min(size, max(self.least, (max(chosen, default=-1) + 1) * SECTOR))
        mixed = bytearray(self.synced[: self.least][:size].ljust(size, b"\0"))
        for n in chosen:
            part = slice(n * SECTOR, min((n + 1) * SECTOR, size))
            mixed[part] = self.data[part]
        return bytes(mixed)


@dataclass(frozen=True)
class Change:
    """Of names in a directory, done together or not at all."""

    said: str
    names: tuple[tuple[str, "Node | None"], ...]


@dataclass
class Directory:
    """`synced` is on the disk for certain, `changes` came since."""

    mode: int
    synced_mode: int = 0o700
    names: dict[str, "Node"] = field(default_factory=dict)
    synced: dict[str, "Node"] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)

    def change(self, said: str, *names: tuple[str, "Node | None"]) -> None:
        self.changes.append(Change(said, names))
        _apply(self.names, self.changes[-1])

    def sync(self) -> None:
        self.synced, self.synced_mode = dict(self.names), self.mode
        self.changes.clear()

    def left(self, forgotten: Collection[int]) -> dict[str, "Node"]:
        """Without the changes of these ids."""
        names = dict(self.synced)
        for change in self.changes:
            if id(change) not in forgotten:
                _apply(names, change)
        return names


Node = File | Directory


def _apply(names: dict[str, Node], change: Change) -> None:
    for name, node in change.names:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class Disk:
    """Files and directories below "", by their paths; what is in it at first is synced."""

    def __init__(self, tree: Tree) -> None:
        self.root = Directory(0o700)
        self.adopt(tree)

    # --- what a program does ---

    def find(self, path: str) -> Node | None:
        node: Node | None = self.root
        for name in PurePath(path).parts:
            node = node.names.get(name) if isinstance(node, Directory) else None
        return node

    def file(self, path: str) -> File:
        found = self.find(path)
        assert isinstance(found, File), path
        return found

    def _at(self, path: str) -> tuple[Directory, str]:
        parent = self.find(str(PurePath(path).parent))
        assert isinstance(parent, Directory), path
        return parent, PurePath(path).name

    def make(self, path: str, mode: int, *, directory: bool = False) -> None:
        parent, name = self._at(path)
        new = Directory(mode, mode) if directory else File(bytearray(), mode, synced_mode=mode)
        parent.change(f"make {path}", (name, new))

    def unlink(self, path: str) -> None:
        parent, name = self._at(path)
        parent.change(f"unlink {path}", (name, None))

    def rename(self, old: str, new: str) -> None:
        (source, was), (target, name) = self._at(old), self._at(new)
        node, said = self.find(old), f"rename {old} {PurePath(new).name}"
        if source is target:
            source.change(said, (was, None), (name, node))
        else:
            target.change(said, (name, node))
            source.change(f"{said}, its old name", (was, None))

    def chmod(self, path: str, mode: int) -> None:
        node = self.find(path)
        assert node is not None, path
        node.mode = mode

    def sync(self, path: str, *, mode: bool = True) -> None:
        node = self.find(path)
        if isinstance(node, File):
            node.sync(mode=mode)
        elif node is not None:
            node.sync()

    # --- what it looks like ---

    def tree(self) -> Tree:
        """With all that was done."""
        return _walk(self.root, (), "kept")

    def adopt(self, tree: Tree) -> None:
        """Others have changed it, so that it looks like this; what they changed is synced."""
        now = self.tree()
        for path in sorted(now.keys() - tree.keys(), reverse=True):
            self._settle(path, None)
        for path in sorted(tree):
            mode, data = tree[path]
            if now.get(path) != (mode, data):
                self._settle(path, _node(mode, data, self.find(path)))

    def _settle(self, path: str, node: Node | None) -> None:
        parent, name = self._at(path)
        for names in (parent.names, parent.synced):
            _apply(names, Change("", ((name, node),)))
        rest = [(c, [each for each in c.names if each[0] != name]) for c in parent.changes]
        parent.changes = [Change(c.said, tuple(names)) for c, names in rest if names]

    def states(self) -> Iterator[tuple[str, Tree]]:
        """What may be found, and what was forgotten."""
        seen = list[Tree]()
        changes = [change for d in _directories(self.root) for change in d.changes]
        for forgotten in _choices(changes):
            ids = {id(change) for change in forgotten}
            for how in DATA:
                if (tree := _walk(self.root, ids, how)) not in seen:
                    seen.append(tree)
                    yield "; ".join([*(f"not {c.said}" for c in forgotten), f"data {how}"]), tree


def _node(mode: int, data: bytes | None, was: Node | None) -> Node:
    if data is not None:
        return File(bytearray(data), mode, data, mode, len(data))
    if isinstance(was, Directory):
        was.mode = was.synced_mode = mode
        return was
    return Directory(mode, mode)


def _choices(changes: list[Change]) -> Iterator[tuple[Change, ...]]:
    """What of it is forgotten: any of few; of many all, none, each alone, and all but each."""
    if len(changes) <= FEW:
        for n in range(len(changes), -1, -1):
            yield from itertools.combinations(changes, n)
        return
    yield from (tuple(changes), ())
    for each in changes:
        yield from ((each,), tuple(other for other in changes if other is not each))


def _directories(directory: Directory) -> Iterator[Directory]:
    """It and all below, by any name that they may have."""
    yield directory
    made = [node for change in directory.changes for _, node in change.names]
    below = {id(n): n for n in (*directory.synced.values(), *made) if isinstance(n, Directory)}
    for each in below.values():
        yield from _directories(each)


def _walk(directory: Directory, forgotten: Collection[int], how: str, above: str = "") -> Tree:
    found = Tree()
    for name, node in directory.left(forgotten).items():
        path = f"{above}{name}"
        if isinstance(node, File):
            found[path] = node.left(how)
        else:
            found[path] = node.synced_mode if how in ("lost", "head") else node.mode, None
            found |= _walk(node, forgotten, how, f"{path}/")
    return found
