"""Power fails at some moment of a first boot; the next boot ends provisioned all the same."""

import random
import time

import pytest

from tests.lab.world import World
from tests.vm.conftest import Flash
from tests.vm.test_trouble import ends_well

pytestmark = pytest.mark.vm

US = r"tpm2cloud\[\d+\]: "
# When: what the console says, and how much longer to wait, at random, in seconds.
MOMENTS = {
    "unit-started": (r"Starting tpm2cloud-firstboot\.service", 6),
    "srk": (US + "srk .* done:", 0),
    "ldevid-key": (US + "ldevid-key .* done:", 0),
    "token": (US + "token .* done:", 0),
    "ldevid-cert": (US + "ldevid-cert .* done:", 0),
    "aziot-config": (US + "aziot-config .* done:", 0),
    "aziot-starts": (r"Started aziot-identityd\.service", 0),
    "operational-certificate": (r"Started aziot-keyd\.service", 10),
}


def issued(world: World) -> tuple[int, int]:
    """How many certificates the owner's CA issued (to us), and the operator's (to IoT Edge)."""
    return len(world.issued(world.owner_est)), len(world.issued(world.operations_est))


@pytest.mark.parametrize("moment", MOMENTS)
def test_power_fails(flash: Flash, world: World, moment: str) -> None:
    machine = flash(f"SN-{moment}")
    owner, operations = issued(world)
    pattern, longer = MOMENTS[moment]
    machine.power_on()
    machine.wait(pattern)
    time.sleep(random.uniform(0, longer))  # noqa: S311  (a power cut comes when it comes)
    machine.power_cut()
    machine.power_on()
    ends_well(machine)
    now = issued(world)
    # One, and one more if power failed just when it came.
    assert now[0] - owner in (1, 2)
    # IoT Edge has two: the one it renews with, the operational one. It does not sync its files, so
    # both may be lost, and be asked for again.
    assert now[1] - operations in (2, 3, 4)
