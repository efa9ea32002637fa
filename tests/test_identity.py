"""What a back office gets told: the same that independent tools say, and nothing is changed."""

import json
import os
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from agent import __version__, config, identity
from agent.deviceid import registration_ids
from agent.tpm import Tpm
from tests.conftest import MakeDevice
from tests.lab import factory
from tests.lab.device import AGENT, Device
from tests.test_bad_input import tools
from tests.test_bad_places import powerless
from tests.test_bad_tpm import write_nv

# The sample EK of Microsoft's documentation (Quickstart: enroll TPM device to DPS). Its ids are
# what coreutils say: `sha256sum ek.pub`, `openssl dgst -sha256 -binary ek.pub | base32`.
SAMPLE_EK = (
    "AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAxsj2gUScTk1UjuioeT"
    "lfGYZrrimExB+bScH75adUMRIi2UOMxG1kw4y+9RW/IVoMl4e620VxZad0ARX2gUqVjYO7KPVt3dyKhZS3dkcvfBisBhP1XH9B"
    "33VqHG9SHnbnQXdBUaCgKAfxome8UmBKfe+naTsE5fkvjb/do3/dD6l4sGBwFCnKRdln4XpM03zLpoHFao8zOwt8l/uP3qUIxm"
    "CYv9A7m69Ms+5/pCkTu/rK4mRDsfhZ0QLfbzVI6zQFOKF/rwsfBtFeWlWtcuJMKlXdD8TXWElTzgh7JS4qhFzreL0c1mI0GCj+"
    "Aws0usZh7dLIVPnlgZcBhgy1SSDQMQ=="
)
POLICY = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"  # TCG EK profile, B.6.5


def test_an_ek_is_called_what_azures_sdks_and_iot_edges_manual_call_it() -> None:
    assert registration_ids(b64decode(SAMPLE_EK)) == {
        "base32": "sizmf6sllrqe4op4wm576nl26la72rssxmf7i7oag2fbuy7uvbaq",
        "sha256_hex": "9232c2fa4b5c604e39fcb33bff357af2c1fd4652bb0bf47dc0368a1a63f4a841",
    }


def told(device: Device) -> dict[str, Any]:
    done = device.agent("identity", "--json")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def contents(device: Device) -> dict[str, object]:
    with Tpm(device.tcti) as tpm:
        assert tpm.loaded() == set()
        keys = {handle: tpm.public(handle) for handle in tpm.handles(0x81000000)}
        return {"keys": keys, "nv": {index: tpm.nv_read(index) for index in tpm.nv_indices()}}


# --- the same as tpm2-tools and openssl say ---


def by_tools(device: Device, *commands: str) -> None:
    for command in commands:
        tools(device, *command.split())
    tools(device, "tpm2_flushcontext", "-t")


def from_file(device: Device, name: str) -> bytes:
    return (device.directory / name).read_bytes()


