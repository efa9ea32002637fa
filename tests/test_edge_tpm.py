"""IoT Edge on board, and DPS knows the device by its endorsement key: a first boot, and what may be
in its way."""

import base64
import hmac
import json
import tomllib
from collections.abc import Callable

import pytest

from agent.tpm import Tpm
from agent.tpm.imported import HUB_KEY, is_hub_key
from tests.conftest import MakeDevice
from tests.lab import edge, pki
from tests.lab.device import Device
from tests.lab.factory import Board
from tests.test_bad_input import refused, tools

SRK = "0x81000001"
STEPS = [
    "tpm", "clock", "device-id", "ek", "srk", "same-tpm", "tpmd", "aziot-config", "registration",
]  # fmt: skip
MakeEnrolled = Callable[[str], Device]


@pytest.fixture
def make_enrolled(make_device: MakeDevice) -> MakeEnrolled:
    """A device of this id, whose EK DPS knows."""

    def make(name: str) -> Device:
        device = make_device(id=name, attestation="tpm")
        device.world.dps.enrol_tpm(name, ek(device))
        return device

    return make


def ek(device: Device) -> bytes:
    """As TPM2B_PUBLIC."""
    with Tpm(device.tcti) as tpm:
        found = tpm.public(0x81010001)
    assert found is not None
    return found.blob


def provisioned(device: Device) -> str:
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
    return done.stderr


def of_hub(device: Device, data: bytes) -> bytes:
    """By the key that the hub has been told, outside of any TPM."""
    hubs = json.loads(device.world.dps.registry.read_text())
    [known] = [hub[device.wish.id] for hub in hubs.values() if device.wish.id in hub]
    return hmac.digest(base64.b64decode(known["key"]), data, "sha256")


def owns_the_key_of_the_hub(device: Device, handle: int = HUB_KEY) -> bool:
    with Tpm(device.tcti) as tpm:
        kept = tpm.public(handle)
        assert kept is not None
        assert is_hub_key(kept)
        assert tpm.loaded() == set()
        return tpm.hmac(handle, b"a text") == of_hub(device, b"a text")


def test_a_device_ends_provisioned_and_stays_so(make_enrolled: MakeEnrolled) -> None:
    device = make_enrolled("attested")
    assert [line.split()[0] for line in provisioned(device).splitlines()] == STEPS
    assert owns_the_key_of_the_hub(device)
    assert edge.events(device, "provisioned")
    with Tpm(device.tcti) as tpm:
        assert tpm.public(0x81000002) is None  # no LDevID, nor a token
    assert not device.pkcs11.exists()

    file = device.aziot / "config.toml"
    before = (len(device.world.dps.requests()), file.stat().st_mtime_ns)
    assert "done (" not in provisioned(device)
    assert (len(device.world.dps.requests()), file.stat().st_mtime_ns) == before
    status = json.loads(device.agent("status", "--json").stdout)
    assert status["state"] == "provisioned"
    assert [step["step"] for step in status["steps"]] == STEPS


def test_a_disk_that_is_wiped_finds_the_tpm_as_it_was_left(make_enrolled: MakeEnrolled) -> None:
    device = make_enrolled("reflashed")
    provisioned(device)
    device.run(["iotedge", "system", "stop"])
    for file in (*device.aziot.iterdir(), *device.edge.rglob("device_info")):
        file.unlink()
    for file in filter(lambda each: each.is_file(), device.state.rglob("*")):
        file.unlink()
    provisioned(device)
    assert owns_the_key_of_the_hub(device)


def test_passwords_of_the_tpm_get_to_where_they_are_needed(make_enrolled: MakeEnrolled) -> None:
    device = make_enrolled("with-passwords")
    words = {"owner": "the owner's", "endorsement": "the maker's"}
    for hierarchy, word in words.items():
        tools(device, "tpm2_changeauth", "-c", hierarchy[0], word)
        pki.write_private(device.credentials / f"tpm-{hierarchy}-auth", word.encode())
    said = provisioned(device)
    assert owns_the_key_of_the_hub(device)
    file = device.aziot / "config.toml"
    assert tomllib.loads(file.read_text())["tpm"]["hierarchy_authorization"] == words
    assert file.stat().st_mode & 0o077 == 0
    logs = (device.edge / name for name in ("log.jsonl", "journal.jsonl"))
    for text in (said, *(log.read_text() for log in logs)):
        assert not [word for word in words.values() if word in text]


def test_a_wrong_password_is_told_and_never_counted(make_enrolled: MakeEnrolled) -> None:
    device = make_enrolled("wrong-password")
    provisioned(device)
    tools(device, "tpm2_changeauth", "-c", "o", "right")
    for given in (None, "wrong"):
        if given:
            pki.write_private(device.credentials / "tpm-owner-auth", given.encode())
        assert "'tpm-owner-auth'" in refused(device, 69, "tpm-auth")
    with Tpm(device.tcti) as tpm:
        assert tpm.budget().lockout_counter == 0
    (device.credentials / "tpm-owner-auth").write_text("right")
    provisioned(device)


def test_an_ecc_srk_is_left_alone_and_told(make_enrolled: MakeEnrolled) -> None:
    """systemd-cryptenroll makes one, and a disk may depend on it."""
    device = make_enrolled("ecc-srk")
    with Tpm(device.tcti) as tpm, tpm.srk("ecc256") as srk:
        tpm.persist(srk, int(SRK, 16))
    assert SRK in refused(device, 69, "srk-not-rsa")
    tools(device, "tpm2_evictcontrol", "-C", "o", "-c", SRK)
    provisioned(device)


def test_nothing_is_evicted_for_the_key_of_the_hub(make_enrolled: MakeEnrolled) -> None:
    device = make_enrolled("occupied")
    with Tpm(device.tcti) as tpm:
        with tpm.srk("ecc256") as other:
            tpm.persist(other, HUB_KEY)
        before = tpm.public(HUB_KEY)
    refused(device, 69, "hub-key-occupied")
    pki.write_private(device.aziot / "config.toml", b"[tpm]\nauth_key_index = 0x200\n")
    provisioned(device)
    assert owns_the_key_of_the_hub(device, 0x81000200)
    with Tpm(device.tcti) as tpm:
        assert tpm.public(HUB_KEY) == before


def test_a_tpm_that_is_enrolled_late_or_as_another(make_device: MakeDevice) -> None:
    device = make_device(id="stranger", attestation="tpm")
    other = make_device(board=Board(id="board-other"))
    dps, name = device.world.dps, device.wish.id
    settings = device.bin / "iotedge-lab.toml"  # it answers, though it cannot begin
    settings.write_text(f'startup_failure = "answer"\n{settings.read_text()}')
    device.configure({"aziot": {"timeout": "5s"}})
    assert f"'{name}'" in refused(device, 75, "attestation-failed")
    dps.enrol_tpm(name, ek(other))
    refused(device, 75, "attestation-failed")
    dps.enrol_tpm(name, ek(device))
    provisioned(device)
