"""Disks: a root file system and the files that an image builder adds to it."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.process import run
from tests.vm.rootfs import CACHE

MKIMAGE = Path(__file__).with_name("mkimage")


@dataclass(frozen=True)
class File:
    """What a file in the image holds, and its mode; its owner is root."""

    content: bytes
    mode: int = 0o644


def text(content: str, mode: int = 0o644) -> File:
    return File(content.encode(), mode)


def build(root: Path, files: Mapping[str, File], disk: Path, check: Sequence[str] = ()) -> None:
    """A disk at `disk` (2 GiB, sparse) from the tar file `root` and `files`, by absolute path.
    `check` is a command that gets the tree's path first, and ends with 0 if it likes it."""
    with tempfile.TemporaryDirectory(dir=disk.parent) as scratch:
        overlay = Path(scratch) / "overlay"
        for name, file in files.items():
            path = overlay / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.content)
            path.chmod(file.mode)
        tree = Path(scratch) / "tree"
        run(*as_root(), MKIMAGE, tree, root, overlay, disk, *check)


def as_root() -> list[str]:
    """What lets a command give files to anybody: nothing for root; else a user namespace in which
    we are root, and the others are our subordinate ids (subuid(5))."""
    return [] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--map-auto", "--"]


def kernel(root: Path) -> Path:
    """The kernel of the root file system `root`, a tar file."""
    made = CACHE / f"{root.stem}.vmlinuz"
    if not made.exists():
        for old in CACHE.glob("*.vmlinuz"):
            old.unlink()
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            run("tar", "-C", scratch, "-xf", root, "--wildcards", "./boot/vmlinuz-*")
            [found] = Path(scratch).glob("boot/vmlinuz-*")
            shutil.move(found, made)
    return made


def copy(disk: Path, to: Path) -> Path:
    """A disk of its own for another machine; holes stay holes."""
    run("cp", "--reflink=auto", "--sparse=always", disk, to)
    return to


def inject(disk: Path, files: Mapping[str, File]) -> None:
    """Put files onto a disk that was unmounted properly; their directories are there, they not."""
    with tempfile.TemporaryDirectory(dir=disk.parent) as scratch:
        script = Path(scratch) / "script"
        lines = []
        for number, (name, file) in enumerate(files.items()):
            source = Path(scratch) / str(number)
            source.write_bytes(file.content)
            lines += [f'write "{source}" "{name}"']
            lines += [f'sif "{name}" {field} 0' for field in ("uid", "gid")]
            lines += [f'sif "{name}" mode {0o100000 | file.mode:#o}']
        script.write_text("\n".join(lines) + "\n")
        debugfs = shutil.which("debugfs", path="/usr/sbin:/sbin") or "debugfs"
        run(debugfs, "-w", "-f", script, disk)