def pem_by_openssl(device: Device, name: str) -> str:
    command = ["openssl", "x509", "-inform", "der", "-in", str(device.directory / name)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_ek_and_the_certificates_are_byte_for_byte_those_that_tpm2_tools_read(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    by_tools(
        device,
        "tpm2_readpublic -c 0x81010001 -o ek.pub",
        "tpm2_getekcertificate -o rsa.der",
        "tpm2_nvread 0x01C00016 -o ecc.der",
        "tpm2_nvread 0x01C90000 -C p -o idevid.der",
    )
    before = contents(device)
    found = told(device)
    assert contents(device) == before

    key = found["endorsement_key"]
    assert b64decode(key["public"]) == from_file(device, "ek.pub")
    assert key["handle"] == "0x81010001"
    assert key["certificate"]["pem"] == pem_by_openssl(device, "rsa.der")
    assert {c["index"]: c["pem"] for c in found["endorsement_certificates"]} == {
        "0x1c00002": pem_by_openssl(device, "rsa.der"),
        "0x1c00016": pem_by_openssl(device, "ecc.der"),
    }
    assert found["idevid"]["pem"] == pem_by_openssl(device, "idevid.der")


def test_an_ek_that_is_not_kept_is_the_one_that_tpm2_createek_makes(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    by_tools(device, "tpm2_evictcontrol -C o -c 0x81010001")
    by_tools(device, "tpm2_createek -c ek.ctx -G rsa -u ek.pub")
    key = told(device)["endorsement_key"]
    assert b64decode(key["public"]) == from_file(device, "ek.pub")
    assert key["handle"] is None


AZURE_EK = (
    "tpm2_createprimary -C e -g sha256 -G rsa2048:aes128cfb -L policy -c azure.ctx -a "
    "fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|restricted|decrypt"
)


@pytest.mark.parametrize("kept", [False, True])
def test_the_azure_variant_is_the_primary_key_of_an_empty_unique(
    make_device: MakeDevice, kept: bool
) -> None:
    device = make_device()
    (device.directory / "policy").write_bytes(bytes.fromhex(POLICY))
    if kept:  # as a device that the C SDK was the first to use
        by_tools(device, "tpm2_evictcontrol -C o -c 0x81010001")
    tools(device, *AZURE_EK.split())
    tools(device, "tpm2_readpublic", "-c", "azure.ctx", "-o", "azure.pub")
    if kept:
        tools(device, "tpm2_evictcontrol", "-C", "o", "-c", "azure.ctx", "0x81010001")
    tools(device, "tpm2_flushcontext", "-t")

    found = told(device)

    azure, own = found["endorsement_key_azure"], found["endorsement_key"]
    assert b64decode(azure["public"]) == from_file(device, "azure.pub")
    assert azure["registration_ids"] == registration_ids(from_file(device, "azure.pub"))
    assert azure["public"] != own["public"]
    assert [key["handle"] is not None for key in (azure, own)] == [kept, not kept]
    shown = azure if kept else own
    assert f" --endorsement-key {shown['public']}" in device.agent("identity").stdout


def test_the_registration_ids_are_what_coreutils_make_of_ek_pub(make_device: MakeDevice) -> None:
    """IoT Edge's documentation: sha256sum of it; the C SDK: base32 of the same."""
    device = make_device()
    by_tools(device, "tpm2_readpublic -c 0x81010001 -o ek.pub")
    key = told(device)["endorsement_key"]
    digest = device.run(["sha256sum", str(device.directory / "ek.pub")]).stdout.split()[0]
    made = f"openssl dgst -sha256 -binary {device.directory}/ek.pub | base32 | tr -d ="
    base32 = device.run(["sh", "-c", made]).stdout.strip().lower()
    assert key["registration_ids"] == {"base32": base32, "sha256_hex": digest}
    assert key["sha256"] == digest


def test_dps_is_told_the_rsa_ek_even_where_another_kind_is_certified(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    by_tools(device, "tpm2_nvundefine -C p 0x01C00002", "tpm2_readpublic -c 0x81010001 -o ek.pub")
    found = told(device)
    assert b64decode(found["endorsement_key"]["public"]) == from_file(device, "ek.pub")
    assert found["endorsement_key"]["certificate"] is None
    assert [c["index"] for c in found["endorsement_certificates"]] == ["0x1c00016"]


# --- who may ask, and when ---


def test_it_is_told_without_any_server_and_before_anything_is_set_up(
    make_device: MakeDevice,
) -> None:
    device = make_device(id="board-7")
    found = told(device)
    assert (found["format"], found["tpm2cloud"]) == (1, __version__)
    assert found["registration_id"] == "board-7"
    assert found["hostname"] == os.uname().nodename
    assert found["tpm"].startswith("IBM ")
    assert not list(device.state.iterdir())


def test_a_board_without_configuration_and_serial_has_no_name_but_an_ek(
    tpm: Tpm, tmp_path: Path
) -> None:
    notes: list[str] = []
    stock = config.Config(dps=config.Dps(id_scope=""))
    found = identity.gather(tpm, stock, notes.append, configured=False, root=tmp_path)
    assert (found["registration_id"], found["serial"]) == (None, None)
    assert notes == ["cannot make the device id: this device has no {serial}; left out"]
    assert found["idevid"] is None
    assert found["endorsement_key"]["registration_ids"]["base32"] in identity.enrolment(found)


@pytest.mark.skipif(config.ETC.exists(), reason="this machine has a configuration")
def test_without_a_configuration_the_tpm_of_a_stock_device_is_asked() -> None:
    asked = subprocess.run([AGENT, "identity"], capture_output=True, text=True, check=False)
    assert "cannot use the configuration" not in asked.stderr
    assert "/dev/tpm" in asked.stderr or asked.returncode == 0


def test_a_broken_configuration_is_an_error_and_so_is_one_that_is_named_and_not_there(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    for change in (lambda: device.config.write_text("[dps\n"), device.config.unlink):
        change()
        done = device.agent("identity")
        assert (done.returncode, done.stdout, "[config-invalid]" in done.stderr) == (78, "", True)


AS_ANYBODY = """
import json, sys
from pathlib import Path
from agent import config, identity
from agent.tpm import Tpm
with Tpm(sys.argv[1]) as tpm:
    conf = config.Config(dps=config.Dps(id_scope=""))
    notes = []
    found = identity.gather(tpm, conf, notes.append, root=Path(sys.argv[2]))
print(json.dumps([found, notes]))
"""


def test_a_serial_number_that_is_for_root_only_is_left_out_with_a_note(
    make_device: MakeDevice,
) -> None:
    """DMI's product_serial has mode 0400."""
    device = make_device()
    secret = device.directory / "board/sys/class/dmi/id/product_serial"
    secret.parent.mkdir(parents=True)
    secret.write_text("SN-1")
    secret.chmod(0)
    less = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.getuid() == 0 else []
    script = [sys.executable, "-c", AS_ANYBODY, device.tcti, str(device.directory / "board")]
    done = device.run([*less, *script])
    assert done.returncode == 0, done.stderr
    found, notes = json.loads(done.stdout)
    assert (found["registration_id"], found["serial"]) == (None, None)
    assert [f"cannot read '{secret}': Permission denied" in note for note in notes] == [True] * 2


def test_passwords_that_are_not_for_this_user_are_not_needed(make_device: MakeDevice) -> None:
    device = make_device()
    (device.credentials / "tpm-owner-auth").touch(mode=0)
    done = powerless(device, "identity", "--json")
    assert done.returncode == 0, done.stderr
    assert "Permission denied; going on without the passwords of the TPM" in done.stderr


def test_with_a_password_on_the_endorsement_hierarchy_the_kept_ek_is_told(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    by_tools(device, "tpm2_readpublic -c 0x81010001 -o ek.pub")
    tools(device, "tpm2_changeauth", "-c", "endorsement", "s3cret")
    done = device.agent("identity", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert b64decode(found["endorsement_key"]["public"]) == from_file(device, "ek.pub")
    assert found["endorsement_key_azure"] is None
    assert "cannot make the EK-RSA2048: " in done.stderr


def test_a_certificate_that_cannot_be_read_is_left_out_with_a_note(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    write_nv(device, "0x01C00016", b"no certificate")
    tools(device, "tpm2_changeauth", "-c", "platform", "s3cret")
    done = device.agent("identity", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [c["index"] for c in found["endorsement_certificates"]] == ["0x1c00002"]
    assert found["idevid"] is None
    assert "cannot read the EK certificate at NV 0x1c00016" in done.stderr
    assert "cannot read NV 0x1c90000: only the platform hierarchy may" in done.stderr


def test_an_idevid_certificate_in_a_file_is_told(make_device: MakeDevice) -> None:
    """Where the TPM has no room for it."""
    device = make_device()
    pem = told(device)["idevid"]["pem"]
    by_tools(device, f"tpm2_nvundefine -C p {factory.CERTIFICATE}")
    assert told(device)["idevid"] is None
    (device.etc / "idevid.pem").write_text(pem)
    device.configure({"idevid": {"certificate": str(device.etc / "idevid.pem")}})
    assert told(device)["idevid"]["pem"] == pem


# --- for people ---


def test_the_text_has_the_line_that_enrols_it(make_device: MakeDevice) -> None:
    device = make_device(id="board-7")
    text, key = device.agent("identity").stdout, told(device)["endorsement_key"]["public"]
    [line] = [line.split() for line in text.splitlines() if "az iot dps" in line]
    assert line[:5] == ["az", "iot", "dps", "enrollment", "create"]
    options = dict(zip(line[5::2], line[6::2], strict=True))
    assert options["--attestation-type"] == "tpm"
    assert (options["--enrollment-id"], options["--endorsement-key"]) == ("board-7", key)
    assert (options["--device-id"], options["--edge-enabled"]) == ("board-7", "true")
    assert "BEGIN CERTIFICATE" not in text
