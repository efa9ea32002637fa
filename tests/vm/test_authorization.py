"""Passwords of the TPM's hierarchies on a booted image, from its first boot to its reset."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.vm import image
from tests.vm.conftest import Flash
from tests.vm.fleet import PROVISIONED, capture
from tests.vm.golden import ETC
from tests.vm.machine import Machine
from tests.vm.story import COMPANION, UNIT
from tests.vm.test_trouble import ends_well, shows, status

pytestmark = pytest.mark.vm

ESCROW = f"{ETC}/escrow.pem"
KEPT = "/var/lib/tpm2cloud/authorization"
HOST_KEY = "/etc/systemd/system/tpm2cloud-.service.d/host-key.conf"
DROP_IN = "[Service]\nExecStartPre=+/usr/bin/systemd-creds setup\n"  # as the documentation has it
WAITS = r"tpm2cloud\[\d+\]: .*cannot provision this device by itself.*\[reset-waits\]"
FILES = {
    "sealed": {"owner.sealed", "endorsement.sealed", "lockout.sealed"},
    "credential": {"tpm-owner-auth", "tpm-endorsement-auth", "tpm-lockout-auth"},
}


def settings(keep: str) -> dict[str, object]:
    hierarchies = dict.fromkeys(("owner", "endorsement", "lockout"), "random")
    return {"tpm": {"authorization": {**hierarchies, "keep": keep, "escrow": ESCROW}}}


def escrow() -> image.File:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return image.File(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def lives(machine: Machine, keep: str) -> None:
    """Provisioned, with three passwords; the companion, too, is content, and so is a next boot."""
    machine.power_on()
    ends_well(machine)
    kept = set(machine.shell.output(f"ls {KEPT}").split())
    assert kept == FILES[keep] | {"escrow.cms", "escrow.json"}
    machine.shell.output(f"systemctl start {COMPANION}")
    assert shows(machine, "Result", unit=COMPANION) == ["success"]
    machine.power_off()
    machine.power_on()
    ends_well(machine)


@pytest.mark.parametrize("keep", FILES)
def test_a_device_lives_under_passwords_and_is_let_go(flash: Flash, keep: str) -> None:
    more = {ESCROW: escrow()} | ({HOST_KEY: image.text(DROP_IN)} if keep == "credential" else {})
    machine = flash(f"SN-{keep.upper()}", settings(keep), more=more)
    lives(machine, keep)

    said = machine.shell.output("tpm2cloud reset -y")
    capture(f"reset-{keep}", f"$ tpm2cloud reset -y\n{said}")
    assert "openssl ca -config CA.cnf -revoke" in said
    assert machine.shell(f"ls {KEPT}/*").status != 0  # and their passwords are taken back
    status(machine, 4, "[reset-waits]")
    machine.power_off()
    machine.power_on()
    machine.wait(WAITS)
    machine.shell.output(f"until systemctl -q is-failed {UNIT}; do sleep 1; done")
    assert shows(machine, "ExecMainStatus", "NRestarts") == ["78", "0"]

    machine.shell.output("tpm2cloud provision --again")
    machine.shell.output(f"systemctl restart {UNIT}")
    machine.wait(PROVISIONED)
    status(machine, 0, "This device is provisioned")
