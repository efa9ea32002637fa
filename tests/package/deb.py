"""The package, built as README says, and what can be read off it without installing it."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab.process import TOP


def run(*command: str | Path) -> str:
    """What a command prints; quoted, if it fails."""
    done = subprocess.run(
        command,
        cwd=TOP,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stdout[-4000:]}")
    return done.stdout


@dataclass(frozen=True)
class Deb:
    path: Path
    packed: float  # MiB
    installed: float  # MiB, before byte-compilation

    def field(self, name: str) -> str:
        return run("dpkg-deb", "--field", self.path, name).strip()


def build(*options: str) -> Deb:
    """`./debian/build`: a moment if nothing changed, a minute the very first time."""
    said = run("./debian/build", *options)
    found = re.search(r"^build: (\S+): ([\d.]+) MiB packed, ([\d.]+) MiB installed$", said, re.M)
    assert found is not None, said
    return Deb(TOP / found[1], float(found[2]), float(found[3]))
