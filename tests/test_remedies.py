"""IoT Edge's certificates get stuck in every way they can, and the companion helps, or says why
not: at most so often a day, and never twice for one thing."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.lab import edge, pki
from tests.lab.clock import Clock
from tests.lab.device import Device
from tests.lab.world import World

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LIFE = 30 * DAY
LATE = 27 * DAY  # 80 % of it, and twice the 4 % after which IoT Edge tries again


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("remedies") / "w", clock=clock, renewing=True) as world:
        world.operations_server.lifetime(LIFE)
        yield world


@pytest.fixture
def device(world: World, tmp_path: Path) -> Iterator[Device]:
    world.operations_server.behave()
    with Device(world, tmp_path / "device") as device:
        done = device.agent("provision")
        assert done.returncode == 0, done.stderr
        configure(device)
        yield device


def configure(device: Device, **health: Any) -> None:
    """What does not heal is waited for so long; else the tests would be."""
    device.configure({"health": {"patience": "10min", **health}, "aziot": {"timeout": "6s"}})


def health(device: Device, *arguments: str) -> dict[str, Any]:
    done = device.agent("health", "--json", *arguments)
    assert done.returncode in (0, 3, 4), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "stderr": done.stderr}


def after(clock: Clock, device: Device, time: timedelta = HOUR) -> dict[str, Any]:
    clock.advance(time)
    return health(device)


def state(report: dict[str, Any], name: str) -> str:
    return str(next(each["state"] for each in report["certificates"] if each["name"] == name))


def first_word(report: dict[str, Any]) -> str:
    """Of what was done."""
    return " ".join(report["actions"]).partition(" ")[0]


def kept(device: Device) -> dict[str, Any]:
    """The ladder, and its budget."""
    found: dict[str, Any] = json.loads((device.state / "health.json").read_text())["cases"]
    return found


def provisioned(device: Device) -> bool:
    return device.agent("status").returncode == 0


# --- each way to be stuck ---


def test_a_renewal_that_silently_stopped_is_brought_back_by_a_restart(
    device: Device, clock: Clock
) -> None:
    edge.broken(device, renewals={"device-id": "stuck"})
    clock.advance(LATE)
    edge.awaited(device, "renewed", cert="est-id")
    first = health(device)
    assert (state(first, "device-id"), first["actions"]) == ("overdue", [])
    then = after(clock, device)
    assert then["actions"][0].startswith("restart aziot-identityd, for device-id (overdue: ")
    assert state(then, "device-id") == "fresh"
    assert after(clock, device)["actions"] == []
    assert kept(device)["cases"] == {}


def test_a_service_that_gave_up_is_taken_at_its_word(device: Device, clock: Clock) -> None:
    """Not waited for until it is late: it never comes."""
    edge.broken(device, renewals={"device-id": "fatal"})
    clock.advance(timedelta(days=24, hours=1))
    edge.awaited(device, "renewal-failed", cert="device-id", fatal=True)
    first = health(device)
    assert state(first, "device-id") == "no longer auto-renewed"
    why = next(each["why"] for each in first["certificates"] if each["name"] == "device-id")
    assert "device-id will no longer be auto-renewed" in why
    edge.broken(device)
    then = after(clock, device)
    assert then["actions"][0].startswith("restart aziot-identityd, for device-id (no longer")
    assert state(then, "device-id") == "fresh"


@pytest.mark.parametrize("cert", ["est-id", "device-id"])
def test_a_certificate_for_another_key_is_removed_when_nothing_else_helped(
    device: Device, clock: Clock, cert: str
) -> None:
    [path] = edge.certificates(device, cert)
    other = device.world.operations.issue(pki.new_key().public_key(), device.wish.id)
    path.write_bytes(pki.pem(other, *device.world.operations.chain))
    assert state(health(device), cert) == "key mismatch"
    assert first_word(after(clock, device)) == "restart"
    assert path.read_bytes().startswith(pki.pem(other))
    last = after(clock, device)
    assert first_word(last) == "remove"
    assert not path.exists() or pki.pem(other) not in path.read_bytes()
    assert state(last, "device-id") == "fresh"
    assert provisioned(device)


@pytest.mark.parametrize("cert", ["est-id", "device-id"])
def test_a_file_without_a_certificate_goes_with_the_restart(
    device: Device, clock: Clock, cert: str
) -> None:
    [path] = edge.certificates(device, cert)
    path.write_bytes(path.read_bytes()[:200])
    device.run(["systemctl", "restart", "aziot-certd", "aziot-identityd"])
    assert state(health(device), cert) == "unreadable"
    then = after(clock, device)
    assert first_word(then) == "restart"
    assert state(then, "device-id") == "fresh"
    assert provisioned(device)


def test_what_expired_while_the_est_server_was_away_is_got_anew(
    device: Device, clock: Clock, world: World
) -> None:
    world.operations_server.behave("busy", "cacerts", "simpleenroll")
    clock.advance(LIFE + DAY)
    reports = [health(device), *(after(clock, device) for _ in range(3))]
    for report in reports:
        assert state(report, "device-id") == "expired"
        assert report["actions"] == []
    assert reports[-1]["problem"]["code"] == "server-busy"
    assert not kept(device)["spent"]
    told = [report for report in reports if "nothing is done for est-id" in report["stderr"]]
    assert len(told) == 1

    world.operations_server.behave()
    for _ in range(4):
        if state(report := after(clock, device), "device-id") == "fresh":
            break
    assert state(report, "device-id") == "fresh"
    assert provisioned(device)


def test_a_service_that_fails_is_told_of_and_restarted(device: Device, clock: Clock) -> None:
    edge.broken(device, crash=["aziot-certd"])
    device.run(["systemctl", "restart", "aziot-certd"])
    edge_fails = "aziot-certd (it fails: activating (auto-restart"
    while "auto-restart" not in health(device)["services"]["aziot-certd"]:
        pass
    edge.broken(device)
    then = after(clock, device)
    assert then["actions"] == [] or edge_fails in then["actions"][0]
    assert after(clock, device)["services"]["aziot-certd"].startswith("active")


# --- no more than allowed ---


def test_what_is_broken_for_good_gets_its_share_a_day_and_no_more(
    device: Device, clock: Clock
) -> None:
    configure(device, interventions=1)
    edge.broken(device, renewals={"device-id": "retry"})
    clock.advance(LATE)
    edge.awaited(device, "renewed", cert="est-id")
    before = edge.certificate(device, "device-id")
    health(device)
    day = [after(clock, device, 8 * HOUR) for _ in range(3)]
    assert [first_word(report) for report in day] == ["restart", "", ""]
    assert day[-1]["problem"]["code"] == "certificate-stuck"
    assert "1 interventions per day are spent; the next is in 8 h" in day[-1]["problem"]["message"]
    day = [after(clock, device, 8 * HOUR) for _ in range(3)]
    assert [first_word(report) for report in day] == ["reprovision,", "", ""]
    assert edge.certificate(device, "device-id") == before  # it works still, so it stays
    assert provisioned(device)


def test_who_wants_no_help_is_only_told(device: Device, clock: Clock) -> None:
    configure(device, interventions=0)
    edge.broken(device, renewals={"device-id": "stuck"})
    clock.advance(LATE)
    reports = [health(device), after(clock, device), after(clock, device)]
    assert not any(report["actions"] for report in reports)
    assert "health.interventions is 0" in reports[1]["problem"]["message"]
    assert not edge.events(device, "renewed", cert="device-id")


def test_a_dry_run_tells_and_does_nothing(device: Device, clock: Clock) -> None:
    edge.broken(device, renewals={"device-id": "stuck"})
    clock.advance(LATE)
    edge.awaited(device, "renewed", cert="est-id")
    waits = health(device, "--dry-run")["actions"]
    assert waits[0].startswith("would restart aziot-identityd, for device-id")
    assert "but not for another 10 min" in waits[0]
    assert not (device.state / "health.json").exists()
    health(device)
    clock.advance(HOUR)
    units, memory = services(device), (device.state / "health.json").read_bytes()
    would = health(device, "--dry-run")["actions"]
    assert would[0].startswith("would restart aziot-identityd, for device-id (overdue: ")
    assert "but not" not in would[0]
    assert (services(device), (device.state / "health.json").read_bytes()) == (units, memory)


def services(device: Device) -> str:
    return device.run(["systemctl", "show", "aziot-certd", "aziot-identityd"]).stdout


# --- killed in the middle ---


def deadly(device: Device, program: str, verb: str, *, before: bool) -> None:
    """The next time this program is called for this, it kills who calls it: before or after it has
    done what it was called for."""
    own, real = device.bin / program, device.bin / "real" / program
    if not real.parent.exists():
        real.parent.mkdir()
        (real.parent / "iotedge-lab.toml").symlink_to(device.bin / "iotedge-lab.toml")
    own.rename(real)
    own.write_text(
        f"""#!/bin/sh
        case " $* " in *" {verb} "*) ;; *) exec {real} "$@";; esac
        mv {real} {own}
        {"kill -9 $PPID" if before else f'{own} "$@"; kill -9 $PPID'}
        """
    )
    own.chmod(0o755)


def killed(device: Device, program: str, verb: str, *, before: bool) -> None:
    """A run that is, and two that are not: one intervention, all in all."""
    spent = len(kept(device)["spent"])
    deadly(device, program, verb, before=before)
    assert device.agent("health").returncode == -9
    assert len(kept(device)["spent"]) == spent + 1
    assert kept(device)["cases"]
    health(device)
    last = health(device)
    assert last["actions"] == []
    assert kept(device)["cases"] == {}
    assert len(kept(device)["spent"]) == spent + 1
    assert all(unit.startswith("active") for unit in last["services"].values())


def test_a_restart_that_is_cut_off_is_neither_lost_nor_done_twice(
    device: Device, clock: Clock
) -> None:
    for before in (True, False):
        edge.broken(device, renewals={"device-id": "stuck"})
        clock.advance(LATE)
        health(device)
        clock.advance(HOUR)
        killed(device, "systemctl", "restart", before=before)
        assert len(edge.events(device, "renewed", cert="device-id")) == (1 if before else 2)


KILLS = [("iotedge", "stop"), ("systemctl", "start"), ("iotedge", "reprovision")]


def test_a_removal_that_is_cut_off_is_brought_to_its_end(device: Device, clock: Clock) -> None:
    [path] = edge.certificates(device, "est-id")
    other = device.world.operations.issue(pki.new_key().public_key(), device.wish.id)
    stuck = pki.pem(other, *device.world.operations.chain)
    path.write_bytes(stuck)
    health(device)
    assert first_word(after(clock, device)) == "restart"
    memory = (device.state / "health.json").read_bytes()
    clock.advance(HOUR)
    for program, verb in KILLS:
        for before in (True, False):
            path.write_bytes(stuck)
            (device.state / "health.json").write_bytes(memory)
            killed(device, program, verb, before=before)
            assert not path.exists()
    assert provisioned(device)
