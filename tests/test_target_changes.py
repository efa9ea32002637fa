"""What a device is provisioned for changes in its life, with IoT Edge and without, by TPM and by
certificate, and back: each time there is one who talks to Azure, and nothing of before misleads."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import config, inputs
from agent.errors import EdgeConfigured
from agent.state import State
from agent.steps import assigned
from tests.lab.device import Device, Wish, merged
from tests.lab.world import World
from tests.test_device_target import asked, hub_key, stopped


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("changes") / "world", hub=True) as world:
        world.dps.behave(retry_after=0, polls=0)
        yield world


ALONE: dict[str, Any] = {"device": {"target": "device"}, "operational": None}


def alone(device: Device, changes: dict[str, Any]) -> None:
    """It is told that there is no IoT Edge."""
    trust = {"trust": str(device.world.tls.trust), "fleet": 1}
    device.configure(merged({**ALONE, "dps": trust}, changes))


def provision(device: Device) -> str:
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
    return next(x for x in done.stderr.splitlines() if x.startswith("registration"))


def sends(device: Device) -> None:
    done = device.agent("telemetry", "--count", "1", "--patience", "30s")
    assert done.returncode == 0, done.stderr


def of_edge(device: Device) -> list[str]:
    """What the remedy says, as it would be typed."""
    said = stopped(device, 78, "edge-configured")
    assert "device.target = 'edge'" in said
    system, _, remove = said.strip().rpartition("If not: ")[2].partition("; ")
    assert device.run(shlex.split(system)).returncode == 0
    assert device.run(shlex.split(remove)).returncode == 0
    return shlex.split(remove)[1:]


@pytest.mark.parametrize("attestation", ["tpm", "x509"])
def test_from_iot_edge_to_none_and_back_dps_is_asked_by_who_is_there(
    attestation: Any, world: World, tmp_path: Path
) -> None:
    name = f"lives-{attestation}"
    with Device(world, tmp_path / "device", Wish(id=name, attestation=attestation)) as device:
        if attestation == "tpm":
            device.enrol()
        provision(device)
        state, key, before = State(device.state), hub_key(device), asked(device)

        alone(device, {})
        assert of_edge(device) == [str(device.aziot / "config.toml")]
        assert (asked(device), hub_key(device)) == (before, key)  # nothing is taken from it
        provision(device)
        sends(device)
        assert not state.registration.exists()
        own = asked(device)
        assert len(own) > len(before)

        device.configure({})
        assert "registration" in provision(device)
        assert not state.assignment.exists()
        assert len(asked(device)) > len(own)  # IoT Edge does not go on with what it was told once
        if attestation == "tpm":
            and_without_again(device)


def and_without_again(device: Device) -> None:
    edge = asked(device)
    alone(device, {})
    of_edge(device)
    assert " done: " in provision(device)
    sends(device)
    assert len(asked(device)) > len(edge)
    now = assigned.load(State(device.state)).proven
    assert now is not None
    assert now.key is not None
    assert hub_key(device) == now.key.public

    (device.aziot / "config.toml").write_text("[provisioning]\n")  # since then, by hand
    device.world.dps.rotate(device.wish.id)
    done = device.agent("telemetry", "--count", "1", "--patience", "30s")
    assert done.returncode == 78, done.stderr
    assert "[edge-configured]" in done.stderr
    assert hub_key(device) == now.key.public


def test_what_iotedge_config_apply_made_is_in_the_way_too_and_the_fleets_settings_are_not(
    world: World, tmp_path: Path
) -> None:
    device = Device(world, tmp_path / "device", Wish(target="device", attestation="tpm"))
    (device.aziot / "config.toml").write_text('[agent]\nname = "edgeAgent"\n')
    conf = config.load(device.config)
    inputs.check(conf)
    made = device.aziot / "identityd/config.d/00-super.toml"
    made.parent.mkdir(parents=True)
    made.write_text("")
    with pytest.raises(EdgeConfigured) as e:
        inputs.check(conf)
    assert e.value.fields["paths"] == str(made)


def test_from_certificate_to_tpm_and_back_the_device_is_registered_as_what_it_is(
    world: World, tmp_path: Path
) -> None:
    wish = Wish(id="swaps", target="device", key="rsa2048")
    with Device(world, tmp_path / "device", wish) as device:
        provision(device)
        state = State(device.state)
        ldevid = state.ldevid_cert.read_bytes()

        device.enrol()
        device.configure({"dps": {"attestation": "tpm"}})
        assert " done: " in provision(device)
        sends(device)
        key = hub_key(device)
        assert key is not None
        assert state.ldevid_cert.read_bytes() == ldevid  # it may be wanted again

        world.dps.forget("swaps")
        device.configure({})
        assert " done: " in provision(device)
        sends(device)
        assert state.ldevid_cert.read_bytes() == ldevid
        now = assigned.load(state).proven
        assert now is not None
        assert now.key is None
        assert hub_key(device) == key  # of no use to anybody: the hub wants the certificate
