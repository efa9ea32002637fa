"""The first two boots of a device that nobody touches, watched; most tests begin where it ends."""

from dataclasses import dataclass, field

from tests.lab import documented_ways
from tests.lab.world import World
from tests.vm import journal, sandbox
from tests.vm.fleet import PROVISIONED, Fleet, capture, keep
from tests.vm.journal import Journal
from tests.vm.machine import Machine
from tests.vm.shell import Done
from tests.vm.story import COMPANION, UNIT

SERIAL = "SN-0001"
AZIOT = "aziot-keyd aziot-certd aziot-identityd aziot-edged"
CRITICAL_CHAIN = "systemd-analyze critical-chain multi-user.target"
AFTER = "systemctl list-dependencies --after --plain multi-user.target"
TIMERS = "tpm2cloud-health.timer tpm2cloud-health-boot.timer tpm2cloud-health-clock.timer"
HEALTH = f"systemctl start {COMPANION}"  # and wait for its end
# What remedies need, in the sandbox that all our services have: a unit of our prefix gets it.
PROBE = """\
cat >/run/systemd/system/tpm2cloud-probe.service <<'END'
[Service]
Type=oneshot
ExecStart=/usr/bin/journalctl --quiet --grep=auto-renewed --unit=aziot-certd.service
ExecStart=/usr/bin/systemctl restart aziot-certd.service
END
systemctl start tpm2cloud-probe && systemctl show -p CapabilityBoundingSet tpm2cloud-probe"""
SUMMARY = "cat /run/tpm2cloud/health.json"
# What is asked in the guest once it says that it is provisioned.
QUESTIONS = (
    "systemctl is-system-running --wait",
    "systemctl --failed --no-legend --plain",
    "tpm2cloud status",
    f"systemctl show -p ActiveState -p NRestarts -p CPUUsageNSec {UNIT}",
    f"systemctl show -p Id -p ActiveState -p NRestarts {AZIOT}",
    "systemctl show -p ActiveEnterTimestampMonotonic --value multi-user.target",
    CRITICAL_CHAIN,
    AFTER,
    f"systemctl is-enabled {TIMERS}",
    f"systemctl is-active {TIMERS}",
    HEALTH,
    SUMMARY,
    PROBE,
    sandbox.ASK,
    sandbox.EXPOSURE,
    f"systemctl show -p Result -p ExecMainStatus -p CPUUsageNSec {COMPANION}",
)
CHECK = "tpm2cloud check"  # asks servers, which the second boot must not; its last questions are
# those of the documentation.


@dataclass
class Watched:
    """A machine that is off; its answers at each boot, and how many certificates the owner's CA had
    been asked for until then."""

    machine: Machine
    answers: list[dict[str, Done]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)

    def journal(self) -> Journal:
        return self._journal

    def boot(self, world: World) -> None:
        """Once: power on, wait, ask, power off."""
        machine = self.machine
        machine.power_on()
        machine.wait(PROVISIONED)
        more = documented_ways.booted() if self.answers else (CHECK,)
        questions = (*QUESTIONS, *more)
        self.answers.append({question: machine.shell(question) for question in questions})
        machine.power_off()
        self.asked.append(len(world.requests(world.owner_est)))
        self._journal = journal.journal(machine.disk, machine.directory / f"journal{machine.boots}")


def watch(fleet: Fleet) -> Watched:
    """Two boots."""
    watched = Watched(fleet.flash("first", SERIAL))
    try:
        for _ in range(2):
            watched.boot(fleet.world)
    finally:
        watched.machine.power_cut()
        keep(watched.machine, "straight")
    capture("provisioned", watched.answers[0]["tpm2cloud status"].output)
    return watched
