"""IoT Edge's certificates get stuck in every way they can, and the companion helps, or says why
not: at most so often a day, and never twice for one thing."""

import re
from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.lab import edge, pki
from tests.lab.clock import Clock
from tests.lab.device import Device
from tests.lab.helped import (
    after,
    configure,
    deadly,
    first_word,
    health,
    kept,
    message,
    provisioned,
    services,
    state,
)
from tests.lab.shelf import Shelf, starts
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


@pytest.fixture(scope="module")
def shelf(world: World, clock: Clock, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    with Device(world, tmp_path_factory.mktemp("remedies") / "device") as device:
        done = device.agent("provision")
        assert done.returncode == 0, done.stderr
        configure(device)
        return Shelf(device, clock)


@pytest.fixture
def device(world: World, shelf: Shelf) -> Iterator[Device]:
    """Just provisioned."""
    world.operations_server.behave()
    world.dps.behave()
    with shelf.taken() as device:
        starts(device)
        assert provisioned(device)
        yield device


# --- each way to be stuck ---


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
def test_a_certificate_for_another_key_is_removed_at_once(
    device: Device, clock: Clock, cert: str
) -> None:
    """A restart would do harm."""
    [path] = edge.certificates(device, cert)
    other = device.world.operations.issue(pki.new_key().public_key(), device.wish.id)
    path.write_bytes(pki.pem(other, *device.world.operations.chain))
    assert state(health(device), cert) == "key mismatch"
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
    """The server is not asked more often than it wants to be."""
    world.operations_server.behave("busy", "cacerts", "simpleenroll", retry_after=7200)
    clock.advance(LIFE + DAY)
    reports = [health(device), *(after(clock, device) for _ in range(3))]
    for report in reports:
        assert state(report, "device-id") == "expired"
        assert report["actions"] == []
    assert {report["problem"]["code"] for report in reports[1:]} == {"server-busy"}
    assert kept(device)["asked"]["failures"] == 2
    assert not kept(device)["spent"]
    told = re.findall(r"nothing is done for (\S+)", "".join(each["stderr"] for each in reports))
    assert told
    assert len(told) == len(set(told))  # not hour by hour

    world.operations_server.behave()
    for _ in range(3):
        if state(report := after(clock, device, 3 * HOUR), "device-id") == "fresh":
            break
    assert state(report, "device-id") == "fresh"
    assert provisioned(device)


def test_a_device_that_works_is_not_reprovisioned_and_who_is_nobody_is_brought_back(
    device: Device, clock: Clock, world: World
) -> None:
    edge.broken(device, crash=["aziot-edged"])
    device.run(["systemctl", "restart", "aziot-edged"])
    world.dps.behave(disabled=[device.wish.id])
    while "auto-restart" not in health(device)["services"]["aziot-edged"]:
        pass
    done = [first_word(after(clock, device)) for _ in range(3)]
    assert done == ["restart", "", ""]
    assert provisioned(device)

    edge.broken(device)
    device.run(["systemctl", "restart", "aziot-edged"])
    assert device.run(["iotedge", "system", "reprovision"]).returncode != 0
    world.dps.behave()
    assert not provisioned(device)
    assert device.agent("needs-renewal").returncode == 0
    assert health(device)["actions"] == []
    [done] = after(clock, device)["actions"]
    assert done.startswith("reprovision, for registration (aziot-identityd does not know any more")
    assert provisioned(device)
    over(device)


def test_what_has_died_with_the_ldevid_comes_back_with_it_in_one_run(
    device: Device, clock: Clock
) -> None:
    clock.advance(100 * DAY)
    said = health(device)["actions"]
    assert said[0].startswith("LDevID: recovered")
    assert said[1].startswith("restart aziot-certd and aziot-identityd, for est-id (expired")
    report = health(device)
    assert {state(report, name) for name in ("ldevid", "est-id", "device-id")} == {"fresh"}
    assert provisioned(device)
    assert len(kept(device)["spent"]) == len(said) - 1 <= 2


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
    configure(device, interventions=1, patience="1h")
    edge.broken(device, renewals={"est-id": "never", "device-id": "retry"})
    clock.advance(LATE)
    before = edge.certificate(device, "device-id")
    health(device)
    reports = [after(clock, device, 12 * HOUR) for _ in range(3)]
    assert [first_word(report) for report in reports] == ["restart", "", "restart"]
    assert "1 interventions per day are spent; the next is in 12 h" in message(reports[1])
    done = [" ".join(report["actions"]) for report in reports]
    assert ["for est-id" in done[0], "for device-id" in done[2]] == [True, True]
    assert edge.certificate(device, "device-id") == before  # it works still, so it stays
    assert provisioned(device)


def test_who_wants_no_help_is_only_told_until_she_does(device: Device, clock: Clock) -> None:
    configure(device, interventions=0)
    edge.broken(device, renewals={"device-id": "stuck"})
    clock.advance(LATE)
    edge.awaited(device, "renewed", cert="est-id")
    reports = [health(device), after(clock, device), after(clock, device)]
    assert not any(report["actions"] for report in reports)
    assert "health.interventions is 0" in message(reports[1])
    assert not edge.events(device, "renewed", cert="device-id")
    configure(device)
    then = health(device)
    assert then["actions"][0].startswith("restart aziot-identityd, for device-id (overdue: ")
    assert state(then, "device-id") == "fresh"
    over(device)


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


# --- killed in the middle ---


def killed(device: Device, program: str, verb: str, *, before: bool) -> None:
    """A run that is, and one that is not: one intervention, all in all."""
    spent = len(kept(device)["spent"])
    deadly(device, program, verb, before=before)
    assert device.agent("health").returncode == -9
    assert len(kept(device)["spent"]) == spent + 1
    assert kept(device)["cases"]
    last = health(device)
    assert all(case["mark"] is None for case in kept(device)["cases"].values())
    assert len(kept(device)["spent"]) == spent + 1
    assert all(unit.startswith("active") for unit in last["services"].values())


def over(device: Device) -> None:
    """Nothing is left to do."""
    assert health(device)["actions"] == []
    assert kept(device)["cases"] == {}


def test_a_restart_that_is_cut_off_is_neither_lost_nor_done_twice(
    device: Device, clock: Clock
) -> None:
    for before, renewals in ((True, 1), (False, 2)):
        edge.broken(device, renewals={"device-id": "stuck"})
        clock.advance(LATE)
        health(device)
        clock.advance(HOUR)
        killed(device, "systemctl", "restart", before=before)
        edge.awaited(device, "renewed", renewals, cert="device-id")
        over(device)
        assert len(edge.events(device, "renewed", cert="device-id")) == renewals


KILLS = [
    ("iotedge", "stop", False),
    ("systemctl", "start", True),
    ("systemctl", "start", False),
    ("iotedge", "reprovision", True),
]


def test_a_removal_that_is_cut_off_is_brought_to_its_end(device: Device, clock: Clock) -> None:
    [path] = edge.certificates(device, "est-id")
    other = device.world.operations.issue(pki.new_key().public_key(), device.wish.id)
    stuck = pki.pem(other, *device.world.operations.chain)
    path.write_bytes(stuck)
    health(device)
    memory = (device.state / "health.json").read_bytes()
    clock.advance(HOUR)
    for program, verb, before in KILLS:
        path.write_bytes(stuck)
        (device.state / "health.json").write_bytes(memory)
        killed(device, program, verb, before=before)
        assert not path.exists()
    over(device)
    assert provisioned(device)
