"""The provisioning service, the hub and a device of the lab fit together; and a broker that nobody
here wrote takes the hub's place."""

import base64
import json
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import pki
from tests.lab.device import Device, Wish
from tests.lab.dps_hubs import Hubs
from tests.lab.hub import PORT
from tests.lab.hub_client import EVENTS, ID, Raw, token
from tests.lab.mosquitto import Mosquitto
from tests.lab.proxy import Proxy
from tests.lab.world import World


@pytest.fixture(scope="module")
def hub_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("hub") / "world", hub=True) as world:
        yield world


def configured(device: Device) -> dict[str, Any]:
    return tomllib.loads(device.config.read_text())


def test_whom_the_provisioning_service_registers_the_hub_lets_in(hub_world: World) -> None:
    hub, dps = hub_world.hub, hub_world.dps
    assert dps.hubs == [hub.host]
    assert dps.registry == hub.registry
    with Raw(hub, token(hub)) as stranger:
        assert stranger.code == 5
    key = bytes(range(32))
    Hubs(dps.registry).put(hub.host, ID, key, None)
    with Raw(hub, token(hub, key)) as known:
        assert known.code == 0
    with hub_world.another_hub() as other:
        assert other.host != hub.host
        with Raw(other, token(other, key)) as stranger:
            assert stranger.code == 5


def test_a_device_by_tpm_is_enrolled_by_its_ek_and_needs_no_certificates(
    hub_world: World, tmp_path: Path
) -> None:
    wish = Wish(target="device", attestation="tpm", id="{ek}")
    with Device(hub_world, tmp_path / "d", wish) as device:
        ek, name = device.endorsement_key(), device.registration_id
        found = configured(device)
        assert not (device.bin / "iotedge").exists()
    assert ek[:12].hex() == "013a0001000b000300b20020"  # size, RSA, SHA-256, attributes
    assert len(ek) == 316
    assert len(name) == 52
    enrolled = json.loads((hub_world.dps.directory / "enrolments.json").read_text())["individual"]
    assert base64.b64decode(enrolled[name]["ek"]) == ek
    assert set(found) == {"device", "tpm", "idevid", "dps", "hub", "aziot"}
    assert found["dps"]["fleet"] == 1
    assert found["dps"]["trust"] == str(hub_world.tls.trust)


def test_a_device_by_certificate_has_a_token_and_no_operational_certificate(
    hub_world: World, tmp_path: Path
) -> None:
    with Proxy(hub_world.hub.routes, username="me", password="hunter2") as proxy:  # noqa: S106
        wish = Wish(target="device", transport="websockets", proxy=proxy)
        device = Device(hub_world, tmp_path / "d", wish)
        found = configured(device)
        assert found["proxy"] == {"url": proxy.url, "username": "me"}
    assert set(found) == {
        *("device", "tpm", "idevid", "ldevid", "pkcs11", "dps", "hub", "proxy", "aziot")
    }
    assert found["hub"] == {"transport": "websockets"}
    password = device.credentials / "proxy-password"
    assert password.read_text() == "hunter2"
    assert password.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("asked", [False, True])
def test_mosquitto_is_there_with_or_without_asking_for_certificates(
    ca: pki.Authority, tmp_path: Path, asked: bool
) -> None:
    owner = pki.authority("Owner")
    with Mosquitto(tmp_path / "m", ca, owner if asked else None).running() as broker:
        for number, own in enumerate([owner, ca]):
            key = pki.new_key()
            chain = pki.pem(own.issue(key.public_key(), ID), *own.chain[:-1])
            (tmp_path / "own.pem").write_bytes(chain)
            pki.write_private(tmp_path / "own.key", pki.private_pem(key))
            where = ["-h", broker.host, "-p", str(PORT), "--cafile", str(broker.tls.trust)]
            login = ["--cert", str(tmp_path / "own.pem"), "--key", str(tmp_path / "own.key")]
            what = ["-i", ID, "-q", "1", "-t", EVENTS, "-m", f"hello {number}"]
            done = subprocess.run(
                ["mosquitto_pub", *where, *login, *what], capture_output=True, check=False
            )
            assert (done.returncode == 0) == (own is owner or not asked), done
        expected = ["hello 0"] if asked else ["hello 0", "hello 1"]
        assert [m["payload"] for m in broker.received(len(expected))] == expected
        assert {m["topic"] for m in broker.seen()} == {EVENTS}
        assert f"as {ID}" in broker.log()
