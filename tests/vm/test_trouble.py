"""First boots that something is wrong with; each ends provisioned, once it is right."""

import pytest

from tests.lab.world import HOST, World
from tests.vm.conftest import Flash
from tests.vm.fleet import PROVISIONED, capture
from tests.vm.machine import Machine
from tests.vm.story import UNIT

pytestmark = pytest.mark.vm

TYPO = {"ldevid": {"est": {"ulr": "https://cloud.lab.test/", "url": None}}}
ADMIN = "sed -i 's|^ulr = .*|url = \"{url}\"|' /etc/tpm2cloud/config.toml"


def shows(machine: Machine, *properties: str, unit: str = UNIT) -> list[str]:
    """What `systemctl show` says of a unit."""
    wanted = "".join(f" -p {each}" for each in properties)
    said = machine.shell.output(f"systemctl show{wanted} {unit}").splitlines()
    values = dict(line.split("=", 1) for line in said)
    return [values[each] for each in properties]


def status(machine: Machine, exit_status: int, *words: str) -> str:
    """What `tpm2cloud status` shows on the device, which ends so and has these words in it."""
    done = machine.shell("tpm2cloud status")
    assert done.status == exit_status, done.output
    assert [word for word in words if word not in done.output] == [], done.output
    return done.output


def ends_well(machine: Machine) -> None:
    machine.wait(PROVISIONED)
    status(machine, 0, "This device is provisioned")
    assert machine.shell.output("systemctl --failed --no-legend --plain") == ""


def test_a_network_that_comes_late(flash: Flash) -> None:
    machine = flash("SN-LATE")
    machine.power_on(link=False)
    machine.shell.output("until systemctl list-jobs | grep -q 'wait-online.* running'; do :; done")
    assert UNIT in machine.shell.output("systemctl list-jobs --no-legend")
    status(machine, 3, "ldevid-cert   to do")
    machine.link(up=True)
    ends_well(machine)


def test_a_cable_that_is_pulled(flash: Flash) -> None:
    machine = flash("SN-PULL")
    machine.power_on()
    machine.wait(r"tpm2cloud\[\d+\]: tpm .* done")
    machine.link(up=False)
    machine.wait(r"tpm2cloud\[\d+\]: ldevid-cert: cannot .*cloud\.lab\.test.*\[unreachable\]")
    status(machine, 3, "it is tried again", "[unreachable]", HOST)
    machine.link(up=True)
    ends_well(machine)


def test_an_est_server_that_is_down(flash: Flash, world: World) -> None:
    machine = flash("SN-DOWN")
    with world.without_est():
        machine.power_on()
        machine.wait(r"tpm2cloud\[\d+\]: ldevid-cert: cannot .*\[unreachable\]")
        machine.shell.output("until systemctl -q is-active multi-user.target; do sleep 1; done")
        said = status(machine, 3, "it is tried again", "[unreachable]", HOST, "Remedy: ")
        assert shows(machine, "ActiveState") == ["activating"]  # it goes on trying
        assert machine.shell.output("systemctl --failed --no-legend --plain") == ""
        systemctl = machine.shell(f"systemctl status --no-pager --full {UNIT}").output
        capture("waiting-for-est", f"$ tpm2cloud status\n{said}\n$ systemctl status\n{systemctl}")
    ends_well(machine)


def test_a_wrong_configuration(flash: Flash, world: World) -> None:
    machine = flash("SN-TYPO", TYPO, linted=False)
    machine.power_on()
    machine.wait(r"ldevid\.est\.ulr: unknown setting, did you mean url\?")
    machine.shell.output(f"until systemctl -q is-failed {UNIT}; do sleep 1; done")
    said = shows(machine, "ActiveState", "ExecMainStatus", "NRestarts")
    assert said == ["failed", "78", "0"]  # and no other try is planned
    said_status = machine.shell("tpm2cloud status")
    assert (said_status.status, "ldevid.est.ulr" in said_status.output) == (78, True)
    systemctl = machine.shell(f"systemctl status --no-pager --full {UNIT}").output
    text = f"$ tpm2cloud status\n{said_status.output}\n$ systemctl status\n{systemctl}"
    capture("wrong-configuration", text)

    url = world.owner_est.url("mtls").replace("localhost", HOST)
    machine.shell.output(ADMIN.format(url=url))
    machine.shell.output(f"systemctl --no-block restart {UNIT}")
    ends_well(machine)
