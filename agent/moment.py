"""Now, on clocks that nobody sets: which boot this is, and how long it has lasted."""

import time
from dataclasses import dataclass
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Moment:
    """`boot_id`: of this boot, of no other (boot_id of random(4)); `uptime`: its seconds."""

    boot_id: str
    uptime: float


def moment() -> Moment:
    """Now: CLOCK_BOOTTIME goes on while the machine sleeps, and nobody sets it."""
    return Moment(BOOT_ID.read_text().strip(), time.clock_gettime(time.CLOCK_BOOTTIME))
