"""The time of a lab: runs like ours, and can be put forward by months from one moment to the next.

    clock = Clock(tmp_path)
    with World(tmp_path / "world", clock=clock) as world, Device(world, tmp_path / "device") as d:
        d.agent("provision")
        clock.advance(timedelta(days=60))
        d.agent("health")  # it is two months later: for the agent, OpenSSL, servers and IoT Edge
        d.run(["date"], env=...)  # any program of the device is in the same time

Programs that ask libc live in it by a preloaded library (tests/lab/preload); those of Go, which do
not, read the file themselves. The clock that programs wait by is left alone, so nobody's patience
ends because time is put forward: it is as if the machine had slept.
"""

import os
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path

LIBRARY = Path(__file__).parents[2] / ".lab" / "bin" / "libclock.so"
LAYOUT = struct.Struct("=qq")  # seconds that the wall clock, and the time since boot, is ahead


class Clock:
    """A clock in a file; it starts as our own. Any number of programs may read it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.file = directory / "clock"
        self.file.write_bytes(LAYOUT.pack(0, 0))

    def advance(self, by: timedelta) -> None:
        """Time passes, all at once; whole seconds. CLOCK_BOOTTIME has it too."""
        self._add(by, by)

    def jump(self, by: timedelta) -> None:
        """The wall clock is set, forward or back; no time passes."""
        self._add(by, timedelta())

    def _add(self, wall: timedelta, boot: timedelta) -> None:
        ahead = zip(self._ahead(), (wall, boot), strict=True)
        new = LAYOUT.pack(*(round(was + by.total_seconds()) for was, by in ahead))
        with self.file.open("r+b", buffering=0) as file:  # in place: readers have it mapped
            file.write(new)

    def _ahead(self) -> tuple[int, int]:
        wall, boot = LAYOUT.unpack(self.file.read_bytes())
        return wall, boot

    def now(self) -> datetime:
        """What the wall clock says, UTC; whatever time this process lives in."""
        return Clock.unset() + timedelta(seconds=self._ahead()[0])

    @staticmethod
    def unset() -> datetime:
        """What the clock of the machine says, whatever time this process lives in."""
        if "LAB_CLOCK" not in os.environ:
            return datetime.now(UTC)
        ours, _ = LAYOUT.unpack(Path(os.environ["LAB_CLOCK"]).read_bytes())
        return datetime.now(UTC) - timedelta(seconds=ours)

    def environment(self) -> dict[str, str]:
        """For a program that is to live in this time."""
        assert LIBRARY.exists(), "run ./tests/setup first"
        return {"LD_PRELOAD": str(LIBRARY), "LAB_CLOCK": str(self.file)}


def environment(clock: Clock | None) -> dict[str, str] | None:
    """That of a server of ours in this time; None is the environment as it is."""
    return None if clock is None else {**os.environ, **clock.environment()}
