"""The factory step: from a TPM as its maker ships it to a board that provisions itself."""

import csv
import io
import itertools
import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import (
    Certificate,
    SubjectAlternativeName,
    load_der_x509_certificate,
    load_pem_x509_csr,
)

from agent import x509, x509_idevid
from agent.steps.idevid import HANDLE, INDEX
from agent.tpm import Public, Tpm
from tests.conftest import MakeDevice, Tell
from tests.lab import pki
from tests.lab.device import Device
from tests.lab.factory import Board
from tests.lab.line import METHODS, Line, Method
from tests.test_provision import provisioned

VIRGIN = Board(virgin=True)
PROFILES, KINDS = ("tcg", "ek-child"), ("ecc256", "rsa2048")
MATRIX = list(itertools.product(PROFILES, KINDS, METHODS))


@pytest.fixture(scope="module")
def rows() -> list[str]:
    """What is seen of each run."""
    return [f"{'profile':9} {'key':8} {'method':11} {'manufacture':>11} {'first boot':>11}"]


@pytest.mark.parametrize(("profile", "key", "method"), MATRIX)
def test_a_board_is_made_and_provisions_itself(
    make_device: MakeDevice, rows: list[str], tell: Tell, profile: str, key: str, method: Method
) -> None:
    device = make_device(board=VIRGIN, id=f"board-{profile}-{key}-{method}")
    line = Line(device, method, profile=profile, key=key)
    started = time.monotonic()
    line.made()
    made = time.monotonic()
    assert "idevid" in device.agent("provision").stderr
    ended = time.monotonic()
    assert device.agent("status").returncode == 0
    times = f"{made - started:9.2f} s {ended - made:9.2f} s"
    rows.append(f"{profile:9} {key:8} {method:11} {times}")
    if len(rows) > len(MATRIX):
        tell("\n".join(rows))


# --- what is left in the TPM ---


def board(device: Device) -> tuple[Public | None, bytes | None]:
    with Tpm(device.tcti) as tpm:
        return tpm.public(HANDLE), tpm.nv_read(INDEX)


def certificate(device: Device) -> Certificate:
    data = board(device)[1]
    assert data is not None
    return load_der_x509_certificate(data)


def test_a_second_run_verifies_and_changes_nothing(make_device: MakeDevice) -> None:
    device = make_device(board=VIRGIN)
    line = Line(device, "est-basic")
    line.made()
    before, issued = board(device), len(device.world.issued(device.world.factory_est))
    again = line.run()
    assert again.returncode == 0
    assert " done: " not in again.stderr.replace("already done: ", "")
    assert board(device) == before
    assert len(device.world.issued(device.world.factory_est)) == issued


def test_force_gets_a_new_certificate_for_the_same_key(make_device: MakeDevice) -> None:
    device = make_device(board=VIRGIN)
    line = Line(device, "ca")
    line.made()
    key, old = board(device)
    subject = {"unit": "a longer name, so that the certificate needs another index"}
    line.configure({"idevid": {"subject": subject}})
    assert "it names" in line.run().stderr
    line.made("--force")
    assert board(device)[0] == key
    assert board(device)[1] != old
    assert "it names" not in line.run().stderr


