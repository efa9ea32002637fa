"""A device whose power fails at any moment of a run, on a disk that forgets; and is run again.

stage = Stage(play, tmp_path)
for point in stage.record():
    stage.survives(point)
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import crash, instant
from tests.lab.cut_first_boot import counted
from tests.lab.device import Device
from tests.lab.disk import Tree
from tests.lab.disk_trace import TPM, Point, Recorder, others, read
from tests.lab.finished import failed_tries
from tests.lab.instant import Bounds, Snapshot

LEFT = shutil.ignore_patterns("*.sock*", ".lock", "*.log")


@dataclass(frozen=True)
class Play:
    """What the agent does on a device that is switched off.

    `starts`: IoT Edge's services, at power on. `finishes`: whatever was left to do; gives how it
    ended, which is the same each time. `stands`: raises what is not as it must be at any moment,
    before anything else has run. `count`: what must not be spent, say certificates: at most one
    more of each than undisturbed. `renamed`: what a run before left so (see Recorder).
    `in_order`: what is found at any moment fits together, as instant.right() wants it.
    """

    name: str
    device: Device
    command: Sequence[str]
    finishes: Callable[[Device], Any]
    count: Callable[[], list[int]]
    starts: Callable[[Device], None]
    stands: Callable[[Device], None]
    ends: Sequence[int] = (0,)
    renamed: str = ""
    in_order: bool = True


class Stage:
    """Where it is played, again and again from the same beginning."""

    def __init__(self, play: Play, scratch: Path) -> None:
        scratch.mkdir(parents=True)
        self.play, self._base, self._pipe = play, scratch / "base", scratch / "strace"

    def record(self) -> list[Point]:
        """It is played undisturbed."""
        play, device = self.play, self.play.device
        shutil.copytree(device.directory, self._base, symlinks=True, ignore=LEFT)
        before = play.count()
        try:
            self._power_on()
            fresh = self._seen()
            recorder = Recorder(device, self._pipe, play.count, play.renamed)
            found = recorder.points(play.command, play.ends)
            self._well = play.finishes(device)
            self._bounds = Bounds.of(*fresh, *self._seen())
        finally:
            self._power_off()
        self._needed = _since(before, play.count())
        self._before = before
        return found

    def _seen(self) -> list[Snapshot]:
        return [Snapshot.of(self.play.device)] if self.play.in_order else []

    def _power_on(self) -> None:
        self.play.device.power_on()
        if crash.is_configured(self.play.device):
            self.play.starts(self.play.device)

    def _power_off(self) -> None:
        crash.kill_programs(self.play.device)
        self.play.device.power_cut()

    def survives(self, point: Point) -> None:
        play, device, before = self.play, self.play.device, self.play.count()
        self._restore(point)
        try:
            device.power_on()
            tries = failed_tries(device)
            assert tries <= counted(device)
            if play.in_order:
                instant.right(device, self._bounds, tries=tries)
            play.stands(device)
            self._power_on()
            assert play.finishes(device) == self._well
            assert failed_tries(device) <= tries
            if play.in_order:
                instant.right(device, self._bounds, tries=tries)
        finally:
            self._power_off()
        spent = zip(_since(self._before, point.counted), _since(before, play.count()), strict=True)
        extra = [sum(each) - need for each, need in zip(spent, self._needed, strict=True)]
        assert max(extra) <= 1, f"spent beyond what is needed: {extra}"

    def _restore(self, point: Point) -> None:
        device = self.play.device
        shutil.rmtree(device.directory)
        shutil.copytree(self._base, device.directory, symlinks=True)
        put(device.directory, point.tree, others(device))
        if point.edge is not None:
            put(device.edge, point.edge)
        (device.tpm / TPM).write_bytes(point.tpm)


def _since(before: list[int], now: list[int]) -> list[int]:
    return [n - then for then, n in zip(before, now, strict=True)]


def put(top: Path, tree: Tree, but: Sequence[Path] = ()) -> None:
    """These files and directories, and no others, but for links, and what is below `but`."""
    for path in sorted(read(top, but).keys() - tree.keys(), reverse=True):
        if (top / path).is_dir():
            shutil.rmtree(top / path)
        else:
            (top / path).unlink()
    for path, (mode, data) in sorted(tree.items()):
        if data is None:
            (top / path).mkdir(exist_ok=True)
        else:
            (top / path).write_bytes(data)
        (top / path).chmod(mode)
