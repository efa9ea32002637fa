"""A golden image of packages, flashed onto a board with a TPM; nobody touches it."""

import errno
import json
import os
import re
import sys
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.lab import documented_ways
from tests.lab.world import World
from tests.vm import journal, sandbox
from tests.vm.first import (
    AFTER,
    AZIOT,
    CHECK,
    CRITICAL_CHAIN,
    HEALTH,
    PROBE,
    SERIAL,
    SUMMARY,
    TIMERS,
    Watched,
)
from tests.vm.rootfs import CACHE
from tests.vm.story import COMPANION, UNIT, Story, complaints

STATE = f"systemctl show -p ActiveState -p NRestarts -p CPUUsageNSec {UNIT}"


def shown(output: str) -> list[dict[str, str]]:
    """What `systemctl show` says: a block for each unit."""
    blocks = output.strip().split("\n\n")
    return [dict(line.split("=", 1) for line in block.splitlines()) for block in blocks]


def evidence(watched: Watched, service: str) -> list[dict[str, Any]]:
    """What a service of IoT Edge wrote down of its own doing."""
    with journal.of(watched.machine.disk) as disk:
        lines = disk.read(f"/var/lib/aziot/{service}/log.jsonl").decode().splitlines()
    return [json.loads(line) for line in lines]


def test_it_ends_provisioned(watched: Watched) -> None:
    status = watched.answers[0]["tpm2cloud status"]
    assert status.status == 0, status.output
    assert "This device is provisioned" in status.output
    [unit] = shown(watched.answers[0][STATE].output)
    assert (unit["ActiveState"], unit["NRestarts"]) == ("active", "0")


def test_the_doctor_finds_nothing_wrong(watched: Watched) -> None:
    """Systemd's own word for the units, and the servers, from a shell."""
    done = watched.answers[0][CHECK]
    assert done.status == 0, done.output
    assert "Nothing is wrong with this device." in done.output
    assert re.search(r"\nunits +fine +tpm2cloud-firstboot.service, .* are enabled", done.output)


def test_the_cloud_knows_it_by_its_serial_number(watched: Watched, world: World) -> None:
    assigned = world.dps.assigned(SERIAL)
    assert {a["subject"] for a in assigned} == {f"CN={SERIAL}"}
    assert {a["issuer"] for a in assigned} == {"CN=Operations CA"}


def test_iot_edge_says_the_same(watched: Watched) -> None:
    provisioned = [e for e in evidence(watched, "identityd") if e["event"] == "provisioned"]
    assert {e["registration"] for e in provisioned} == {SERIAL}
    issued = [e for e in evidence(watched, "certd") if e["event"] == "issued"]
    assert {e["subject"] for e in issued} == {f"CN={SERIAL}"}
    signed = [e for e in evidence(watched, "keyd") if e["event"] == "signed"]
    assert {e["through"] for e in signed} == {"pkcs11"}  # so the keys are in the token


def test_its_ldevid_certificate_is_its_own(watched: Watched) -> None:
    with journal.of(watched.machine.disk) as disk:
        certificates = disk.read("/var/lib/tpm2cloud/ldevid.pem")
    certificate = x509.load_pem_x509_certificates(certificates)[0]
    [name] = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == SERIAL


@pytest.mark.parametrize("boot", [0, 1])
def test_no_unit_failed(watched: Watched, boot: int) -> None:
    answers = watched.answers[boot]
    assert answers["systemctl --failed --no-legend --plain"].output == ""
    assert answers["systemctl is-system-running --wait"].output.strip() == "running"


@pytest.mark.parametrize("boot", [0, 1])
def test_no_service_crashed(watched: Watched, boot: int) -> None:
    [question] = [q for q in watched.answers[boot] if AZIOT in q]
    units = shown(watched.answers[boot][question].output)
    assert [(u["ActiveState"], u["NRestarts"]) for u in units] == [("active", "0")] * 4, units


def test_nothing_is_complained_of(watched: Watched) -> None:
    found = watched.journal()
    ours = found.entries("--identifier=tpm2cloud")
    of_systemd = found.entries(f"--unit={UNIT}", "--unit=aziot-*")
    assert complaints(ours + of_systemd) == []


@pytest.mark.parametrize("boot", [0, 1])
def test_the_boot_does_not_wait_for_us(watched: Watched, boot: int) -> None:
    answers = watched.answers[boot]
    chain, after = answers[CRITICAL_CHAIN].output, answers[AFTER].output
    assert "multi-user.target @" in chain
    named = set(re.findall(r"[\w.-]+", chain + after))
    assert named.isdisjoint({UNIT, "tpm2cloud.target"}), chain + after


def test_the_time_it_takes_is_in_the_journal(watched: Watched) -> None:
    first, second = (Story.of(watched.journal(), boot) for boot in (1, 2))
    chain, cpu = (watched.answers[0][CRITICAL_CHAIN].output, shown_cpu(watched))
    text = f"First boot\n{first.table()}\n\n{chain}\nSecond boot\n{second.table()}\n{cpu}\n"
    (CACHE / "straight" / "timing.txt").write_text(text)
    sys.stdout.write(text)
    assert [s.name for s in first.steps] == [s.name for s in second.steps]


