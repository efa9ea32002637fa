"""Who the device is, from what its board says."""

import os
import tempfile
from base64 import b64decode
from hashlib import sha256
from pathlib import Path

import pytest

from agent import config, deviceid, ek, identity
from agent.deviceid import registration_ids
from agent.errors import DeviceIdInvalid, NoPermission
from agent.steps import preflight
from agent.tpm import Tpm
from tests.lab.tools import Tools
from tests.test_identity import SAMPLE_EK


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """The file system of a Raspberry Pi, as far as it matters."""
    for path, text in {
        "proc/cpuinfo": "processor\t: 0\nHardware\t: BCM2711\nSerial\t\t: 10000000a1b2c3d4\n"
        "Model\t\t: Raspberry Pi 4 Model B Rev 1.2\n",
        "sys/firmware/devicetree/base/serial-number": "10000000a1b2c3d4\0",
        "sys/class/net/eth0/address": "dc:a6:32:01:02:03\n",
        "sys/class/net/lo/address": "00:00:00:00:00:00\n",
        "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def test_the_serial_number_is_the_device_trees(board: Path) -> None:
    assert deviceid.resolve("{serial}", board) == "10000000a1b2c3d4"


def test_sources_and_text_mix(board: Path) -> None:
    assert deviceid.resolve("line7-{serial}", board) == "line7-10000000a1b2c3d4"
    assert deviceid.resolve("{mac}", board) == "dc:a6:32:01:02:03"
    assert deviceid.resolve("{machine-id}", board) == "0123456789abcdef0123456789abcdef"
    assert deviceid.resolve("sensor-4711", board) == "sensor-4711"


def test_the_hash_is_that_of_the_shell_scripts(board: Path) -> None:
    text = "MODEL=RaspberryPi4ModelBRev1.2,SN=10000000a1b2c3d4,MAC=dc:a6:32:01:02:03\n"
    assert deviceid.resolve("{hash}", board) == sha256(text.encode()).hexdigest()


def test_dmi_answers_where_there_is_no_device_tree(tmp_path: Path) -> None:
    dmi = tmp_path / "sys/class/dmi/id"
    dmi.mkdir(parents=True)
    (dmi / "product_serial").write_text("To be filled by O.E.M.\n")
    (dmi / "board_serial").write_text("ABC-123.x\n")
    assert deviceid.resolve("{serial}", tmp_path) == "ABC-123.x"


@pytest.mark.parametrize(
    "filler", ["", "Default string", "None", "0000000000", "System Serial Number"]
)
def test_a_makers_filler_is_no_serial_number(tmp_path: Path, filler: str) -> None:
    dmi = tmp_path / "sys/class/dmi/id"
    dmi.mkdir(parents=True)
    (dmi / "product_serial").write_text(filler)
    with pytest.raises(DeviceIdInvalid, match=r"this device has no \{serial\}"):
        deviceid.resolve("{serial}", tmp_path)


def test_who_may_not_read_the_serial_is_not_given_another_name(board: Path) -> None:
    """Of a user's hash without the serial number a back office could make nothing."""
    dmi = board / "sys/class/dmi/id"
    dmi.mkdir(parents=True)
    (dmi / "product_serial").write_text("ABC-123")
    (dmi / "product_serial").chmod(0)
    (board / "sys/firmware/devicetree/base/serial-number").unlink()
    (board / "proc/cpuinfo").unlink()
    top = Path(tempfile.gettempdir())
    places = [board, *(place for place in board.parents if top in place.parents)]
    modes = [place.stat().st_mode for place in places]
    was = os.geteuid()
    try:
        for place in places:
            place.chmod(0o755)
        os.seteuid(was or 65534)  # root may read everything; nobody may not
        for template in ("{serial}", "{hash}"):
            with pytest.raises(NoPermission, match="product_serial"):
                deviceid.resolve(template, board)
    finally:
        os.seteuid(was)
        for place, mode in zip(places, modes, strict=True):
            place.chmod(mode)


def test_a_board_without_serial_and_mac_has_no_hash(tmp_path: Path) -> None:
    with pytest.raises(DeviceIdInvalid, match=r"this device has no \{hash\}"):
        deviceid.resolve("{hash}", tmp_path)


def test_an_uninitialised_machine_id_is_none(board: Path) -> None:
    (board / "etc/machine-id").write_text("uninitialized\n")
    with pytest.raises(DeviceIdInvalid, match=r"no \{machine-id\}"):
        deviceid.resolve("{machine-id}", board)


def test_another_card_answers_where_there_is_no_eth0(tmp_path: Path) -> None:
    for card, address in {"enp3s0": "02:00:00:00:00:01", "docker0": "02:42:00:00:00:01"}.items():
        (tmp_path / "sys/class/net" / card).mkdir(parents=True)
        (tmp_path / "sys/class/net" / card / "address").write_text(address)
    (tmp_path / "sys/class/net/enp3s0/device").mkdir()
    assert deviceid.mac(tmp_path) == "02:00:00:00:00:01"


@pytest.mark.parametrize("odd", ["a b", "a/b", "x" * 65, "", "ends.", "ümlaut", "a\nb", "quote'"])
def test_an_illegal_id_is_refused(board: Path, odd: str) -> None:
    with pytest.raises(DeviceIdInvalid, match="not a legal registration id"):
        deviceid.resolve(odd, board)


def test_an_unknown_source_names_the_known_ones(board: Path) -> None:
    with pytest.raises(DeviceIdInvalid, match=r"no \{sn\}; there are \{serial\}, \{machine-id\}"):
        deviceid.resolve("{sn}", board)


# --- named by the TPM ---

EK = 0x81010001


def of_the_sample() -> bytes:
    return b64decode(SAMPLE_EK)


def test_the_ek_gives_the_names_of_azures_sdks_and_of_iot_edges_manual(board: Path) -> None:
    base32 = "sizmf6sllrqe4op4wm576nl26la72rssxmf7i7oag2fbuy7uvbaq"
    digest = "9232c2fa4b5c604e39fcb33bff357af2c1fd4652bb0bf47dc0368a1a63f4a841"
    assert deviceid.resolve("{ek}", board, of_the_sample) == base32
    assert deviceid.resolve("{ek-sha256}", board, of_the_sample) == digest
    assert deviceid.resolve("line7-{ek}", board, of_the_sample) == f"line7-{base32}"
    with pytest.raises(DeviceIdInvalid, match="not a legal registration id"):
        deviceid.resolve("x{ek-sha256}", board, of_the_sample)  # 65 characters


def test_without_a_tpm_there_is_no_such_name(board: Path) -> None:
    with pytest.raises(DeviceIdInvalid, match=r"\{ek\} is for who asks the TPM"):
        deviceid.resolve("{ek}", board)


def test_the_tpm_is_left_alone_where_the_name_is_not_of_it(board: Path) -> None:
    def never() -> bytes:
        raise AssertionError

    assert deviceid.resolve("{serial}", board, never) == "10000000a1b2c3d4"


def test_the_ek_that_clients_of_dps_show_is_the_kept_one_or_the_tcgs(
    tpm: Tpm, tools: Tools
) -> None:
    """Kept by the chip's maker; by nobody; of the Azure SDK's template; and something else."""
    kept = ek.shown(tpm)
    tools("readpublic", "-c", hex(EK), "-o", "ek.pub")
    assert kept == (tools.directory / "ek.pub").read_bytes()
    conf = config.Config(device=config.Device(id="{ek}"), dps=config.Dps(id_scope="0ne00000000"))
    assert preflight.who(conf, tpm) == registration_ids(kept)["base32"]

    tools("evictcontrol", "-C", "o", "-c", hex(EK))
    assert ek.shown(tpm) == kept
    with tpm.srk("rsa2048") as no_ek:
        tpm.persist(no_ek, EK)
    assert ek.shown(tpm) == kept
    tools("evictcontrol", "-C", "o", "-c", hex(EK))

    with tpm.ek("EK-RSA2048", azure=True) as azure:
        tpm.persist(azure, EK)
    assert ek.shown(tpm) == azure.public.blob != kept
    told = identity.gather(tpm, conf, print)
    assert told["registration_id"] == told["endorsement_key_azure"]["registration_ids"]["base32"]
    assert told["registration_id"] in "\n".join(identity.as_text(told)).partition("To enrol")[2]
    assert tpm.loaded() == set()
