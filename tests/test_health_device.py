"""The companion of a device without IoT Edge keeps it registered, and asks nobody without need."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.tpm import HUB_KEY, Tpm
from tests.lab.device import Device, Wish
from tests.lab.tools import Tools
from tests.lab.world import World
from tests.test_health_quiet import traced, written


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """Registered by its TPM."""
    with World(tmp_path / "world", hub=True) as world:
        world.dps.behave(polls=0, retry_after=0)
        wish = Wish(id="quiet", target="device", attestation="tpm")
        with Device(world, tmp_path / "device", wish) as made:
            done = made.agent("provision")
            assert done.returncode == 0, done.stderr
            yield made


def hub_key(device: Device) -> bytes | None:
    with Tpm(device.tcti) as tpm:
        found = tpm.public(HUB_KEY)
    return found.blob if found else None


def test_a_lost_hub_key_is_put_back_from_the_disk_and_dps_is_not_asked(
    device: Device, tmp_path: Path
) -> None:
    was, asked = hub_key(device), len(device.world.dps.requests())
    Tools(device.tcti, tmp_path)("evictcontrol", "-C", "o", "-c", hex(HUB_KEY))
    assert device.agent("needs-renewal").returncode == 0
    dry = device.agent("health", "--dry-run")
    assert "The registration of this device would be completed" in dry.stdout
    assert hub_key(device) is None
    done = device.agent("health")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The registration of this device was completed" in done.stdout
    assert hub_key(device) == was
    assert len(device.world.dps.requests()) == asked

    before = written(device.state)
    for verb, expected in {"health": 0, "needs-renewal": 1}.items():
        status, calls, network = traced(device, verb, "-f")
        assert (status, network) == (expected, [])
        assert any("tpm.sock" in call for call in calls)
    assert written(device.state) == before
