"""One image, several boards; one disk, two boards."""

import shutil

import pytest
from cryptography import x509

from tests.lab.world import World
from tests.vm import image, journal
from tests.vm.conftest import Flash, Twin
from tests.vm.first import SERIAL, Watched
from tests.vm.fleet import ANOTHER_BOARD, PROVISIONED
from tests.vm.machine import Machine
from tests.vm.story import UNIT
from tests.vm.test_trouble import ends_well, shows, status

pytestmark = pytest.mark.vm

STOP = image.text('[device]\nmoved = "stop"\n')


def ldevid(machine: Machine) -> x509.Certificate:
    """The certificate on a disk that was unmounted."""
    with journal.of(machine.disk) as disk:
        return x509.load_pem_x509_certificates(disk.read("/var/lib/tpm2cloud/ldevid.pem"))[0]


def swap_board(machine: Machine, world: World, serial: str) -> None:
    """The disk goes into another board."""
    shutil.rmtree(machine.tpm)
    world.solder(ANOTHER_BOARD, machine.tpm)
    machine.serial = serial


def test_one_image_on_two_boards_makes_two_identities(
    flash: Flash, watched: Watched, world: World
) -> None:
    other = flash("SN-0002", board=ANOTHER_BOARD)
    other.power_on()
    ends_well(other)
    other.power_off()
    mine, its = ldevid(watched.machine), ldevid(other)
    assert mine.public_key() != its.public_key()
    assert [c.subject.rfc4514_string() for c in (mine, its)] == [f"CN={SERIAL}", "CN=SN-0002"]
    assert world.dps.assigned("SN-0002")


def test_a_disk_in_another_board_starts_over(twin: Twin, watched: Watched, world: World) -> None:
    machine = twin(watched.machine)
    swap_board(machine, world, "SN-MOVED")
    machine.power_on()
    machine.wait(r"tpm2cloud\[\d+\]: starting over: .* another TPM")
    ends_well(machine)
    status(machine, 0, "SN-MOVED")
    machine.power_off()
    mine, its = ldevid(watched.machine), ldevid(machine)
    assert mine.public_key() != its.public_key()
    assert its.subject.rfc4514_string() == "CN=SN-MOVED"
    assert world.dps.assigned("SN-MOVED")


def test_a_disk_in_another_board_stops_where_the_owner_wants_that(
    twin: Twin, watched: Watched, world: World
) -> None:
    machine = twin(watched.machine)
    image.inject(machine.disk, {"/etc/tpm2cloud/config.d/moved.toml": STOP})
    swap_board(machine, world, "SN-STOP")
    machine.power_on()
    machine.wait(r"tpm2cloud\[\d+\]: same-tpm: cannot use .*\[tpm-changed\]")
    machine.shell.output(f"until systemctl -q is-failed {UNIT}; do sleep 1; done")
    status(machine, 4, "[tpm-changed]", "Remedy: ")
    assert shows(machine, "ActiveState", "NRestarts") == ["failed", "0"]
    assert not world.dps.assigned("SN-STOP")

    machine.shell.output("rm /etc/tpm2cloud/config.d/moved.toml")
    machine.shell.output(f"systemctl --no-block restart {UNIT}")
    machine.wait(PROVISIONED)
    assert world.dps.assigned("SN-STOP")
