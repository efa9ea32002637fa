"""A whole first boot, by the real command against real servers, and what it leaves behind."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.steps.aziot import library
from agent.tpm import Tpm
from tests.conftest import MakeDevice
from tests.lab.device import Device

STEPS = [
    "tpm", "clock", "device-id", "ek", "idevid", "srk", "same-tpm", "ldevid-key", "token",
    "ldevid-cert", "aziot-config", "registration",
]  # fmt: skip


def provisioned(device: Device) -> Device:
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
    return device


def ldevid(device: Device) -> x509.Certificate:
    return x509.load_pem_x509_certificate((device.state / "ldevid.pem").read_bytes())


@pytest.mark.parametrize(
    "wish",
    [
        {"key": "ecc256", "auth": "mtls"},
        {"key": "rsa2048", "auth": "mtls"},
        {"key": "ecc256", "auth": "basic"},
        {"key": "rsa2048", "auth": "secret"},
        {"key": "ecc256", "issued_by": "static"},
        {"key": "rsa2048", "issued_by": "static"},
        {"key": "ecc256", "operational_auth": "basic"},
    ],
    ids=lambda wish: "-".join(wish.values()),
)
def test_a_device_ends_provisioned_whatever_it_is_told(
    make_device: MakeDevice, wish: dict[str, str]
) -> None:
    device = make_device(**wish)
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stderr.splitlines()] == STEPS

    status = device.agent("status", "--json")
    assert status.returncode == 0
    told = json.loads(status.stdout)
    assert told["state"] == "provisioned"
    assert [step["state"] for step in told["steps"]] == ["done"] * len(STEPS)
    with Tpm(device.tcti) as tpm:
        assert tpm.loaded() == set()


def everything(device: Device) -> dict[str, object]:
    """What a run could have changed: files with content and inode, and what the TPM holds."""
    places = (device.state, device.aziot, device.pkcs11)
    files = {
        p: (p.stat().st_ino, p.read_bytes()) for at in places for p in at.rglob("*") if p.is_file()
    }
    with Tpm(device.tcti) as tpm:
        persistent = tpm.handles(0x81000000)
        return {
            "files": files,
            "keys": {h: tpm.public(h) for h in persistent},
            "nv": tpm.nv_indices(),
        }


def test_a_second_run_changes_nothing(make_device: MakeDevice) -> None:
    device = provisioned(make_device())
    before, asked = everything(device), len(device.world.requests(device.world.owner_est))

    again = device.agent("provision")

    assert again.returncode == 0
    assert again.stderr.count("already done: ") == len(STEPS)
    assert everything(device) == before
    assert len(device.world.requests(device.world.owner_est)) == asked


def test_a_dry_run_changes_nothing_and_says_what_is_left(make_device: MakeDevice) -> None:
    device = make_device()
    before = everything(device)
    dry = device.agent("provision", "--dry-run")
    assert dry.returncode == 0
    told = dict(line.split(maxsplit=1) for line in dry.stdout.splitlines())
    assert list(told) == STEPS
    assert [step for step, what in told.items() if what == "would be done"] == STEPS[5:]
    assert everything(device) == before


def test_status_tells_a_fresh_device_from_a_provisioned_one(make_device: MakeDevice) -> None:
    device = make_device()
    fresh = device.agent("status")
    assert fresh.returncode == 3
    assert "This device is not yet provisioned." in fresh.stdout
    provisioned(device)
    assert device.agent("status").returncode == 0


def operational(device: Device, name: str) -> x509.Certificate:
    """A certificate in the store of IoT Edge's certificate service."""
    [path] = device.edge.glob(f"certd/certs/{name}-*.cer")
    return x509.load_pem_x509_certificates(path.read_bytes())[0]


def test_the_operational_certificate_was_got_with_the_ldevid(make_device: MakeDevice) -> None:
    """As aziot-certd does it: a TLS session in which the LDevID signed gave it an identity for EST,
    and a session by that identity gave it the operational certificate."""
    device = make_device(id="device-proof")
    world, site = device.world, device.world.operations_est
    before = len(world.issued(site))
    provisioned(device)

    by_ldevid, by_est_id = world.issued(site)[before:]
    serials = [f"{c.serial_number:X}" for c in (ldevid(device), operational(device, "estid"))]
    sessions = [(r.verify, r.serial.lstrip("0")) for r in (by_ldevid, by_est_id)]
    assert sessions == [("SUCCESS", serial) for serial in serials]

    found = operational(device, "deviceid")
    assert found.issuer == world.operations.certificate.subject
    assert found.subject.rfc4514_string() == "CN=device-proof"


def test_the_ldevid_is_requested_with_the_idevid(make_device: MakeDevice) -> None:
    device = make_device()
    provisioned(device)
    request = device.world.issued(device.world.owner_est)[-1]
    assert request.verify == "SUCCESS"
    assert "CN=board-0001" in request.subject


