"""A minimal Debian 12 in a directory, made by mmdebstrap and kept as a tar file in .lab/chroot.

As root, or as a user, for whom user namespaces keep the owners (mmdebstrap(1), "unshare").
"""

import hashlib
import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.process import TOP, ask, run

CACHE = TOP / ".lab" / "chroot"
SUITE = "bookworm"
ENTER = Path(__file__).parent / "enter"
# The host's own sources and proxies: a mirror or a cache is used if there is one.
SOURCES = [Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")]
SETTINGS = ["APT::Install-Recommends false", "Acquire::Languages none"]


def base(*relations: str) -> Path:
    """The tar file of a system with nothing but apt in it, and in apt's archives whatever these
    relations (deb-control(5), "Depends") take, so that nothing is fetched later."""
    wanted = ", ".join(relations)
    fetch = f"apt-get -q -y --download-only satisfy {shlex.quote(wanted)}"
    options = [f"--aptopt={each}" for each in [*SETTINGS, *_of_the_host()]]
    options += ["--dpkgopt=force-unsafe-io", "--skip=cleanup/apt"]
    options += [f'--customize-hook=chroot "$1" {fetch}']
    sources = [str(path) for path in SOURCES if path.exists()][:1]
    key = hashlib.sha256("\0".join([SUITE, *options, *sources]).encode()).hexdigest()[:16]
    made = CACHE / f"{key}.tar"
    if not made.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        for old in CACHE.glob("*.tar"):
            old.unlink()
        new = CACHE / f"{key}.new.tar"
        run("mmdebstrap", "--variant=apt", *options, SUITE, str(new), *sources)
        new.rename(made)
    return made


def _of_the_host() -> Iterator[str]:
    for line in run("apt-config", "dump", "--no-empty", "Acquire::http", "Acquire::https").split(
        "\n"
    ):
        if line:
            yield line.rstrip(";")


def _as_root(*command: str | Path) -> list[str]:
    helper = [] if os.getuid() == 0 else ["unshare", "--map-root-user", "--map-auto"]
    return [*helper, *map(str, command)]


class Chroot:
    """Commands in it are cut off from the network, from devices, and from other processes."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    def ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        return ask(*_as_root(ENTER, self.tree, *command))

    def run(self, *command: str) -> str:
        done = self.ask(*command)
        assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}: {done.stdout}"
        return done.stdout

    def sh(self, script: str) -> str:
        return self.run("sh", "-euc", script)

    def put(self, path: Path) -> str:
        """A copy of this file in it; returns its name there."""
        run(*_as_root("cp", path, self.tree))
        return f"./{path.name}"

    def files(self) -> dict[str, str]:
        """Every path, with mode, owner, and the target or the digest of what it holds."""
        listed = self.sh(
            r"find / -xdev \( -path /dev -o -path /proc -o -path /sys \) -prune -o"
            r" -printf '%p\t%M %U:%G %l\n'"
        )
        found = dict(line.split("\t", 1) for line in listed.splitlines())
        sums = self.sh(
            r"find / -xdev \( -path /dev -o -path /proc -o -path /sys \) -prune -o"
            r" -type f -exec sha256sum {} +"
        )
        for line in sums.splitlines():
            found[line[66:]] += " " + line[:64]
        return found


@contextmanager
def unpacked(base: Path, tree: Path) -> Iterator[Chroot]:
    """The tar file, unpacked for the length of the `with`."""
    tree.mkdir(parents=True)
    # In a user namespace its root must own the directory, and nobody can make device nodes.
    tree.chmod(0o755)
    try:
        run(*_as_root("tar", "-C", tree, "-xf", base, "--exclude=./dev/*"))
        yield Chroot(tree)
    finally:
        run(*_as_root("rm", "-rf", tree))
