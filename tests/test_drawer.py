"""A device comes back from 400 days in a drawer: all that it had has expired, and its CAs may have
successors. One run, by the boot or by the companion alone, and it is healthy, without hands."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests.lab import edge, pki
from tests.lab.clock import Clock
from tests.lab.device import Device
from tests.lab.renewals import agree
from tests.lab.renewing import RenewingEst
from tests.lab.shelf import Shelf, starts
from tests.lab.world import World

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
OWN = ("ldevid", "est-id", "device-id")


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("drawer") / "w", clock=clock, renewing=True) as world:
        yield world


@pytest.fixture(scope="module")
def shelf(world: World, clock: Clock, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """With the device that goes into the drawer; all servers may be below the owner's CA, too."""
    with Device(world, tmp_path_factory.mktemp("drawer") / "device") as device:
        for name in ("est-ca.pem", "operational-ca.pem"):
            with (device.etc / name).open("ab") as file:
                file.write(pki.pem(world.owner_root.root, world.operations_root.root))
        done = device.agent("provision")
        assert done.returncode == 0, done.stderr
        return Shelf(device, clock)


@pytest.fixture
def device(shelf: Shelf, world: World, clock: Clock) -> Iterator[Device]:
    """Out of the drawer, and switched on."""
    with shelf.taken() as device:
        clock.jump(400 * DAY)
        yield device
    owner, operations = world.owner_server, world.operations_server
    for server, ca in ((owner, world.owner), (operations, world.operations)):
        server.behave()
        server.issue_from(ca)
        server.cacerts(*ca.chain)
        server.tls_before()
        operations.let_in(world.owner, world.operations)
    world.dps.behave(retry_after=0)


def looked_at(device: Device, *arguments: str) -> dict[str, Any]:
    done = device.agent("health", "--json", *arguments)
    assert "Traceback" not in done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "code": done.returncode, "stderr": done.stderr}


def states(report: dict[str, Any], *names: str) -> set[str]:
    return {c["state"] for c in report["certificates"] if c["name"] in (names or OWN)}


def is_healthy(device: Device) -> None:
    """All is fresh; what the hub sees is what is there; and nothing is left to be done."""
    edge.until(lambda: not looked_at(device, "--dry-run")["actions"])  # IoT Edge may be starting
    report = looked_at(device, "--dry-run")
    assert (report["code"], states(report), report["actions"]) == (0, {"fresh"}, []), report
    seen = int(device.world.dps.assigned(device.wish.id)[-1]["serial"], 16)
    assert seen == edge.certificate(device, "device-id")[0].serial_number
    assert device.agent("status").returncode == 0
    device.world.owner_server.tls_before()  # here it is another time than there
    assert agree(device)


def rolls_over(server: RenewingEst) -> pki.Authority:
    """Its CA has another key, and says so (NewWithOld); the server itself is below that, too."""
    new = server.successor(f"{server.site.name} G2")
    server.announce(new)
    server.issue_from(new.authority)
    server.tls_below(new.authority, links=[new.new_with_old])
    return new.authority


@pytest.mark.parametrize("verb", ["provision", "health"])
@pytest.mark.parametrize("cas", ["the same", "others"])
def test_one_run_is_enough(device: Device, world: World, verb: str, cas: str) -> None:
    if cas == "others":
        new = rolls_over(world.owner_server)
        rolls_over(world.operations_server)
        world.operations_server.let_in(world.owner, world.operations, new)
    starts(device)
    assert states(looked_at(device, "--dry-run")) == {"expired"}
    done = device.agent(verb)
    assert done.returncode == 0, done.stderr + done.stdout
    is_healthy(device)


# --- by what it gets the LDevID back ---


def enrolled(world: World) -> list[str]:
    """How certificates were got from the owner's server, the last ones last."""
    return [each.uri.rpartition("/")[2] for each in world.issued(world.owner_est)]


def test_the_ek_is_enough_where_it_is_allowed_to(device: Device, world: World) -> None:
    device.configure({"ldevid": {"recover": ["ek"]}})
    starts(device)
    assert looked_at(device)["code"] == 0
    assert enrolled(world)[-1] == "tpmenroll"
    is_healthy(device)


def test_the_ek_helps_where_the_login_is_refused(device: Device, world: World) -> None:
    device.configure({"ldevid": {"recover": ["login", "ek"]}})
    world.owner_server.behave("refuse", "simpleenroll")
    starts(device)
    assert looked_at(device)["code"] == 0
    assert enrolled(world)[-1] == "tpmenroll"
    is_healthy(device)


def test_where_nothing_is_allowed_a_person_is_asked_for(device: Device, world: World) -> None:
    device.configure({"ldevid": {"recover": []}})
    before = len(world.requests(world.owner_est))
    starts(device)
    boot = device.agent("provision")
    assert (boot.returncode, "[ldevid-expired]" in boot.stderr) == (78, True)
    for turn in (1, 2):
        report = looked_at(device)
        assert (report["code"], report["problem"]["code"]) == (4, "ldevid-expired")
        assert ("[ldevid-expired]" in report["stderr"]) == (turn == 1)  # told once
        assert "Set ldevid.recover to" in report["problem"]["remedy"]
        assert report["actions"] == []
    assert len(world.requests(world.owner_est)) == before

    device.configure({})  # what the person does
    assert looked_at(device)["code"] == 0
    is_healthy(device)


# --- and nobody is there on that day ---


def until_healthy(device: Device, clock: Clock) -> int:
    """Runs of the companion, one per hour."""
    code, hours = 3, 0
    while code == 3 and hours < 10:
        clock.advance(HOUR)
        report = looked_at(device)
        code, hours = report["code"], hours + 1
    assert code == 0, report  # and not 4: nobody is called
    is_healthy(device)
    return hours


@pytest.mark.parametrize("verb", ["provision", "health"])
def test_it_waits_for_the_est_servers(
    device: Device, world: World, clock: Clock, verb: str
) -> None:
    with world.without_est():
        starts(device)
        done = device.agent(verb)
        assert done.returncode == {"provision": 75, "health": 3}[verb], done.stderr
        assert "[unreachable]" in done.stderr
    if verb == "provision":
        assert device.agent("provision").returncode == 0
        is_healthy(device)
    else:
        assert until_healthy(device, clock) <= 2


def test_it_waits_for_the_operational_est_server(
    device: Device, world: World, clock: Clock
) -> None:
    """The LDevID is back already."""
    world.operations_server.behave("busy", "simpleenroll")
    device.configure({"aziot": {"timeout": "3s"}, "health": {"patience": "1s"}})
    starts(device)
    assert looked_at(device)["code"] == 3
    report = looked_at(device, "--dry-run")
    assert states(report, "ldevid") == {"fresh"}
    assert states(report, "device-id") == {"expired"}
    world.operations_server.behave()
    assert until_healthy(device, clock) <= 5


def test_it_waits_for_the_provisioning_service(device: Device, world: World, clock: Clock) -> None:
    world.dps.behave(retry_after=0, throttle=1000)
    device.configure({"aziot": {"timeout": "3s"}, "health": {"patience": "1s"}})
    starts(device)
    assert looked_at(device)["code"] == 3
    world.dps.behave(retry_after=0)
    assert until_healthy(device, clock) <= 5