@pytest.mark.parametrize(
    ("key", "mechanism"), [("ecc256", "ECDSA-SHA256"), ("rsa2048", "SHA256-RSA-PKCS")]
)
def test_opensc_signs_with_the_token_and_openssl_verifies(
    make_device: MakeDevice, tmp_path: Path, key: str, mechanism: str
) -> None:
    device = provisioned(make_device(key=key))
    pin = json.loads((device.state / "pins.json").read_text())["user"]
    (tmp_path / "data").write_bytes(b"what is signed")
    (tmp_path / "key.pem").write_bytes(
        ldevid(device).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    environment = {
        **os.environ,
        "TPM2_PKCS11_STORE": str(device.pkcs11),
        "TPM2_PKCS11_TCTI": device.tcti,
        "PIN": pin,
    }
    command = ["pkcs11-tool", "--module", str(library()), "--login", "--pin", "env:PIN"]
    what = [
        "--sign",
        "--label",
        "ldevid",
        "--mechanism",
        mechanism,
        "--signature-format",
        "openssl",
    ]
    files = ["--input-file", "data", "--output-file", "signature"]
    subprocess.run(
        [*command, *what, *files], cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    verify = ["openssl", "dgst", "-sha256", "-verify", "key.pem", "-signature", "signature", "data"]
    done = subprocess.run(verify, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "Verified OK\n"


def test_files_are_as_open_as_their_readers_need_and_no_more(make_device: MakeDevice) -> None:
    device = provisioned(make_device())
    modes = {
        device.state / "ldevid.pem": 0o644,
        device.state / "ldevid-key.pem": 0o600,
        device.state / "pins.json": 0o600,
        device.aziot / "config.toml": 0o600,
        device.pkcs11: 0o700,
        device.pkcs11 / "tpm2_pkcs11.sqlite3": 0o600,
    }
    assert {path: path.stat().st_mode & 0o777 for path in modes} == modes


def test_pins_are_random_and_of_this_device_alone(make_device: MakeDevice) -> None:
    found = [json.loads((provisioned(make_device()).state / "pins.json").read_text()) for _ in "ab"]
    pins = {pin for each in found for pin in each.values()}
    assert len(pins) == 4
    assert min(map(len, pins)) >= 32


def test_a_local_ca_issues_where_a_lab_has_no_est_server(make_device: MakeDevice) -> None:
    device = make_device()
    owner = device.world.owner.save(device.directory / "owner")
    ca = {"certificate": str(owner.chain), "key": str(owner.key)}
    device.configure({"ldevid": {"est": None, "ca": ca}})
    before = len(device.world.issued(device.world.owner_est))
    provisioned(device)
    assert ldevid(device).issuer == device.world.owner.certificate.subject
    assert len(device.world.issued(device.world.owner_est)) == before


def test_what_the_operator_wrote_into_config_toml_survives(make_device: MakeDevice) -> None:
    device = make_device()
    original = '# mine\nhostname = "gateway"\n\n[moby_runtime]\nuri = "unix:///run/docker.sock"\n'
    original += 'network = "azure-iot-edge"  # ours\n'
    (device.aziot / "config.toml").write_text(original)
    provisioned(device)
    text = (device.aziot / "config.toml").read_text()
    assert '# mine\nhostname = "gateway"' in text
    assert 'network = "azure-iot-edge"  # ours' in text
    backup = device.aziot / "config.toml.before-tpm2cloud"
    assert backup.read_text() == original
    assert backup.stat().st_mode & 0o777 == 0o600


def test_a_config_toml_that_is_a_link_stays_one(make_device: MakeDevice) -> None:
    device = make_device()
    kept = device.directory / "config-on-the-data-partition.toml"
    kept.write_text("# mine\n")
    (device.aziot / "config.toml").symlink_to(kept)
    provisioned(device)
    assert (device.aziot / "config.toml").is_symlink()
    assert "# mine" in kept.read_text()
    assert "id_scope" in kept.read_text()


def test_a_change_of_the_configuration_is_applied(make_device: MakeDevice) -> None:
    device = provisioned(make_device())
    device.configure({"operational": {"renew_at": "66%"}})
    assert device.agent("status").returncode == 3
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("already done: ") == len(STEPS) - 2
    assert 'threshold = "66%"' in (device.aziot / "config.toml").read_text()


def test_a_lost_or_damaged_certificate_is_got_again_for_the_same_key(
    make_device: MakeDevice,
) -> None:
    device = provisioned(make_device())
    key = ldevid(device).public_key()
    (device.state / "ldevid.pem").unlink()
    provisioned(device)
    (device.state / "ldevid.pem").write_bytes(b"\0" * 512)
    provisioned(device)
    assert ldevid(device).public_key() == key


def test_a_lost_key_file_is_recovered_from_the_token(make_device: MakeDevice) -> None:
    device = provisioned(make_device())
    (device.state / "ldevid-key.pem").unlink()
    before = everything(device)["keys"]
    provisioned(device)
    assert everything(device)["keys"] == before


def test_keys_that_others_made_in_the_token_survive(make_device: MakeDevice) -> None:
    """The LDevID exchanged in a live store: IoT Edge's keys stay, and are still good."""
    device = provisioned(make_device())
    with Tpm(device.tcti) as tpm:
        subprocess.run(
            ["tpm2_evictcontrol", "-C", "o", "-c", "0x81000002"],
            env={**os.environ, "TPM2TOOLS_TCTI": tpm.tcti}, check=True, capture_output=True,
        )  # fmt: skip
    (device.state / "ldevid-key.pem").unlink()
    issued = len(device.world.issued(device.world.operations_est))
    before = ldevid(device).public_key()

    provisioned(device)

    assert ldevid(device).public_key() != before
    assert len(device.world.issued(device.world.operations_est)) == issued


def test_status_needs_no_credentials(make_device: MakeDevice) -> None:
    """They are the unit's alone; a technician at the console has none."""
    device = provisioned(make_device(auth="basic", operational_auth="basic"))
    for credential in device.credentials.iterdir():
        credential.unlink()
    status = device.agent("status")
    assert status.returncode == 0, status.stdout
