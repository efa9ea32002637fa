"""A mount namespace of its own for some programs: without root, and whoever runs the tests is in it
the same user as outside.

    with Apart() as apart:
        apart.mount("tmpfs", state, "tmpfs", options="size=64k")
        subprocess.run([*apart.enter, *command])     # this one sees it, nobody else does

What is seen in there is below `apart.root` from outside.
"""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.lab import process

# mount(2); <linux/mount.h>
READ_ONLY, REMOUNT, BIND, DETACH = 1, 32, 4096, 2


class Apart:
    """For the length of the `with`; programs that are in it still may go on after that."""

    def __enter__(self) -> Self:
        unshare = ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount"]
        command = [*unshare, sys.executable, "-m", "tests.lab.apart"]
        pipe = subprocess.PIPE
        self._held = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=process.TOP, text=True)
        self._ask({})
        return self

    def __exit__(self, *error: object) -> None:
        self._held.communicate()

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self._held.pid}/root")

    @property
    def enter(self) -> list[str]:
        """What to put before a command."""
        pid = str(self._held.pid)
        return ["nsenter", "--user", "--mount", "--preserve-credentials", "--target", pid, "--"]

    def mount(
        self, source: str | Path, target: str | Path, kind: str = "", *, flags: int = 0,
        options: str = "",
    ) -> None:  # fmt: skip
        """As mount(2) has it. Raises RuntimeError if it cannot be."""
        self._ask({"mount": [str(source), str(target), kind, flags, options]})

    def unmount(self, target: str | Path) -> None:
        self._ask({"unmount": str(target)})

    def read_only(self, directory: Path) -> None:
        self.mount(directory, directory, flags=BIND)
        self.mount("none", directory, flags=BIND | REMOUNT | READ_ONLY)

    def make(self, path: str | Path, *, directory: bool = False) -> None:
        """An empty file or directory in there, and what is above it."""
        self._ask({"make": str(path), "directory": directory})

    def _ask(self, what: dict[str, Any]) -> None:
        assert self._held.stdin is not None
        assert self._held.stdout is not None
        self._held.stdin.write(json.dumps(what) + "\n")
        self._held.stdin.flush()
        if said := self._held.stdout.readline().strip():
            raise RuntimeError(f"cannot {what}: {said}")


def _do(what: dict[str, Any]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if "mount" in what:
        source, target, kind, flags, options = what["mount"]
        texts = [text.encode() or None for text in (source, target, kind, options)]
        failed = libc.mount(*texts[:3], ctypes.c_ulong(flags), texts[3])
        return ctypes.get_errno() if failed else 0
    if "unmount" in what:
        failed = libc.umount2(what["unmount"].encode(), DETACH)
        return ctypes.get_errno() if failed else 0
    if "make" in what:
        path = Path(what["make"])
        (path if what["directory"] else path.parent).mkdir(parents=True, exist_ok=True)
        if not what["directory"]:
            path.touch()
    return 0


def main() -> None:
    for line in sys.stdin:
        failed = _do(json.loads(line))
        sys.stdout.write(f"{os.strerror(failed) if failed else ''}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
