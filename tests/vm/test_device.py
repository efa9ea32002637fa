"""A golden image without IoT Edge: whoever is flashed with it finds its hub, and sends it what
programs say. Nothing of IoT Edge is in the image, nobody touches the device before it is there."""

import base64
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.lab import swtpm
from tests.lab.factory import EK
from tests.lab.tools import Tools
from tests.lab.world import HOST, World
from tests.vm import journal
from tests.vm.conftest import ours
from tests.vm.first import HEALTH, SUMMARY, TIMERS
from tests.vm.fleet import BOARD, PROVISIONED, Fleet, capture, keep
from tests.vm.journal import Journal
from tests.vm.machine import Machine
from tests.vm.shell import Done
from tests.vm.story import COMPANION, UNIT, Story, complaints, seconds
from tests.vm.test_straight import shown

pytestmark = pytest.mark.vm

TELEMETRY, SOCKET = "tpm2cloud-telemetry.service", "tpm2cloud-telemetry.socket"
PIPE = "/run/tpm2cloud/telemetry"
STARTED = "39f53479d3a045ac8e11786248231fbf"  # SD_MESSAGE_UNIT_STARTED
FAILED = "systemctl --failed --no-legend --plain"
RUNNING = "systemctl is-system-running --wait"
STATUS = "tpm2cloud status"
STATE = f"systemctl show -p ActiveState -p NRestarts -p StatusText {UNIT}"
EDGE = "dpkg-query -W -f '${Package} ${Status}\\n' | grep -E 'aziot|iotedge|moby'; ls -d /etc/aziot"
ENABLED = f"systemctl is-enabled {SOCKET}; ls {PIPE}"
ENABLE = f"systemctl enable --now {SOCKET}"
EXPOSURE = f"systemd-analyze security --no-pager {TELEMETRY}"
SENDER = f"systemctl show -p ActiveState -p NRestarts -p StatusText -p Result {TELEMETRY}"
LOOKED_AFTER = f"systemctl show -p Result -p ExecMainStatus {COMPANION}"
ALIVE = (RUNNING, FAILED, STATUS, STATE)
BEFORE = (*ALIVE, EDGE, ENABLED, f"systemctl is-active {TIMERS}")
AFTER = (SENDER, EXPOSURE, HEALTH, LOOKED_AFTER, SUMMARY, FAILED)
# All at once, and all want the TPM: its resource manager keeps them apart.
CROWD = f"{STATUS} >/dev/null & {HEALTH} & systemctl restart {TELEMETRY} & {STATUS} & wait"

FIRST = ['{"temperature": 21.5}', "a line of text", "ünïcödé"]
WHILE_RESTARTED = [json.dumps({"number": number}) for number in range(20)]
LATER = ["after the second boot"]

WITHOUT_EDGE: dict[str, Any] = {"device": {"target": "device"}, "operational": None}
SETTINGS: dict[str, dict[str, Any]] = {
    "tpm": {"ldevid": None, "dps": {"attestation": "tpm", "fleet": 1}},
    "x509": {},
}

# None of IoT Edge's. By TPM there is nothing that ends: the system's CAs are the system's.
CERTIFICATES: dict[str, list[str]] = {
    "tpm": [],
    "x509": ["ldevid", "idevid", "idevid.trust", "ldevid.est.trust", "ldevid.est.issuer"],
}


