"""Scenes of the life of a device, and a device that can be put back to where one begins.

home = Home(tmp_path)
with home.world:
    home.make()
    home.prepare(SCENES["renewal"])
    for _ in range(10):
        with home.alive("renewal") as device:  # ten times the same morning
            device.agent("health")
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from tpm2_pytss.constants import TPM2_SU

from agent import aziot_identity
from agent.tpm import Tpm
from tests.lab import crash, edge, pki
from tests.lab.clock import Clock
from tests.lab.device import Device, Wish, merged
from tests.lab.world import World

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
SETTINGS = {"health": {"patience": "1s"}, "aziot": {"timeout": "10s"}, "ldevid": {"spread": "1%"}}
ENDS = (0, 3)  # how `health` may end, where nobody is needed


@dataclass(frozen=True)
class Scene:
    """`happens` to a device as the scene `after` left it, or to one that was just provisioned, and
    the next run of the companion deals with it. `expired`: the LDevID. `busy`: IoT Edge fails and
    tries again, and has keys and certificates of its own from that. `every`: of the places to
    cut it off, so many-th is enough for a test."""

    name: str
    happens: Callable[["Home", Device], None]
    after: str = "provisioned"
    settings: dict[str, Any] | None = None
    expired: bool = False
    busy: bool = False
    every: int = 1


def is_provisioned(home: "Home", device: Device) -> None:
    """All servers may be below the owner's CA, too."""
    home.world.operations_server.lifetime(40 * DAY)
    for name in ("est-ca.pem", "operational-ca.pem"):
        with (device.etc / name).open("ab") as file:
            file.write(pki.pem(home.world.owner_root.root))
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr


def hangs(home: "Home", device: Device) -> None:
    """The renewal of device-id, since the first day; est-id has renewed itself."""
    edge.broken(device, renewals={"device-id": "stuck"})
    home.until(37)
    edge.awaited(device, "renewed", cert="est-id")
    assert tended(device) == []
    home.clock.advance(HOUR)


def mismatches(home: "Home", device: Device) -> None:
    """The file of est-id is of another device."""
    home.until(37)
    is_renewed_by_itself(device)
    [path] = edge.certificates(device, "est-id")
    other = device.world.operations.issue(pki.new_key().public_key(), device.wish.id)
    path.write_bytes(pki.pem(other, *device.world.operations.chain))
    assert tended(device) == []
    home.clock.advance(HOUR)


def is_due(home: "Home", device: Device) -> None:
    """On day 65 of the LDevID's 90; IoT Edge's own are fresh."""
    home.until(37)
    is_renewed_by_itself(device)
    home.until(65)


def goes_on(home: "Home", device: Device) -> None:
    pass


def is_succeeded(home: "Home", device: Device) -> None:
    """The owner's CA; the servers of IoT Edge may be below it, so IoT Edge is told."""
    est = home.world.owner_server
    new = est.successor("Owner CA G2")
    est.announce(new)
    est.issue_from(new.authority)


def expires(home: "Home", device: Device) -> None:
    """The LDevID alone: the owner's server was away, the operator's was not. The CA is the old
    one."""
    est, owner = home.world.owner_server, home.world.owner
    est.issue_from(owner)
    est.cacerts(*owner.chain)
    home.until(72)
    is_renewed_by_itself(device, 2)
    home.until(95)


def lies_in_a_drawer(home: "Home", device: Device) -> None:
    """Everything has expired."""
    home.until(125)


def is_renewed_by_itself(device: Device, times: int = 1) -> None:
    for cert in ("est-id", "device-id"):
        edge.awaited(device, "renewed", times, cert=cert)


def tended(device: Device) -> list[str]:
    done = device.agent("health", "--json")
    assert done.returncode in ENDS, done.stderr
    actions: list[str] = json.loads(done.stdout)["actions"]
    return actions


_SCENES = [  # in this order: time goes on
    Scene("provisioned", is_provisioned, ""),
    Scene("restart", hangs, every=2),
    Scene("removal", mismatches, every=2),
    Scene("renewal", is_due),
    Scene("rekey", goes_on, "renewal", {"ldevid": {"rekey": True}}),
    Scene("roll-over", is_succeeded, "renewal"),
    Scene("recovery", expires, "renewal", expired=True),
    Scene("drawer", lies_in_a_drawer, "recovery", expired=True, busy=True, every=3),
]
SCENES = {scene.name: scene for scene in _SCENES}


def start(device: Device) -> None:
    """IoT Edge's services; what hung does so again."""
    hangs_on = device.edge / "broken.json"
    if hangs_on.exists():
        os.utime(hangs_on, (time.time() + 3600,) * 2)
    assert device.run(["iotedge", "system", "restart"]).returncode == 0
    aziot_identity.answer(device.socket, 1)
    if hangs_on.exists():
        os.utime(hangs_on)


# --- a device that is put back to where a scene begins ---


class Home:
    """A world with one device, in a time of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.clock = directory, Clock(directory / "clock")
        self.world = World(directory / "world", clock=self.clock, renewing=True)

    def until(self, day: int) -> None:
        """Of the device's life; unless it has come already."""
        left = self.born + day * DAY - self.clock.now()
        self.clock.advance(max(left, timedelta()))

    def make(self) -> None:
        self.born = self.clock.now()
        self.device = Device(self.world, self.directory / "device", Wish())
        self.device.configure(SETTINGS)
        shutil.copytree(self.device.directory, self._saved(""))

    def _saved(self, name: str) -> Path:
        return self.directory / f"saved-{name}"

    def put_back(self, saved: str) -> Device:
        """As it was when that was saved; switched off."""
        shutil.rmtree(self.device.directory)
        shutil.copytree(self._saved(saved), self.device.directory, symlinks=True)
        return self.device

    @contextmanager
    def alive(self, saved: str) -> Iterator[Device]:
        """As it was when that was saved; switched on, and IoT Edge at rest."""
        device = self.put_back(saved)
        try:
            device.power_on()
            if crash.is_configured(device):
                start(device)
            yield device
        finally:
            crash.kill_programs(device)
            device.power_cut()

    def save(self, name: str) -> None:
        """Switched off in good order."""
        device = self.device
        device.run(["iotedge", "system", "stop"])
        crash.kill_programs(device)
        with Tpm(device.tcti) as tpm:
            tpm.esys.shutdown(TPM2_SU.CLEAR)
        device.power_cut()
        leave = shutil.ignore_patterns("*.sock*", ".lock", "*.log")
        shutil.copytree(device.directory, self._saved(name), symlinks=True, ignore=leave)

    def prepare(self, scene: Scene) -> None:
        if self._saved(scene.name).exists():
            return
        if scene.after:
            self.prepare(SCENES[scene.after])
        with self.alive(scene.after) as device:
            device.configure(merged(SETTINGS, scene.settings or {}))
            scene.happens(self, device)
            self.save(scene.name)

    def issued(self) -> list[int]:
        """How many certificates so far, by the owner's CA and by the operator's."""
        world = self.world
        return [len(world.issued(site)) for site in (world.owner_est, world.operations_est)]
