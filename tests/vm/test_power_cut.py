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


def issued(world: World) -> int:
    """How many certificates there are."""
    return sum(len(world.issued(site)) for site in (world.owner_est, world.operations_est))


@pytest.mark.parametrize("moment", MOMENTS)
def test_power_fails(flash: Flash, world: World, moment: str) -> None:
    machine = flash(f"SN-{moment}")
    before = issued(world)
    pattern, longer = MOMENTS[moment]
    machine.power_on()
    machine.wait(pattern)
    time.sleep(random.uniform(0, longer))  # noqa: S311  (a power cut comes when it comes)
    machine.power_cut()
    machine.power_on()
    ends_well(machine)
    # The LDevID's, that which renews the operational certificate, the operational one; and one that
    # was issued at the very moment.
    assert issued(world) - before <= 3 + 1
