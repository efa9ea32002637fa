"""Whole-or-nothing files and the lock of the state directory.

A reader sees the old content or the new one, also across a power cut. The temporary name is fixed,
so what a killed writer left behind is overwritten by the next one, or removed by the next one that
holds the lock: nothing piles up.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from agent.errors import Busy, DiskFull, NoPermission, PathUnusable, ReadOnly


def write(
    path: Path, data: bytes, *, mode: int = 0o600, owner: tuple[int, int] | None = None
) -> None:
    """Replace the file at `path` by `data`; `owner` is (uid, gid). Raises what `permitted` does.

    Whatever else is there than a file stays: a device or a pipe would be taken from all who use it,
    and what a link leads to would not get the data.
    """
    with permitted(path):
        _replaceable(path)
        part = part_of(path)
        part.unlink(missing_ok=True)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as f:
            os.fchmod(fd, mode)
            if owner is not None and owner != (os.geteuid(), os.getegid()):
                os.fchown(fd, *owner)
            f.write(data)
            f.flush()
            os.fsync(fd)
        part.replace(path)
        sync_directory(path.parent)


def _part(name: str) -> str:
    return f".{name}.new"


def part_of(path: Path) -> Path:
    """Where a killed writer may have left what was to be the file, whole or in part."""
    return path.with_name(_part(path.name))


def _replaceable(path: Path) -> None:
    """Raises OSError if a file may not take this place."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(kind):
        raise OSError(errno.EINVAL, "Not a regular file")


def make(path: Path) -> None:
    """Make a directory that everybody may look into, and those above it, for good; it may be there.
    Whatever the umask, it has its mode from the first moment on: one that was cut off in between
    would look like one that was made. Raises what `permitted` does."""
    with permitted(path):
        missing = [each for each in (path, *path.parents) if not each.exists()]
        if not missing:
            return
        umask = os.umask(0o022)
        try:
            path.mkdir(parents=True, exist_ok=True)
        finally:
            os.umask(umask)
        for each in missing:
            sync_directory(each.parent)


def remove(path: Path) -> None:
    """Remove a file, for good; it need not be there. Raises NoPermission."""
    with permitted(path):
        path.unlink(missing_ok=True)
        sync_directory(path.parent)


def empty(directory: Path, only: Collection[str] = ()) -> None:
    """Remove all that is in a directory, or of that what has these names, for good; the directory
    itself, with its owner and mode, stays. It need not be there. Others may be able to write in it:
    links are removed, and what they lead to is not touched. Raises what `permitted` does."""
    with permitted(directory):
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            found = set(os.listdir(fd))  # noqa: PTH208 (of this very directory)
            for name in sorted(found & set(only) if only else found):
                if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                    shutil.rmtree(name, dir_fd=fd)
                else:
                    os.unlink(name, dir_fd=fd)
            os.fsync(fd)
        finally:
            os.close(fd)


def read(path: Path, most: int | None = None) -> bytes | None:
    """The whole file, or None if there is none. `most`: a regular file of at most so many bytes,
    for what others put there: a pipe is never waited for. Raises what `permitted` does."""
    with permitted(path):
        try:
            return path.read_bytes() if most is None else _bounded(path, most)
        except FileNotFoundError:
            return None


def _bounded(path: Path, most: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as f:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        data = f.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes")
    return data


@contextlib.contextmanager
def permitted(path: Path) -> Iterator[None]:
    """What the file system says when it will not: NoPermission, ReadOnly, DiskFull, else
    PathUnusable."""
    try:
        yield
    except OSError as e:
        if e.errno == errno.EROFS:
            raise ReadOnly(f"cannot write '{path}': {e.strerror}", path=path) from e
        if e.errno in (errno.EACCES, errno.EPERM):
            raise NoPermission(f"cannot use '{path}': {e.strerror}", path=path) from e
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise DiskFull(f"cannot write '{path}': {e.strerror}", path=path) from e
        raise PathUnusable(f"cannot use '{path}': {e.strerror}", path=path) from e


def exists(path: Path) -> bool:
    """Path.exists() raises where a directory above may not be searched. Raises NoPermission."""
    with permitted(path):
        return path.exists()


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def lock(directory: Path, besides: Collection[Path] = ()) -> Iterator[None]:
    """Hold the directory (made if need be; IoT Edge's services look into it); the kernel lets go
    when we exit, however we exit. What is found in it is there for good: a run that was killed may
    not have come to sync what it had renamed; and what it had not come to rename is removed, but
    for files that are written `besides`, without this lock."""
    make(directory)
    with permitted(directory):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
            raise ReadOnly(f"cannot write '{directory}': read-only file system", path=directory)
        if not os.access(directory, os.W_OK):
            raise NoPermission(f"cannot write '{directory}': permission denied", path=directory)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise Busy(f"cannot use '{directory}': another run holds it") from e
        with permitted(directory):
            for part in {*directory.glob(_part("*"))} - {*map(part_of, besides)}:
                if not part.is_dir():
                    part.unlink(missing_ok=True)
            os.fsync(fd)
        yield
    finally:
        os.close(fd)