def test_the_certificate_is_one_of_802_1ar(make_device: MakeDevice) -> None:
    device = make_device(board=VIRGIN, id="4711")
    subject = {"organization": "Contoso", "country": "US", "hardware_type": "1.3.6.1.4.1.99999.7"}
    line = Line(device, "ca", subject=subject | {"serial_number": "SN 4711", "common_name": "x"})
    made = line.run()
    assert made.returncode == 0
    assert made.stderr.rstrip().endswith("serialNumber=SN 4711,CN=x,O=Contoso,C=US")
    found = certificate(device)
    assert found.not_valid_after_utc == x509_idevid.FOREVER
    assert x509_idevid.serial_number(found.subject) == "SN 4711"
    names = x509.extension(found, SubjectAlternativeName)
    assert names is not None
    openssl = ["openssl", "x509", "-inform", "der", "-noout", "-ext", "keyUsage,subjectAltName"]
    shown = subprocess.run(openssl, input=board(device)[1], capture_output=True, check=True).stdout
    assert b"Digital Signature" in shown
    [name] = names
    parsed = subprocess.run(
        ["openssl", "asn1parse", "-inform", "der"],
        input=name.value, capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert b"1.3.6.1.4.1.99999.7" in parsed
    assert b"SN 4711" in name.value


def test_what_is_shown_on_stdout_is_what_identity_tells_and_merge_takes(
    make_device: MakeDevice, tmp_path: Path
) -> None:
    files = []
    for number in range(2):
        device = make_device(board=Board(virgin=True, id=f"v{number}"), id=f"board-{number}")
        made = Line(device, "ca").run()
        assert made.stdout.count("\n") == 1
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(made.stdout)
        told = json.loads(device.agent("identity", "--json").stdout)
        assert told["idevid"] == json.loads(made.stdout)["idevid"]
        assert told["endorsement_key"] == json.loads(made.stdout)["endorsement_key"]
    again = tmp_path / "both.jsonl"
    again.write_text("".join(file.read_text() for file in [*files, files[0]]))
    for exports in (files, [again]):
        merged = device.agent("identity", "--merge", *map(str, exports))
        assert merged.returncode == 0, merged.stderr
        assert len(list(csv.DictReader(io.StringIO(merged.stdout)))) == 2


def test_a_result_that_cannot_be_written_is_a_failure(make_device: MakeDevice) -> None:
    line = Line(make_device(board=VIRGIN), "ca")
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            line.command(), env=line.board.environment(), stdout=full, stderr=subprocess.PIPE,
            text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 75
    assert "cannot write the result: No space left on device [disk-full]" in done.stderr


# --- a CA that is out of reach ---


def test_a_request_is_carried_to_a_ca_and_its_certificate_back(
    make_device: MakeDevice, tmp_path: Path
) -> None:
    device = make_device(board=VIRGIN)
    line = Line(device, "ca")
    line.configure({"idevid": {"ca": None}})
    refused = line.run()
    assert refused.returncode == 78
    assert "[issuer-missing]" in refused.stderr
    assert line.run("--csr-out", str(tmp_path / "csr.pem")).returncode == 0
    csr = load_pem_x509_csr((tmp_path / "csr.pem").read_bytes())
    assert csr.is_signature_valid

    oem = device.world.oem
    (tmp_path / "cert.der").write_bytes(pki.der(oem.issue(csr.public_key(), csr.subject)))
    line.made("--cert-in", str(tmp_path / "cert.der"))
    provisioned(device)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "certificate-file-unusable"),
        (b"no certificate", "certificate-file-unusable"),
        ("another key's", "issued-for-another-key"),
        ("another board's", "issued-with-wrong-name"),
        ("another CA's", "issued-by-another-ca"),
        ("a CA's", "issued-as-ca"),
    ],
)
def test_a_certificate_that_is_not_this_boards_is_not_stored(
    make_device: MakeDevice, tmp_path: Path, content: bytes | str, code: str
) -> None:
    device = make_device(board=VIRGIN)
    line = Line(device, "ca")
    file = tmp_path / "answer.pem"
    assert line.run("--csr-out", str(file)).returncode == 0
    csr, oem = load_pem_x509_csr(file.read_bytes()), device.world.oem
    key = csr.public_key()
    answers = {
        "another key's": lambda: oem.issue(pki.new_key().public_key(), csr.subject),
        "another board's": lambda: oem.issue(key, pki.name("device-0001", serialNumber="x")),
        "another CA's": lambda: pki.authority("Somebody else").issue(key, csr.subject),
        "a CA's": lambda: oem.issue(key, csr.subject, ca=True),
    }
    data = content if isinstance(content, bytes) else pki.pem(answers[content]())
    file.write_bytes(data)
    done = line.run("--cert-in", str(file))
    assert f"[{code}]" in done.stderr
    assert board(device)[1] is None
    assert not list(device.state.glob("idevid*"))


# --- what the TPM holds already, and what it refuses ---


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
