"""What a machine left on its disk: files, and the journal. It may have lost its power: in the copy
that is read the file system's own journal is replayed, the disk itself is left as it is."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab.process import run
from tests.vm import image

Entry = dict[str, Any]
SBIN = "/usr/sbin:/sbin"


class Disk:
    """A copy of a machine's disk, to be read."""

    def __init__(self, disk: Path) -> None:
        self._disk = disk

    def read(self, path: str) -> bytes:
        """A file, by absolute path."""
        return self._debugfs(f'cat "{path}"')

    def dump(self, path: str, to: Path) -> Path:
        """A directory with all that is in it, below `to`."""
        to.mkdir(parents=True, exist_ok=True)
        self._debugfs(f'rdump "{path}" "{to}"')
        return to / Path(path).name

    def _debugfs(self, request: str) -> bytes:
        program = shutil.which("debugfs", path=SBIN) or "debugfs"
        command = [program, "-R", request, str(self._disk)]
        return subprocess.run(command, capture_output=True, check=True).stdout


@contextmanager
def of(disk: Path) -> Iterator[Disk]:
    with tempfile.TemporaryDirectory(dir=disk.parent) as scratch:
        replayed = image.copy(disk, Path(scratch) / "disk")
        e2fsck = shutil.which("e2fsck", path=SBIN) or "e2fsck"
        command = [e2fsck, "-E", "journal_only", "-y", str(replayed)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stdout + done.stderr
        yield Disk(replayed)


class Journal:
    """The journal of all boots, in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def entries(self, *matches: str) -> list[Entry]:
        """As journalctl(1) gives them in JSON, oldest first; `matches`: its arguments."""
        lines = self.text("--output=json", "--all", *matches).splitlines()
        return [json.loads(line) for line in lines]

    def text(self, *arguments: str) -> str:
        own = ["--no-pager", "--quiet", f"--directory={self._directory}"]
        return run("journalctl", *own, *arguments)


def journal(disk: Path, to: Path) -> Journal:
    """The journal that is on this disk, copied to `to`."""
    with of(disk) as found:
        return Journal(found.dump("/var/log/journal", to))