@dataclass
class Lived:
    """A device that has been through two boots, and is off: what it answered in each, what DPS and
    the hub had been asked by the end of each."""

    attestation: str
    machine: Machine
    town: World
    answers: list[dict[str, Done]] = field(default_factory=list)
    asked: list[list[str]] = field(default_factory=list)
    logins: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.machine.serial

    def journal(self) -> Journal:
        return self._journal

    def messages(self) -> list[str]:
        """Each once; sent at least once."""
        return list(dict.fromkeys(m["text"] for m in self.town.hub.messages(self.name)))

    def boot(self) -> dict[str, Done]:
        """Until it has a hub."""
        self.machine.power_on()
        self.machine.wait(PROVISIONED)
        self.answers.append({})
        return self.answers[-1]

    def ask(self, *questions: str) -> None:
        self.answers[-1] |= {each: self.machine.shell(each) for each in questions}

    def count(self) -> None:
        """What it has cost the cloud until now."""
        self.asked.append([each["step"] for each in self.town.dps.requests(self.name)])
        self.logins.append(len(self.town.hub.connections(self.name)))

    def send(self, lines: list[str], meanwhile: str = ":") -> None:
        """A program writes them, each by itself, and they arrive."""
        words = " ".join(shlex.quote(line) for line in lines)
        told = f'for line in {words}; do echo "$line" >{PIPE}; done'
        self.machine.shell.output(f"{meanwhile} & {told}; wait $!")
        self.town.hub.wait(lambda: set(lines) <= set(self.messages()))

    def off(self) -> None:
        self.machine.power_off()
        at = self.machine.directory / f"journal{self.machine.boots}"
        self._journal = journal.journal(self.machine.disk, at)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Its hub has a name that devices know."""
    with World(tmp_path_factory.mktemp("town") / "world", hub=HOST) as town:
        yield town


@pytest.fixture(scope="module")
def line(town: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Of all packages that are not Debian's, the image has ours alone."""
    directory = tmp_path_factory.mktemp("line")
    yield Fleet(town, directory, [ours()], kind="device")
    shutil.rmtree(directory)


@pytest.fixture(scope="module", params=["tpm", "x509"])
def lived(
    request: pytest.FixtureRequest, town: World, line: Fleet, tmp_path_factory: Any
) -> Iterator[Lived]:
    attestation = str(request.param)
    changes = WITHOUT_EDGE | SETTINGS[attestation]
    machine = line.flash(attestation, f"SN-{attestation.upper()}", changes)
    device = Lived(attestation, machine, town)
    if attestation == "tpm":
        town.dps.enrol_tpm(device.name, endorsement_key(town, tmp_path_factory.mktemp("ek")))
    try:
        two_boots(device)
    finally:
        machine.power_cut()
        keep(machine, f"device-{attestation}")
    capture(f"device-{attestation}", device.answers[0][STATUS].output)
    yield device
    shutil.rmtree(machine.directory)


def endorsement_key(town: World, at: Path) -> bytes:
    """As the factory would read it on the line: the same of every such board here."""
    town.solder(BOARD, at / "tpm")
    with swtpm.running(at / "tpm") as tcti:
        Tools(tcti, at)("readpublic", "-c", EK, "-o", "ek.pub")
    return (at / "ek.pub").read_bytes()


def two_boots(device: Lived) -> None:
    device.boot()
    device.ask(*BEFORE)
    device.count()
    device.ask(ENABLE)
    device.send(FIRST)
    device.ask(*AFTER)
    device.send(WHILE_RESTARTED, meanwhile=f"systemctl restart {TELEMETRY}")
    device.ask(CROWD)
    device.off()

    device.boot()
    device.ask(*ALIVE)
    device.count()
    device.send(LATER)
    device.ask(*AFTER)
    device.off()


# --- it finds its hub ---


def test_our_package_needs_none_of_iot_edge(lived: Lived) -> None:
    said = lived.answers[0][EDGE].output
    assert said.split(":")[0] == "ls", said  # nothing but that there is no directory


@pytest.mark.parametrize("boot", [0, 1])
def test_it_has_a_hub_and_no_unit_failed(lived: Lived, boot: int) -> None:
    answers = lived.answers[boot]
    assert answers[STATUS].status == 0, answers[STATUS].output
    place = f"device '{lived.name}' at hub '{HOST}'"
    assert re.search(rf"registration +done +{place}", answers[STATUS].output)
    assert "This device is provisioned" in answers[STATUS].output
    assert (answers[FAILED].output, answers[RUNNING].output.strip()) == ("", "running")
    [unit] = shown(answers[STATE].output)
    assert (unit["ActiveState"], unit["NRestarts"]) == ("active", "0")


@pytest.mark.parametrize("boot", [1, 2])
def test_its_unit_is_ready_when_the_hub_has_let_it_in_and_not_before(
    lived: Lived, boot: int
) -> None:
    found = lived.journal()
    [ready] = found.entries(f"--boot={boot}", f"MESSAGE_ID={STARTED}", f"UNIT={UNIT}")
    story = Story.of(found, boot)
    assert story.steps[-1].name == "registration"
    assert seconds(ready) - story.began > story.steps[-1].at


