"""The whole of it: from an empty subscription to devices that their hub lets in.

The operator's tool makes the cloud, in the lab's Azure; devices get the lines that it prints, and
nothing else of the cloud; what is enrolled there is who the lab's provisioning service knows."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from tests.lab.azure import Azure
from tests.lab.device import Device, Wish
from tests.lab.process import TOP
from tests.lab.world import World

HUB, SERVICE = "plant-hub", "plant-dps"


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Its provisioning service knows nobody but who is enrolled in Azure."""
    with World(tmp_path_factory.mktemp("town") / "world", hub=True) as world:
        for ca in ("owner", "operations"):
            world.dps.group(world.directory / ca / "root.pem", enabled=False)
        world.dps.behave(retry_after=0, polls=0)
        yield world


@pytest.fixture(scope="module")
def azure(town: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azure]:
    where = tmp_path_factory.mktemp("azure") / "azure"
    with Azure(where, town.tls, dps=town.dps, hub_hosts={HUB: town.hub.host}).running() as azure:
        azure.behave(polls=0)
        yield azure


class Operator:
    """Who runs tpm2cloud-operator in a directory of hers."""

    def __init__(self, directory: Path, azure: Azure, world: World) -> None:
        self.azure, self.directory = azure, directory
        config = {
            "azure": {
                "subscription": azure.subscription,
                "resource_group": "plant",
                "location": "westeurope",
            },
            "hub": {"name": HUB},
            "dps": {"name": SERVICE},
            "est": {"url": world.owner_est.url("mtls"), "trust": str(world.tls.trust)},
            "enrolment": {"edge": False},
            "cloud": {
                "resource_manager": azure.url,
                "scope": f"{azure.url}/.default",
                "authority": azure.authority,
                "trust": str(world.tls.trust),
                "poll": "1s",
            },
        }
        (directory / "operator.toml").write_text(tomlkit.dumps(config))

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The tool, logged in by the environment, as azure-identity reads it."""
        login = {
            "AZURE_TENANT_ID": self.azure.tenant,
            "AZURE_CLIENT_ID": self.azure.client_id,
            "AZURE_CLIENT_SECRET": self.azure.client_secret,
        }
        return subprocess.run(
            [sys.executable, "-m", "agent.operator.cli", *arguments],
            cwd=self.directory,
            env={**os.environ, **login, "PYTHONPATH": str(TOP)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def told(self, *arguments: str) -> str:
        """What it prints when all is well."""
        done = self(*arguments)
        assert done.returncode == 0, done.stderr
        assert self.azure.client_secret not in done.stdout + done.stderr
        return done.stdout


def configured(device: Device, lines: dict[str, Any]) -> Device:
    """With the printed lines, instead of what devices of the lab usually are told of the cloud."""
    device.configure({"dps": {"id_scope": None, "endpoint": None}})
    device.configure({"dps": {"id_scope": None, "endpoint": None, **lines["dps"]}})
    return device


def test_from_an_empty_subscription_to_devices_that_the_hub_lets_in(
    town: World, azure: Azure, tmp_path: Path
) -> None:
    operator = Operator(tmp_path, azure, town)
    lines = tomllib.loads(operator.told("deploy"))
    assert lines == {"dps": {"id_scope": town.dps.scope, "endpoint": town.dps.url}}

    by_tpm = Wish(id="by-tpm", target="device", attestation="tpm", enrolled=False)
    by_certificate = Wish(id="by-certificate", target="device")
    with (
        Device(town, tmp_path / "by-tpm", by_tpm) as one,
        Device(town, tmp_path / "by-certificate", by_certificate) as other,
    ):
        for device in (one, other):
            configured(device, lines)
        before = one.agent("provision")
        assert (before.returncode, "[dps-not-enrolled]" in before.stderr) == (76, True)

        (tmp_path / "one.json").write_text(one.agent("identity", "--json").stdout)
        assert "new by-tpm" in operator.told("enrol", "one.json")
        for device in (one, other):
            done = device.agent("provision", "--reregister")
            assert done.returncode == 0, done.stderr
        came = {line["device"]: line["by"] for line in town.hub.connections() if line["accepted"]}
        assert came == {"by-tpm": "token", "by-certificate": "certificate"}

        azure.forget()
        operator.told("deploy")
        assert azure.changes() == azure.wishes() == []

        operator.told("destroy", "--yes")
        assert azure.resources() == {}
        gone = one.agent("provision", "--reregister")
        assert (gone.returncode, "[dps-not-enrolled]" in gone.stderr) == (76, True)
