"""What comes after the first boot: more boots, and a new version of the package."""

import pytest

from tests.lab.world import World
from tests.vm import image, journal
from tests.vm.conftest import Twin, ours
from tests.vm.first import TIMERS, Watched
from tests.vm.fleet import PROVISIONED, capture
from tests.vm.story import UNIT, Story, complaints
from tests.vm.test_power_cut import issued
from tests.vm.test_trouble import ends_well, shows

pytestmark = pytest.mark.vm

STATE = "/var/lib/tpm2cloud /etc/tpm2cloud /etc/aziot /var/lib/aziot/certd /var/lib/aziot/keyd/keys"
SUMS = f"find {STATE} -type f ! -name log.jsonl -exec sha256sum {{}} + | sort -k 2"
UPGRADE = "DEBIAN_FRONTEND=noninteractive apt-get -q -y install /next.deb"


def test_ten_boots_do_nothing(twin: Twin, watched: Watched, world: World) -> None:
    machine = twin(watched.machine)  # has had two
    before, cpu = issued(world), []
    state = None
    for _ in range(8):
        machine.power_on()
        machine.wait(PROVISIONED)
        cpu.append(int(shows(machine, "CPUUsageNSec")[0]) / 1e9)
        now = machine.shell.output(SUMS)
        assert (state := state or now) == now
        machine.power_off()
    found = journal.journal(machine.disk, machine.directory / "journal")
    stories = [Story.of(found, boot) for boot in range(2, 11)]
    worked = [step.message for story in stories for step in story.steps if not step.was_done]
    assert worked == []
    assert complaints([entry for story in stories for entry in story.ours]) == []
    assert issued(world) == before
    capture("ten-boots", f"CPU time of {UNIT} in boots 3 to 10, seconds: {cpu}\n")


def test_an_upgrade_of_the_package_changes_nothing(twin: Twin, watched: Watched) -> None:
    machine = twin(watched.machine)
    image.inject(machine.disk, {"/next.deb": image.File(ours("+next").read_bytes())})
    machine.power_on()
    ends_well(machine)
    kept = "InvocationID", "ExecMainStartTimestampMonotonic", "ActiveState"
    sums, service = machine.shell.output(SUMS), shows(machine, *kept)
    machine.shell.output(UPGRADE)
    assert machine.shell.output("dpkg-query -W -f '${Version}' tpm2cloud").endswith("+next")
    assert machine.shell.output(SUMS) == sums
    assert shows(machine, *kept) == service
    assert machine.shell.output(f"systemctl is-active {TIMERS}").split() == ["active"] * 3
    machine.power_off()
    machine.power_on()
    ends_well(machine)
    assert machine.shell.output(SUMS) == sums
