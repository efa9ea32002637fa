"""A device that was provisioned once, to be taken from the shelf as often as a test wants.

shelf = Shelf(device)  # switches it off
with shelf.taken() as device:  # as it was, and when it was
    starts(device)  # IoT Edge
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab import crash
from tests.lab.clock import Clock
from tests.lab.device import Device


class Shelf:
    def __init__(self, device: Device, clock: Clock) -> None:
        """`clock`: put back each time to when this was made."""
        self._device, self._clock, self._now = device, clock, clock.now()
        device.run(["iotedge", "system", "stop"])
        crash.kill_programs(device)
        device.power_cut()
        self._kept = device.directory.with_name(f"{device.directory.name}-kept")
        leave = shutil.ignore_patterns("*.sock*", ".lock", "*.log")
        shutil.copytree(device.directory, self._kept, symlinks=True, ignore=leave)

    @contextmanager
    def taken(self) -> Iterator[Device]:
        self._clock.jump(self._now - self._clock.now())
        shutil.rmtree(self._device.directory)
        shutil.copytree(self._kept, self._device.directory, symlinks=True)
        try:
            self._device.power_on()
            yield self._device
        finally:
            crash.kill_programs(self._device)
            self._device.power_cut()


def starts(device: Device) -> None:
    """IoT Edge, as at a boot."""
    done = device.run(["systemctl", "start", "aziot-identityd", "aziot-edged"])
    assert done.returncode == 0, done.stderr
