"""The factory step: from a TPM as its maker ships it to a board that provisions itself."""

import csv
import io
import itertools
import json
import subprocess
import time
from pathlib import Path

import pytest
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
