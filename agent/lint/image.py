"""A root directory, looked at from outside: read-only, and never beyond it.

A link in an image means a place in that image. Nothing here follows one by itself: `outside` does,
component by component, as the device would.
"""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

LINKS = 40  # path_resolution(7): more are a loop
LARGEST = 1 << 20  # bytes; no file that is read here is longer


class Unseen(Exception):
    """A check could not look."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path, self.why = path, why


class Image:
    """Paths are texts that begin with "/", the image's root. Methods raise Unseen; what is not
    there is no error, but None or nothing."""

    def __init__(self, given: Path) -> None:
        self.given = given
        self._root = given.resolve()
        # Builders differ in who owns their files: root, a range of a user namespace, anybody.
        self.owner = (self._etc() or self._root.stat()).st_uid
        self.missed: list[Unseen] = []

    def _etc(self) -> os.stat_result | None:
        try:
            return self.stat("/etc")
        except Unseen:  # each check will say so
            return None

    def outside(self, path: str) -> Path:
        """Where `path` lies for the builder, every link but its last component's resolved."""
        directory, _, name = path.rstrip("/").rpartition("/")
        return self.real(directory or "/") / name if name not in ("", "..") else self.real(path)

    def shown(self, path: str) -> Path:
        """For a person: the same below the root as she gave it, or for want of it just that."""
        try:
            return self.given / self.outside(path).relative_to(self._root)
        except Unseen:
            return self.given / path.lstrip("/")

    def real(self, path: str) -> Path:
        """The file that `path` means, every link in it resolved; it need not be there."""
        here, left, links = self._root, _parts(path), 0
        while left:
            part = left.pop()
            if part == "..":
                here = here.parent if here != self._root else here
            elif (target := self._link(here / part)) is None:
                here /= part
            elif (links := links + 1) > LINKS:
                raise Unseen(path, os.strerror(errno.ELOOP).lower())
            else:
                here = self._root if target.startswith("/") else here
                left += _parts(target)
        return here

    def _link(self, path: Path) -> str | None:
        try:
            return str(path.readlink())
        except OSError as e:
            if e.errno in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
                return None
            raise self._unseen(str(path), e) from e

    def _unseen(self, path: str, error: OSError) -> Unseen:
        inside = "/" + path.removeprefix(str(self._root)).lstrip("/")
        return Unseen(inside, (error.strerror or str(error)).lower())

    def stat(self, path: str, *, link: bool = False) -> os.stat_result | None:
        """`link`: of the link itself."""
        try:
            real = self.outside(path) if link else self.real(path)
            return real.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:
            raise self._unseen(path, e) from e

    def exists(self, path: str) -> bool:
        return self.stat(path) is not None

    def is_file(self, path: str) -> bool:
        found = self.stat(path)
        return found is not None and stat.S_ISREG(found.st_mode)

    def names(self, directory: str) -> list[str]:
        try:
            return sorted(path.name for path in self.real(directory).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as e:
            raise self._unseen(directory, e) from e

    def data(self, path: str, most: int = LARGEST) -> bytes | None:
        """The first `most` bytes of a regular file; None if there is none. Waits for nobody: what
        is not a file of a reasonable size is Unseen."""
        found = self.stat(path)
        if found is None:
            return None
        if not stat.S_ISREG(found.st_mode):
            raise Unseen(path, "it is not a regular file")
        if most == LARGEST and found.st_size > LARGEST:
            raise Unseen(path, "it is longer than anything that belongs there")
        try:
            with self.real(path).open("rb") as f:
                return f.read(most)
        except OSError as e:
            raise self._unseen(path, e) from e

    def text(self, path: str) -> str | None:
        data = self.data(path)
        return None if data is None else data.decode(errors="replace")

    def matching(self, pattern: str) -> list[str]:
        """The paths that are there for a pattern in which `*` may stand for a whole component."""
        found = [""]
        for part in pattern.strip("/").split("/"):
            names = [self.names(at or "/") if part == "*" else [part] for at in found]
            found = [f"{at}/{n}" for at, below in zip(found, names, strict=True) for n in below]
        return [path for path in found if self.stat(path, link=True)]

    def below(self, directory: str) -> Iterator[tuple[str, os.stat_result]]:
        """Everything in `directory`, and what is in that; links are not followed. Where it may not
        look it goes on, and remembers that in `missed`."""
        left = [directory]
        while left:
            at = left.pop()
            for name, found in self._entries(at):
                path = f"{at.rstrip('/')}/{name}"
                yield path, found
                if stat.S_ISDIR(found.st_mode):
                    left.append(path)

    def _entries(self, directory: str) -> list[tuple[str, os.stat_result]]:
        try:
            with os.scandir(self.real(directory)) as entries:
                return sorted((e.name, e.stat(follow_symlinks=False)) for e in entries)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as e:
            self.missed.append(self._unseen(directory, e))
        except Unseen as e:
            self.missed.append(e)
        return []


def _parts(path: str) -> list[str]:
    """The components of a path, the first one last."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def readable(text: str) -> str:
    """File names are bytes, and may be anything, also what a terminal would obey."""
    plain = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)
