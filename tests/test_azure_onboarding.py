"""The whole of it: from an empty subscription to devices that their hub lets in.

The operator's tool makes the cloud, in the lab's Azure; devices get the lines that it prints, and
nothing else of the cloud; what is enrolled there is who the lab's provisioning service knows."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.azure import Azure
from tests.lab.desk import HUB, Desk, Said
from tests.lab.device import Device, Wish
from tests.lab.world import World


@pytest.fixture
def town(tmp_path: Path) -> Iterator[World]:
    """Its provisioning service knows nobody but who is enrolled in Azure."""
    with World(tmp_path / "world", hub=True) as world:
        for ca in ("owner", "operations"):
            world.dps.group(world.directory / ca / "root.pem", enabled=False)
        world.dps.behave(retry_after=0, polls=0)
        yield world


@pytest.fixture
def azure(town: World, tmp_path: Path) -> Iterator[Azure]:
    hosts = {HUB: town.hub.host}
    with Azure(tmp_path / "azure", town.tls, dps=town.dps, hub_hosts=hosts).running() as azure:
        azure.behave(polls=0)
        yield azure


def told(said: Said) -> str:
    """What the tool prints when all is well."""
    assert said.status == 0, said.err
    return said.out


def configure(device: Device, dps: dict[str, Any]) -> None:
    """With the printed lines, instead of what devices of the lab usually are told of the cloud."""
    nothing = {"id_scope": None, "endpoint": None}
    device.configure({"dps": nothing})
    assert "id_scope" not in device.config.read_text()
    device.configure({"dps": {**nothing, **dps}})


def refused(device: Device) -> bool:
    done = device.agent("provision", "--reregister")
    return (done.returncode, "[dps-not-enrolled]" in done.stderr) == (76, True)


def test_from_an_empty_subscription_to_devices_that_the_hub_lets_in(
    town: World, azure: Azure, tmp_path: Path
) -> None:
    operator = Desk(tmp_path / "desk", azure, town.owner_est.url("mtls"), town.tls.trust)
    dps = tomllib.loads(told(operator.run("deploy")))["dps"]
    assert dps == {"id_scope": town.dps.scope, "endpoint": town.dps.url}

    by_tpm = Wish(id="by-tpm", target="device", attestation="tpm", enrolled=False)
    by_certificate = Wish(id="by-certificate", target="device")
    with (
        Device(town, tmp_path / "by-tpm", by_tpm) as one,
        Device(town, tmp_path / "by-certificate", by_certificate) as other,
    ):
        for device in (one, other):
            configure(device, dps)
        assert refused(one)

        file = tmp_path / "one.json"
        file.write_text(one.agent("identity", "--json").stdout)
        assert "new by-tpm" in told(operator.run("enrol", file))
        for device in (one, other):
            done = device.agent("provision", "--reregister")
            assert done.returncode == 0, done.stderr
        came = {line["device"]: line["by"] for line in town.hub.connections() if line["accepted"]}
        assert came == {"by-tpm": "token", "by-certificate": "certificate"}

        azure.forget()
        told(operator.run("deploy"))
        assert azure.wishes() == []

        told(operator.run("destroy", "--yes"))
        assert azure.resources() == {}
        assert refused(one)
