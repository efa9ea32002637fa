"""The package, built as README says, and what can be read off it without installing it."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.lab.process import TOP, run


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
