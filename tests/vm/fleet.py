"""A fleet: boards from one factory, flashed with images that differ in nothing but what a test asks
for."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.lab.device import AGENT
from tests.lab.factory import Board
from tests.lab.world import World
from tests.vm import golden, image, journal, rootfs
from tests.vm.image import File
from tests.vm.machine import Machine

# QEMU's firmware locks the platform hierarchy, as that of real boards does.
BOARD = Board(readable=True)
ANOTHER_BOARD = Board(id="board-0002", readable=True)
PROVISIONED = r"tpm2cloud\[\d+\]: This device is provisioned"
LINT = [str(AGENT), "lint-image"]


class Fleet:
    """Everything below `directory`; `kind`: of what its images are made, with other packages than
    those of other kinds."""

    def __init__(
        self, world: World, directory: Path, debs: Sequence[Path], kind: str = "golden"
    ) -> None:
        self.world, self.directory = world, directory
        self._root, self._kernel = rootfs.golden(debs, kind), image.kernel(rootfs.base())
        self._images: dict[str, Path] = {}
        world.board(BOARD)  # makes the maker, whose roots go into the image

    def image(self, changes: Mapping[str, Any], *, linted: bool, more: Mapping[str, File]) -> Path:
        """The golden image, with these changes to the settings, and files; made once. `linted`:
        only if `tpm2cloud lint-image` has nothing against it."""
        key = json.dumps([changes, {at: file.content.hex() for at, file in more.items()}])
        if key not in self._images:
            disk = self.directory / f"golden{len(self._images)}.img"
            files = golden.files(self.world, changes)
            image.build(self._root, {**files, **more}, disk, LINT if linted else ())
            self._images[key] = disk
        return self._images[key]

    def flash(
        self,
        name: str,
        serial: str,
        changes: Mapping[str, Any] | None = None,
        *,
        board: Board = BOARD,
        linted: bool = True,
        more: Mapping[str, File] | None = None,
    ) -> Machine:
        """A board that just came from the line; `name` is its directory's. Those with the same
        `board` have the same TPM. `more`: files, by path."""
        at = self.directory / name
        at.mkdir()
        disk = image.copy(self.image(changes or {}, linted=linted, more=more or {}), at / "disk")
        self.world.solder(board, at / "tpm")
        return Machine(at, kernel=self._kernel, disk=disk, serial=serial)

    def twin(self, of: Machine, name: str) -> Machine:
        """The same machine, powered off, once more: what happens to it does not happen to the
        other."""
        at = self.directory / name
        at.mkdir()
        shutil.copytree(of.tpm, at / "tpm", ignore=shutil.ignore_patterns(".lock"))
        disk = image.copy(of.disk, at / "disk")
        return Machine(at, kernel=self._kernel, disk=disk, serial=of.serial)


def keep(machine: Machine, name: str) -> None:
    """What a technician would look at, in .lab/vm/NAME: each boot's console, and the journal."""
    to = rootfs.CACHE / name
    shutil.rmtree(to, ignore_errors=True)
    machine.keep(to)
    if machine.disk.exists() and machine.boots:
        found = journal.journal(machine.disk, machine.directory / "journal-kept")
        (to / "journal.txt").write_text(found.text("--output=short-monotonic"))


def capture(name: str, text: str) -> None:
    """What was on the screen, in .lab/vm/captures/NAME.txt."""
    to = rootfs.CACHE / "captures"
    to.mkdir(parents=True, exist_ok=True)
    (to / f"{name}.txt").write_text(text)
