"""A device is let go without its TPM, with another one, or when nothing says any more how it was
configured."""

from dataclasses import replace

import pytest

from agent.config import load
from agent.reset import mark
from agent.reset.mark import Mark
from agent.state import State
from agent.steps import ldevid_key
from agent.tpm import HUB_KEY
from tests.conftest import MakeDevice
from tests.lab.device import Device
from tests.test_moved import board, move
from tests.test_provision import provisioned
from tests.test_reset import let_go, of_owner, public, remains


def refused(device: Device, code: str, verb: str = "reset", *arguments: str) -> None:
    done = device.agent(verb, *arguments)
    assert f"[{code}]" in done.stderr, (done.stdout, done.stderr)


def marked(state: State) -> Mark:
    found = mark.read(state)
    assert found
    return found


def test_what_is_on_the_disk_goes_without_the_tpm_and_the_rest_once_that_is_back(
    make_device: MakeDevice,
) -> None:
    device = provisioned(make_device())
    secrets, state = of_owner(device), State(device.state)
    device.power_cut()
    refused(device, "reset-needs-tpm", "reset", "-y")
    assert not state.reset.exists()
    assert "would be done" in device.agent("reset", "--without-tpm", "--dry-run").stdout
    refused(device, "reset-unconfirmed", "reset", "--without-tpm")

    told = let_go(device, "--without-tpm", "--configuration")
    assert list(remains(device, secrets)) == []
    assert not device.config.exists()
    assert any("can use them" in note for note in told["notes"])
    assert told["hand_over"]["registration"]["id"] == device.wish.id
    again = let_go(device, "--without-tpm")
    assert not any(step["to do"] for step in again["steps"])
    assert again["hand_over"] == told["hand_over"]

    device.configure({"dps": {"id_scope": "0neother"}})
    for verb in ("provision", "health"):
        refused(device, "reset-under-way", verb)
    device.config.unlink()
    device.power_on()
    assert public(device, ldevid_key.HANDLE)
    mark.write(state, replace(marked(state), phase="removing", configured=False))  # cut off
    told = let_go(device)
    assert public(device, ldevid_key.HANDLE) is None
    assert not any("can use them" in note for note in told["notes"])
    assert marked(state).phase == "done"


def test_a_key_for_the_hub_is_known_again_when_the_tpm_is_back(make_device: MakeDevice) -> None:
    """All that told so had been on the disk."""
    device = make_device(attestation="tpm", id="back")
    device.enrol()
    provisioned(device)
    device.power_cut()
    let_go(device, "--without-tpm", "--configuration")
    device.power_on()
    assert public(device, HUB_KEY)
    device.configure({"dps": {"id_scope": "0neother"}})  # the next owner's
    let_go(device)
    assert public(device, HUB_KEY) is None
    mark.admit(load(device.config), State(device.state))


@pytest.mark.parametrize("early", [True, False], ids=["let go before", "only then"])
def test_with_another_tpm_it_is_said_that_the_keys_are_in_the_one_before(
    make_device: MakeDevice, early: bool
) -> None:
    device = provisioned(make_device())
    if early:
        device.power_cut()
        let_go(device, "--without-tpm")
    device.power_on()
    move(device, board(device))
    assert "another one the keys" in device.agent("reset", "--dry-run").stdout
    assert any("another one the keys" in note for note in let_go(device)["notes"])
    assert marked(State(device.state)).phase == "done"


def test_when_its_configuration_has_gone_the_tpm_can_still_be_let_go(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    told = let_go(device, "--configuration")
    assert "0x81020000" in told["stays"]["tpm"]
    let_go(device, "--decommission")
    assert "0x81020000" not in let_go(device, "--burn-idevid")["stays"]["tpm"]
