"""First boots that give the TPM's hierarchies random passwords, and the device's life under them,
by the real command."""

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

from agent.authorization import escrow
from agent.config import HIERARCHIES
from agent.state import State
from agent.tpm import Tpm
from tests.conftest import MakeDevice
from tests.lab import pki
from tests.lab.device import Device
from tests.lab.owner import Owner
from tests.lab.tools import Tools
from tests.test_bad_input import refused

PASSWORDS = [f"tpm-{name}-auth" for name in HIERARCHIES]


def with_passwords(device: Device, **settings: str) -> Owner:
    """Its image has its owner's public key; who is returned."""
    owner = Owner(device.directory, device.etc / "escrow.pem")
    random = dict.fromkeys(HIERARCHIES, "random")
    wanted: dict[str, Any] = {**random, "escrow": str(owner.public), **settings}
    device.configure({"tpm": {"authorization": wanted}})
    return owner


def provisioned(device: Device) -> list[str]:
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def given(device: Device, owner: Owner) -> None:
    """The passwords out of the escrow, as credentials."""
    for name, password in owner.opens(escrow.file(State(device.state))).items():
        if name in PASSWORDS:
            pki.write_private(device.credentials / name, password.encode())


def said(device: Device, verb: str, *arguments: str) -> str:
    done = device.agent(verb, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_first_boot_under_all_three_and_each_verb_after_it(make_device: MakeDevice) -> None:
    device = make_device()
    owner = with_passwords(device)
    lines = provisioned(device)
    found = owner.opens(escrow.file(State(device.state)))
    assert found.pop("device") == device.wish.id
    assert [*found] == PASSWORDS
    with Tpm(device.tcti) as tpm:
        assert tpm.passwords_set() == {*HIERARCHIES}
        assert (tpm.budget().lockout_counter, tpm.loaded()) == (0, set())
    again = provisioned(device)
    assert all("already done" in line for line in again)
    verbs = [said(device, "status"), said(device, "check"), said(device, "health", "--dry-run")]
    verbs += [said(device, "identity"), said(device, "provision", "--dry-run")]
    for text in (*lines, *again, *verbs):
        assert not [password for password in found.values() if password in text]


def test_a_changed_register_stops_a_run_and_nothing_else_and_the_escrow_is_the_way_on(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    owner = with_passwords(device)
    provisioned(device)
    Tools(device.tcti, device.directory)("pcrextend", f"7:sha256={'22' * 32}")
    assert "PCR 7" in refused(device, 69, "sealed-to-another-state")
    status = json.loads(device.agent("status", "--json").stdout)
    states = {step["step"]: step["state"] for step in status["steps"]}
    assert {name for name, state in states.items() if state == "failed"} == {"tpm", "ek"}
    said(device, "health", "--dry-run")
    given(device, owner)
    device.configure({"tpm": {"authorization": {}}})  # none is asked for any more: they are set
    assert any(line.startswith("authorization") for line in provisioned(device))
    for name in PASSWORDS:
        (device.credentials / name).unlink()
    provisioned(device)


def test_a_reset_begins_with_nothing_where_the_owners_password_is_not_told(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    owner = with_passwords(device)
    provisioned(device)
    Tools(device.tcti, device.directory)("pcrextend", f"7:sha256={'22' * 32}")
    done = device.agent("reset", "-y")
    assert (done.returncode, "[sealed-to-another-state]" in done.stderr) == (69, True), done.stderr
    assert not State(device.state).reset.exists()
    given(device, owner)
    said(device, "reset", "-y")
    with Tpm(device.tcti) as tpm:
        assert tpm.passwords_set() == frozenset()


def test_iotedge_is_told_what_its_tpm_service_needs(make_device: MakeDevice) -> None:
    device = make_device(id="attested-under-passwords", attestation="tpm")
    device.enrol()
    owner = with_passwords(device)
    provisioned(device)
    found = owner.opens(escrow.file(State(device.state)))
    told = tomllib.loads((device.aziot / "config.toml").read_text())["tpm"]
    wanted = {name: found[f"tpm-{name}-auth"] for name in ("owner", "endorsement")}
    assert told["hierarchy_authorization"] == wanted
    assert all("already done" in line for line in provisioned(device))
    tools = Tools(device.tcti, device.directory)
    for name, password in wanted.items():
        tools("changeauth", "-c", name[0], "-p", password)
    device.configure({"tpm": {"authorization": {}}})
    provisioned(device)  # what was taken back is not told any more
    text = (device.aziot / "config.toml").read_text()
    assert not [password for password in wanted.values() if password in text]


def test_the_escrow_is_opened_as_the_manual_says(make_device: MakeDevice) -> None:
    """Its commands, typed one after the other in the owner's directory."""
    page = (Path(__file__).parents[1] / "docs/authorization.md").read_text()
    blocks = [block.split("```")[0] for block in page.split("```sh\n")[1:]]
    desk = make_device(id="of-the-manual")
    typed(blocks[0], desk.directory)
    public = (desk.directory / "escrow.pem").read_bytes()
    (desk.etc / "escrow.pem").write_bytes(public)
    wanted: dict[str, Any] = dict.fromkeys(HIERARCHIES, "random")
    desk.configure({"tpm": {"authorization": {**wanted, "escrow": str(desk.etc / "escrow.pem")}}})
    assert desk.agent("provision").returncode in (0, 75)
    copied = escrow.file(State(desk.state)).read_bytes()
    (desk.directory / "escrow.cms").write_bytes(copied)
    lines = typed(blocks[1], desk.directory).splitlines()
    assert lines[0] == "device=of-the-manual"
    assert [line.partition("=")[0] for line in lines[1:]] == PASSWORDS


def typed(commands: str, directory: Path) -> str:
    done = subprocess.run(["sh", "-euc", commands], cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
