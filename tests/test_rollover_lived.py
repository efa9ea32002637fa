"""A device that lives through the roll-over of its CA, and the end of the old one."""

import json
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.x509 import Certificate

from agent import x509
from tests.lab import edge, pki
from tests.lab.clock import Clock
from tests.lab.device import Device
from tests.lab.world import World

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("world") / "world"
    with World(directory, clock=clock, renewing=True, owner_root_lasts=110 * DAY) as world:
        yield world


@pytest.fixture
def device(world: World, tmp_path: Path) -> Iterator[Device]:
    """All servers may be below the owner's CA, too."""
    for server in (world.owner_server, world.operations_server):
        server.lifetime(30 * DAY)
    with Device(world, tmp_path / "device") as device:
        for name in ("est-ca.pem", "operational-ca.pem"):
            with (device.etc / name).open("ab") as file:
                file.write(pki.pem(world.owner_root.root))
        done = device.agent("provision")
        assert done.returncode == 0, done.stderr
        yield device


def companion(device: Device) -> list[str]:
    """What it did."""
    done = device.agent("health", "--json")
    assert done.returncode in (0, 3, 4), done.stderr
    actions: list[str] = json.loads(done.stdout)["actions"]
    return actions


def issuer(device: Device) -> str:
    return ldevid(device).issuer.rfc4514_string()


def ldevid(device: Device) -> Certificate:
    return x509.parse((device.state / "ldevid.pem").read_bytes())[0]


def trusted(device: Device) -> list[str]:
    """The files that IoT Edge is told of."""
    config = tomllib.loads((device.aziot / "config.toml").read_text())
    return [Path(url).name for url in config["cert_issuance"]["est"]["trusted_certs"]]


def a_month_passes(device: Device, clock: Clock, turn: int) -> None:
    """Almost; IoT Edge renews its own certificates, for it is told of the servers' CA in time."""
    clock.advance(25 * DAY)
    for cert in ("est-id", "device-id"):
        edge.awaited(device, "renewed", turn, cert=cert)


def test_a_device_lives_on_when_its_ca_has_a_new_key_and_the_old_one_has_ended(
    world: World, device: Device, clock: Clock
) -> None:
    owner, operations = world.owner_server, world.operations_server
    for turn in (1, 2, 3):
        a_month_passes(device, clock, turn)
        companion(device)
        assert (issuer(device), trusted(device)) == ("CN=Owner CA", ["operational-ca.pem"])

    new = owner.successor("Owner CA G2")
    owner.announce(new)
    owner.issue_from(new.authority)
    a_month_passes(device, clock, 4)
    assert companion(device)[-1] == "IoT Edge was told of another configuration"
    assert issuer(device) == "CN=Owner CA G2"
    assert trusted(device) == ["operational-ca.pem", "operational.pem"]
    assert companion(device) == []  # it is told once

    for server in (owner, operations):
        server.tls_below(new.authority)
    owner.retire(new)
    a_month_passes(device, clock, 5)
    assert clock.now() > world.owner_root.root.not_valid_after_utc
    before, kept, away = ldevid(device), device.state / "anchors", device.state / "elsewhere"
    kept.rename(away)
    companion(device)
    assert ldevid(device) == before  # without it nobody would vouch for the server
    away.rename(kept)
    clock.advance(timedelta(hours=3))
    companion(device)
    assert ldevid(device).not_valid_before_utc > world.owner_root.root.not_valid_after_utc
    assert device.agent("status").returncode == 0