def shown_cpu(watched: Watched) -> str:
    return f"CPU time of {UNIT}: " + ", ".join(
        f"{int(shown(answers[STATE].output)[0]['CPUUsageNSec']) / 1e9:.1f} s"
        for answers in watched.answers
    )


def test_the_second_boot_finds_everything_done(watched: Watched) -> None:
    """But for an identity service that takes longer to start, on a busy machine, than a look at it
    may: that is waited for, and nobody is asked."""
    second = Story.of(watched.journal(), 2)
    not_done = [step.message for step in second.steps if not step.was_done]
    assert [message for message in not_done if not message.startswith("registration ")] == []
    assert watched.asked[1] == watched.asked[0]
    assert watched.answers[1]["tpm2cloud status"].status == 0


def test_what_the_documentation_says_to_ask_is_answered(watched: Watched) -> None:
    """Systemd and its journal, with our units and our entries in them."""
    asked = documented_ways.booted()
    assert len(asked) > 5
    for question, how in asked.items():
        done = watched.answers[1][question]
        assert done.status == how.status, (question, done.output)
    explained = watched.answers[1]["journalctl -x -u tpm2cloud-firstboot"].output
    assert "Defined-By: tpm2cloud" in explained


# --- its certificates are looked after ---


@pytest.mark.parametrize("boot", [0, 1])
def test_the_timers_of_the_companion_are_enabled_and_active(watched: Watched, boot: int) -> None:
    answers = watched.answers[boot]
    assert answers[f"systemctl is-enabled {TIMERS}"].output.split() == ["enabled"] * 3
    assert answers[f"systemctl is-active {TIMERS}"].output.split() == ["active"] * 3


@pytest.mark.parametrize("boot", [0, 1])
def test_the_companion_finds_all_certificates_fresh_from_within_its_sandbox(
    watched: Watched, boot: int
) -> None:
    answers = watched.answers[boot]
    assert answers[HEALTH].status == 0, answers[HEALTH].output
    [question] = [q for q in answers if COMPANION in q and "-p Result" in q]
    [unit] = shown(answers[question].output)
    assert (unit["Result"], unit["ExecMainStatus"]) == ("success", "0")
    seen = json.loads(answers[SUMMARY].output)
    assert seen["state"] == "well", seen
    states = {each["name"]: each["state"] for each in seen["certificates"] if each["needed"]}
    assert {"ldevid", "idevid", "device-id"} <= states.keys()
    assert set(states.values()) == {"fresh"}, states
    assert seen["services"]["aziot-certd"].startswith("active")
    assert (seen["data"]["sent"], seen["data"]["received"]) == (0, 0)


def test_from_within_that_sandbox_it_can_read_the_journal_and_restart_services(
    watched: Watched,
) -> None:
    probe = watched.answers[0][PROBE]
    assert probe.status == 0, probe.output
    assert probe.output.strip() == "CapabilityBoundingSet=cap_chown cap_dac_override cap_fowner"


def test_it_says_nothing_where_nothing_changes_and_asks_no_server(watched: Watched) -> None:
    """One run per boot; all was well at the first one already."""
    told = watched.journal().entries("--identifier=tpm2cloud", f"--unit={COMPANION}")
    assert [entry["MESSAGE"] for entry in told] == []
    assert watched.asked[1] == watched.asked[0]


# --- each side of it has what it needs, and no more ---


@pytest.mark.parametrize("boot", [0, 1])
def test_the_side_with_the_tpm_has_no_network(watched: Watched, boot: int) -> None:
    said = watched.answers[boot][sandbox.ASK]
    tpm, _ = sandbox.tried(said.output)
    assert (tpm["/dev/tpmrm0"], tpm["/var/lib/tpm2cloud/ldevid.pem"]) == ("yes", "yes")
    no = os.strerror(errno.EAFNOSUPPORT)
    assert (tpm["socket"], tpm["packet"], tpm["connect"]) == (no, no, no), tpm
    assert tpm["cards"] == ["lo"]


@pytest.mark.parametrize("boot", [0, 1])
def test_the_side_with_the_network_has_no_tpm_no_secret_and_no_file_of_ours(
    watched: Watched, boot: int
) -> None:
    said = watched.answers[boot][sandbox.ASK]
    _, network = sandbox.tried(said.output)
    assert (network["socket"], network["connect"]) == ("yes", "yes"), network
    assert len(network["cards"]) > 1
    shut = {name: said for name, said in network.items() if name.startswith("/")}
    assert len(shut) > 5
    assert "yes" not in {*shut.values(), network["packet"], network["bus"], network["write"]}
    assert network["uid"] > 0
    assert network["secrets"] is None


@pytest.mark.parametrize("boot", [0, 1])
def test_the_exposure_of_each_is_at_most_one_and_a_half(watched: Watched, boot: int) -> None:
    said = watched.answers[boot][sandbox.EXPOSURE].output
    levels = re.findall(r"Overall exposure level for (\S+): ([0-9.]+)", said)
    assert [unit for unit, _ in levels] == [*sandbox.UNITS], said
    assert all(float(level) <= 1.5 for _, level in levels), levels
