"""A device goes from one owner to another, or to its end: nothing of the first one's stays that
could be used, and she is told what to revoke."""

import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agent import x509
from agent.aziot_config import percent
from agent.config import HIERARCHIES
from agent.state import State
from agent.steps import idevid, ldevid_key
from agent.tpm import HUB_KEY, Public, Tpm
from agent.tpm.keyfile import from_pem
from tests.conftest import MakeDevice
from tests.lab import cryptoki, pki
from tests.lab.device import Device, Wish
from tests.lab.owner import Owner
from tests.lab.world import World
from tests.test_provision import provisioned

# Of the device's disk: not what is in the TPM, nor what programs said (the journal, in life).
NO_DISK = ("tpm", "edge/log.jsonl", "edge/journal.jsonl", "edge/service.log")
# What the lab's IoT Edge keeps of the configuration that was applied; the real one's is removed.
APPLIED = "edge/super.toml"
FOR_LIFE = (0x81010001, idevid.HANDLE)
STAYS = {"reset.json", "failure.json", "clock.json", "receipt.jsonl"}  # of the state directory


def let_go(device: Device, *arguments: str) -> dict[str, Any]:
    done = device.agent("reset", "-y", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def public(device: Device, handle: int) -> Public | None:
    with Tpm(device.tcti) as tpm:
        return tpm.public(handle)


# --- what an owner has ---


def of_owner(device: Device) -> dict[str, bytes]:
    """PINs, keys and certificates, in each form that they have on a disk."""
    state = State(device.state)
    pins = json.loads(state.pins.read_text())
    found = {f"{name} PIN": pin.encode() for name, pin in pins.items()}
    found |= {f"{name} PIN in a URI": percent(pin).encode() for name, pin in pins.items()}
    wrapped = from_pem(state.ldevid_key.read_bytes())
    found |= {"key": wrapped.private, "key in the token": wrapped.private.hex().encode()}
    found["key file"] = state.ldevid_key.read_bytes().splitlines()[2]
    files = [state.ldevid_cert, *device.edge.glob("certd/certs/*.cer")]
    for file in files:
        leaf = x509.parse(file.read_bytes())[0]
        found[f"certificate {file.name}"] = pki.pem(leaf).splitlines()[-3]  # of the signature
    return found


def remains(device: Device, secrets: dict[str, bytes]) -> Iterator[str]:
    for path in device.directory.rglob("*"):
        name = str(path.relative_to(device.directory))
        if path.is_file() and name != APPLIED and not name.startswith(NO_DISK):
            data = path.read_bytes()
            yield from (f"{what} in {name}" for what, each in secrets.items() if each in data)


def signs(device: Device, pin: str) -> bool:
    """Whoever has the PIN, in the token."""
    module = ["pkcs11-tool", "--module", str(cryptoki.module()), "--token-label", "edge"]
    command = [*module, "--login", "--pin", pin, "--sign", "--label", "ldevid", "-m", "ECDSA"]
    env = {"TPM2_PKCS11_TCTI": device.tcti, "TPM2_PKCS11_STORE": str(device.pkcs11)}
    quiet = {"TPM2_PKCS11_LOG_LEVEL": "0", "TSS2_LOG": "all+none"}
    done = subprocess.run(
        command, input=bytes(32), env=os.environ | env | quiet, capture_output=True, check=False
    )
    return done.returncode == 0


def sold_to(device: Device, owner: World) -> None:
    """Who has servers, passwords and CAs of her own, and believes who made the board."""
    device.world, device.wish = owner, replace(device.wish, auth="basic")
    device._credentials()
    for name in ("est-ca.pem", "operational-ca.pem"):
        (device.etc / name).write_bytes(owner.tls.trust.read_bytes())
    (device.etc / "owner-ca.pem").write_bytes(pki.pem(owner.owner.root))
    lab = device.bin / "iotedge-lab.toml"
    text = re.sub(
        r"^system_store = .*$", f'system_store = "{owner.tls.trust}"', lab.read_text(), flags=re.M
    )
    lab.write_text(text)
    device.configure({})


# --- from owner to owner ---


@pytest.fixture(scope="module")
def buyer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """With an IoT Hub of her own, too."""
    with World(tmp_path_factory.mktemp("buyer") / "world", hub=True) as world:
        yield world


@dataclass(frozen=True)
class Sold:
    """`secrets`: what its first owner had on it; `pin`: of the token's user; `told` at the end."""

    device: Device
    secrets: dict[str, bytes]
    pin: str
    keys: dict[int, Public | None]
    told: dict[str, Any]


@pytest.fixture(scope="module")
def sold(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sold]:
    """A device with IoT Edge, in use until just now."""
    with Device(world, tmp_path_factory.mktemp("sold") / "device") as device:
        pki.write_private(device.aziot / "config.toml", b'hostname = "device-0001"\n')
        provisioned(device)
        applied = device.aziot / "keyd/config.d/00-super.toml"  # as the real one has it
        applied.parent.mkdir(parents=True)
        applied.write_bytes((device.edge / "super.toml").read_bytes())
        secrets, pin = of_owner(device), json.loads(State(device.state).pins.read_text())["user"]
        there = {found.rpartition(" in ")[0] for found in remains(device, secrets)}
        assert there >= {*secrets} - {"so PIN in a URI", "key"}
        assert signs(device, pin)
        keys = {at: public(device, at) for at in (*FOR_LIFE, ldevid_key.HANDLE)}
        yield Sold(device, secrets, pin, keys, let_go(device))


def test_nothing_that_its_owner_could_use_is_left_of_a_device_that_was_let_go(sold: Sold) -> None:
    device = sold.device
    assert list(remains(device, sold.secrets)) == []
    assert not list(device.aziot.rglob("00-super.toml"))
    assert not signs(device, sold.pin)
    assert public(device, ldevid_key.HANDLE) is None
    assert (device.aziot / "config.toml").read_text() == 'hostname = "device-0001"\n'
    assert {path.name for path in device.state.iterdir()} <= STAYS
    assert "aziot-keyd.service" not in device.run(["systemctl", "is-active", "aziot-keyd"]).stdout


def test_what_stays_and_what_is_to_be_revoked_is_said_as_often_as_it_is_asked(sold: Sold) -> None:
    told = sold.told
    assert "0x81000002" not in told["stays"]["tpm"]
    assert told["stays"]["tpm"]["0x81020000"] == "IDevID key, of the factory"
    whats = [each["what"].partition("-")[0] for each in told["hand_over"]["certificates"]]
    assert sorted(whats) == ["IoT Edge, deviceid", "IoT Edge, estid", "LDevID"]
    assert told["hand_over"]["registration"]["hub"] == "hub.lab.invalid"
    again = let_go(sold.device)
    assert not any(step["to do"] for step in again["steps"])
    assert again["hand_over"] == told["hand_over"]


def test_until_somebody_else_has_it_the_device_waits(sold: Sold) -> None:
    for verb in ("provision", "health"):
        refused = sold.device.agent(verb)
        assert (refused.returncode, "[reset-waits]" in refused.stderr) == (78, True)
    assert sold.device.agent("needs-renewal").returncode == 1
    for verb in ("status", "check"):
        assert "reset-waits" in sold.device.agent(verb).stdout


def test_another_owner_has_it_provisioned_and_of_the_first_one_nothing_comes_back(
    sold: Sold, buyer: World
) -> None:
    """EK and IDevID are the same."""
    device = sold.device
    sold_to(device, buyer)
    provisioned(device)
    assert buyer.dps.assigned(device.wish.id)
    assert not State(device.state).reset.exists()
    assert list(remains(device, sold.secrets)) == []
    assert not signs(device, sold.pin)
    keys = {at: public(device, at) for at in sold.keys}
    assert {at for at, key in keys.items() if key != sold.keys[at]} == {ldevid_key.HANDLE}
    assert device.agent("health").returncode == 0


@pytest.fixture
def by_tpm(buyer: World, tmp_path: Path) -> Iterator[Device]:
    """The TPM's hierarchies have passwords that the device has made."""
    wish = Wish(target="device", attestation="tpm")
    with Device(buyer, tmp_path / "device", wish) as device:
        owner = Owner(tmp_path, device.etc / "escrow.pem")
        random = dict.fromkeys(HIERARCHIES, "random")
        device.configure({"tpm": {"authorization": {**random, "escrow": str(owner.public)}}})
        yield provisioned(device)


def passwords(device: Device) -> frozenset[str]:
    """The hierarchies that have one."""
    with Tpm(device.tcti) as tpm:
        return tpm.budget().passwords


def test_without_iot_edge_the_key_for_the_hub_goes_and_a_strangers_only_if_somebody_wants_it(
    by_tpm: Device,
) -> None:
    device = by_tpm
    was = public(device, HUB_KEY)
    assert passwords(device) == {*HIERARCHIES}
    assignment = (device.state / "assignment.json").read_bytes()

    shown = device.agent("reset", "--dry-run")
    assert re.search("^hub-key +would be done$", shown.stdout, re.MULTILINE), shown.stderr
    assert "az iot hub device-identity delete --hub-name" in shown.stdout
    assert public(device, HUB_KEY) == was
    assert passwords(device) == {*HIERARCHIES}

    (device.state / "assignment.json").unlink()  # of another installation, as far as we know
    told = let_go(device)
    assert passwords(device) == set()
    assert not list(device.state.glob("authorization/*"))
    assert "of another installation" in told["stays"]["tpm"]["0x81000100"]
    assert told["hand_over"]["registration"] is None
    (device.state / "assignment.json").write_bytes(assignment)
    told = let_go(device)
    assert public(device, HUB_KEY) is None
    assert told["hand_over"]["registration"]["id"] == device.wish.id

    back = device.agent("provision", "--again")  # to the same owner
    assert back.returncode == 0, back.stderr
    with sending(device) as agent:
        (device.state / "assignment.json").unlink()
        assert "0x81000100" not in let_go(device, "--decommission")["stays"]["tpm"]
        assert public(device, HUB_KEY) is None
        _, said = agent.communicate("one more\n")
    assert (agent.returncode, "[reset-waits]" in said) == (78, True), said
    assert not (device.state / "telemetry.json").exists()


@contextmanager
def sending(device: Device) -> Iterator[subprocess.Popen[str]]:
    """By hand, connected: no unit that a reset could stop."""
    with subprocess.Popen(
        device.agent_command("telemetry"),
        env=device.environment(),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as agent:
        assert agent.stderr
        while "connected to" not in agent.stderr.readline():
            assert agent.poll() is None
        yield agent


# --- asked first ---


def answered(device: Device, answer: str) -> int:
    """At a terminal."""
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    command = device.agent_command("reset")
    try:
        return subprocess.run(
            command, env=device.environment(), stdin=theirs, capture_output=True, check=False
        ).returncode
    finally:
        os.close(ours)
        os.close(theirs)


def test_nothing_is_done_that_nobody_confirmed(make_device: MakeDevice) -> None:
    device = make_device()
    before = {path.name for path in device.state.iterdir()}
    refused = device.agent("reset")
    assert refused.returncode == 78
    assert "nobody to ask" in refused.stderr
    assert answered(device, "no") == 78
    assert {path.name for path in device.state.iterdir()} == before
    assert answered(device, "yes") == 0
    assert State(device.state).reset.exists()
