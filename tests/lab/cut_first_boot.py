"""First boots with IoT Edge that are cut off: fresh devices, one after the other, in one world."""

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab import crash, edge, instant, pki
from tests.lab.crash import Place
from tests.lab.cuts import Cut
from tests.lab.device import Device, Wish
from tests.lab.finished import differences, end
from tests.lab.instant import Bounds, Snapshot
from tests.lab.world import World

LATER = 75


class FirstBoot:
    """How a device is when all went well, and devices to try it on. A Moment is so long after the
    agent began to call `iotedge`."""

    def __init__(self, world: World, directory: Path, wish: Wish, settings: str = "") -> None:
        """`settings`: what the device's owner left in IoT Edge's config.toml."""
        self.world, self.directory, self.wish = world, directory, wish
        self._settings, self._trace = settings, directory / "trace"
        before = self._issued()
        with self._device() as device:
            fresh = Snapshot.of(device)
            self.places: list[Place] = crash.places(device, self._trace)
            self.undisturbed = end(device)
            self._bounds = Bounds.of(fresh, Snapshot.of(device))
        self._needed = self._issued_since(before)

    @contextmanager
    def _device(self) -> Iterator[Device]:
        """Fresh from the factory."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        device = Device(self.world, self.directory / "device", self.wish)
        if self._settings:
            pki.write_private(device.aziot / "config.toml", self._settings.encode())
        try:
            with device:
                if self.wish.attestation == "tpm":
                    device.enrol()
                yield device
        finally:
            crash.kill_programs(device)

    def _issued(self) -> list[int]:
        """Certificates of either CA, and whole registrations."""
        world = self.world
        certificates = [len(world.issued(site)) for site in (world.owner_est, world.operations_est)]
        return [*certificates, len(world.dps.assigned(self.wish.id))]

    def _issued_since(self, before: list[int]) -> list[int]:
        return [now - then for now, then in zip(self._issued(), before, strict=True)]

    def survives(self, cut: Cut) -> bool:
        before = self._issued()
        with self._device() as device:
            just = self._cut_off(device, cut)
            tries = 0
            if cut.power:
                device.power_cut()
                crash.kill_programs(device)
                device.power_on()
                tries = counted(device)
            instant.right(device, self._bounds, tries=tries)
            if cut.power:
                crash.services(device)
            recover(device)
            self._finished(device)
            instant.right(device, self._bounds, tries=tries)
        issued = zip(self._issued_since(before), self._needed, strict=True)
        extra = [found - needed for found, needed in issued]
        beyond = f"certificates, registrations beyond what is needed: {extra}"
        assert set(extra[:-1]) <= {0, 1}, beyond
        # When the power is back, IoT Edge registers by the TPM by itself, before it is asked to.
        by_itself = cut.power and self.wish.attestation == "tpm"
        assert extra[-1] in range(3 if by_itself else 2), beyond
        return just

    def _finished(self, device: Device) -> None:
        """What IoT Edge's service for the TPM has loaded at this moment goes by itself."""

        def at_work() -> bool:
            found[:] = differences(end(device), self.undisturbed)
            return bool(found) and all(each.startswith("loaded") for each in found)

        found = list[str]()
        with contextlib.suppress(AssertionError):
            edge.until(lambda: not at_work())
        assert not found, found

    def _cut_off(self, device: Device, cut: Cut) -> bool:
        if isinstance(cut.at, Place):
            return crash.kill_at(device, cut.at, self._trace) == cut.at.what
        crash.kill_amid(device, "aziot-config", cut.at.seconds)
        return True

    def said(self) -> str:
        return crash.iotedge_said(self.directory / "device")


def counted(device: Device) -> int:
    """How many failed tries the TPM may count for a power cut: if a key with dictionary attack
    protection was in use, it counts one (TPM 2.0 Library, part 1, 19.8.6). Ours have none, the key
    service's own have."""
    return int(crash.is_configured(device))


def recover(device: Device) -> None:
    """Run the agent until it is content, then once more; and ask it."""
    for _ in range(3):
        run = device.agent("provision")
        if run.returncode != LATER:
            break
    assert run.returncode == 0, run.stderr
    again = device.agent("provision")
    assert again.returncode == 0, again.stderr
    assert all("already done" in line for line in again.stderr.splitlines()), again.stderr
    asked = device.agent("status")
    assert asked.returncode == 0, asked.stdout + asked.stderr