def test_the_first_boot_asks_dps_once_and_the_second_one_nobody(lived: Lived) -> None:
    asked = lived.asked[0]
    by_tpm = ["challenge"] if lived.attestation == "tpm" else []
    assert asked[: len(by_tpm) + 1] == [*by_tpm, "register"]
    assert set(asked[len(by_tpm) + 1 :]) == {"operation"}
    assert lived.asked[1] == asked
    assert lived.logins[0] == 1
    second = Story.of(lived.journal(), 2)
    assert [step.message for step in second.steps if not step.was_done] == []


def test_nobody_is_let_in_by_anything_but_what_is_in_the_tpm(lived: Lived) -> None:
    by = {"tpm": "token", "x509": "certificate"}[lived.attestation]
    seen = lived.town.hub.connections(lived.name)
    assert {(each["by"], each["accepted"]) for each in seen} == {(by, True)}, seen


# --- it sends what programs say ---


def test_nothing_waits_for_lines_unless_somebody_has_enabled_that(lived: Lived) -> None:
    said = lived.answers[0][ENABLED].output
    assert said.splitlines()[0] == "disabled", said
    assert "No such file" in said


def test_every_line_arrives_in_order_through_a_restart_and_after_another_boot(lived: Lived) -> None:
    assert lived.messages() == [*FIRST, *WHILE_RESTARTED, *LATER]
    kinds = {m["text"]: m["properties"]["$.ct"] for m in lived.town.hub.messages(lived.name)}
    assert kinds[FIRST[0]] == "application/json"
    assert kinds[FIRST[1]] == "text/plain"


def test_what_it_counts_as_acknowledged_is_all_of_that(lived: Lived) -> None:
    told = [e["MESSAGE"] for e in lived.journal().entries(f"--unit={TELEMETRY}")]
    counted = [int(m[1]) for each in told if (m := re.fullmatch(r"(\d+) acknowledged", each))]
    assert sum(counted) == len(lived.town.hub.messages(lived.name)), told


@pytest.mark.parametrize("boot", [0, 1])
def test_its_service_runs_within_its_sandbox(lived: Lived, boot: int) -> None:
    answers = lived.answers[boot]
    [unit] = shown(answers[SENDER].output)
    assert (unit["ActiveState"], unit["NRestarts"], unit["Result"]) == ("active", "0", "success")
    assert unit["StatusText"] == f"connected to {HOST}"
    [level] = re.findall(r"Overall exposure level .*: ([0-9.]+)", answers[EXPOSURE].output)
    assert float(level) <= 1.5, answers[EXPOSURE].output


# --- it is looked after ---


@pytest.mark.parametrize("boot", [0, 1])
def test_the_companion_finds_all_well_from_within_its_sandbox(lived: Lived, boot: int) -> None:
    answers = lived.answers[boot]
    assert answers[HEALTH].status == 0, answers[HEALTH].output
    [unit] = shown(answers[LOOKED_AFTER].output)
    assert (unit["Result"], unit["ExecMainStatus"]) == ("success", "0")
    seen = json.loads(answers[SUMMARY].output)
    assert seen["state"] == "well", seen
    states = {each["name"]: each["state"] for each in seen["certificates"]}
    assert states == dict.fromkeys(CERTIFICATES[lived.attestation], "fresh"), seen


def test_who_wants_the_tpm_at_the_same_time_gets_it(lived: Lived) -> None:
    said = lived.answers[0][CROWD].output
    assert "This device is provisioned" in said, said


def test_nothing_is_complained_of(lived: Lived) -> None:
    found = lived.journal()
    assert complaints(found.entries("--identifier=tpm2cloud")) == []
    assert complaints(found.entries(f"--unit={UNIT}", f"--unit={TELEMETRY}")) == []
    assert complaints(found.entries(f"--unit={COMPANION}")) == []


def test_no_key_and_no_token_is_in_the_journal(lived: Lived) -> None:
    text = lived.journal().text("--output=export", "--all")
    assert len(text) > 100_000
    secret = [r"SharedAccessSignature", r"\bsig=", r"PRIVATE KEY"]
    if key := lived.town.dps.devices(HOST)[lived.name]["key"]:
        secret += [re.escape(key), base64.b64decode(key).hex()]
    assert [each for each in secret if re.search(each, text)] == []
