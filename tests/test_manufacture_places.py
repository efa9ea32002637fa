"""Where the factory step puts a certificate, and what the TPM holds there already."""

import itertools
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from agent.steps.idevid import INDEX
from tests.conftest import MakeDevice
from tests.lab import pki
from tests.lab.device import Device
from tests.lab.factory import Board
from tests.lab.line import Line
from tests.test_manufacture import VIRGIN, board
from tests.test_provision import provisioned


def tools(device: Device, tool: str, *arguments: str) -> str:
    done = subprocess.run(
        [f"tpm2_{tool}", *arguments], env={**device.environment(), "TPM2TOOLS_TCTI": device.tcti},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout


def test_a_key_of_the_seed_scripts_is_adopted(make_device: MakeDevice) -> None:
    """Made by them, but without a certificate yet."""
    device = make_device(board=Board(certificate="none"))
    line = Line(device, "ca", profile="ek-child", key="rsa2048")
    key = board(device)[0]
    line.made()
    assert board(device)[0] == key
    provisioned(device)


@pytest.mark.parametrize(("profile", "key"), [("tcg", "rsa2048"), ("ek-child", "ecc256")])
def test_a_key_of_another_profile_or_kind_is_never_replaced(
    make_device: MakeDevice, profile: str, key: str
) -> None:
    device = make_device(board=Board(certificate="none"))
    before = board(device)
    line = Line(device, "ca", profile=profile, key=key)
    for done in (line.run(), line.run("--force")):
        assert done.returncode == 69
        assert "[idevid-key-other]" in done.stderr
    assert board(device) == before


@pytest.mark.parametrize("locked", ["password", "disabled"])
def test_where_the_firmware_has_locked_the_platform_the_owner_keeps_the_certificate(
    make_device: MakeDevice, locked: str
) -> None:
    device = make_device(board=VIRGIN)
    if locked == "password":
        tools(device, "changeauth", "-c", "platform", "firmwares-secret")
    else:
        tools(device, "hierarchycontrol", "-C", "p", "phEnable", "clear")
    line = Line(device, "ca")
    done = line.run()
    assert done.returncode == 0, done.stderr
    assert "which is the owner's: gone if the TPM is cleared" in done.stderr
    provisioned(device)


def test_the_password_of_the_platform_is_a_credential(make_device: MakeDevice) -> None:
    device = make_device(board=VIRGIN)
    tools(device, "changeauth", "-c", "platform", "firmwares-secret")
    pki.write_private(device.credentials / "tpm-platform-auth", b"firmwares-secret")
    done = Line(device, "ca").run()
    assert done.returncode == 0, done.stderr
    assert "owner's" not in done.stderr


def file(device: Device) -> str:
    """Where the configurations of line and device say that a certificate may be."""
    return str(device.state / "idevid.pem")


def without_room(device: Device) -> Device:
    for index in itertools.count(0x01800000):
        try:
            tools(device, "nvdefine", hex(index), "-C", "o", "-s", "2048")
        except subprocess.CalledProcessError:
            break
    for index in itertools.count(0x01810000):
        try:
            tools(device, "nvdefine", hex(index), "-C", "o", "-s", "200")
        except subprocess.CalledProcessError:
            break
    return device


def test_without_room_in_nv_the_certificate_goes_into_a_file(make_device: MakeDevice) -> None:
    device = without_room(make_device(board=VIRGIN))
    refused = Line(device, "ca").run()
    assert refused.returncode == 69
    assert "[nv-full]" in refused.stderr
    shutil.rmtree(device.directory / "station")
    done = Line(device, "ca", certificate=file(device)).run()
    assert done.returncode == 0, done.stderr
    assert "because the TPM had no room: gone with this disk" in done.stderr
    assert board(device)[1] is None
    provisioned(device)


def test_one_disk_makes_many_boards(make_device: MakeDevice) -> None:
    """The system of the line is moved from board to board; one of them had no room."""
    full = without_room(make_device(board=VIRGIN, id="full"))
    line = Line(full, "ca", profile="ek-child", certificate=file(full))
    line.made()
    before = Path(file(full)).read_bytes()

    full.power_cut()
    shutil.rmtree(full.tpm)
    full.world.solder(VIRGIN, full.tpm)
    full.power_on()
    assert json.loads(full.agent("identity", "--json").stdout)["idevid"] is None
    other = line.run()
    assert other.returncode == 0, other.stderr
    assert "NV 0x1c90000: " in other.stderr
    assert Path(file(full)).read_bytes() == before

    full.power_cut()
    shutil.rmtree(full.tpm)
    full.world.solder(VIRGIN, full.tpm)
    full.power_on()
    third = line.run() if without_room(full) else None
    assert third is not None
    assert third.returncode == 69
    assert f"'{file(full)}' is another board's [nv-full]" in third.stderr
    assert Path(file(full)).read_bytes() == before


def test_a_foreign_object_at_the_index_stays(make_device: MakeDevice) -> None:
    device = make_device(board=VIRGIN)
    tools(device, "nvdefine", hex(INDEX), "-C", "o", "-s", "8")
    (device.directory / "data").write_bytes(b"whatever")
    tools(device, "nvwrite", hex(INDEX), "-C", "o", "-i", str(device.directory / "data"))
    line = Line(device, "ca")
    for done in (line.run(), line.run("--force")):
        assert done.returncode == 69
        assert "[nv-occupied]" in done.stderr or "[idevid-invalid]" in done.stderr
    assert board(device)[1] == b"whatever"


def test_an_encrypted_ca_key_needs_its_password(make_device: MakeDevice) -> None:
    device = make_device(board=VIRGIN)
    line = Line(device, "ca")
    key, secret = device.world.oem.key, b"the line's own"
    line.oem.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(secret),
        )
    )
    assert line.run().returncode == 78
    pki.write_private(device.credentials / "factory-ca-password", secret)
    line.made()
