"""What the factory step does not do, and that the board is no worse for it."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.x509 import load_pem_x509_csr

from agent import x509, x509_idevid
from agent.tpm import Tpm
from tests.conftest import MakeDevice
from tests.lab import pki
from tests.lab.device import Device
from tests.lab.line import Line
from tests.test_manufacture import VIRGIN, board
from tests.test_manufacture_places import tools

Foreign = Callable[[Device], None]


def primary(*options: str) -> Foreign:
    def make(device: Device) -> None:
        context = str(device.directory / "foreign.ctx")
        tools(device, "createprimary", "-C", "e", "-c", context, *options)
        tools(device, "evictcontrol", "-C", "o", "-c", context, "0x81020000")
        tools(device, "flushcontext", "-t")

    return make


SIGNS = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign"
FOREIGN = {
    "RSA-3072": primary("-G", "rsa3072:null:null", "-a", SIGNS),
    "P-384": primary("-G", "ecc384:null:null", "-a", SIGNS),
    "P-256, and decrypts": primary("-G", "ecc256:null:null", "-a", f"{SIGNS}|decrypt"),
    "P-256 for ECDAA": primary("-G", "ecc256:ecdaa4-sha256:null", "-a", SIGNS),
    "RSA-2048 for PSS": primary("-G", "rsa2048:rsapss-sha256:null", "-a", SIGNS),
    "with a password": primary(
        "-G", "ecc256:null:null", "-a", SIGNS.replace("|noda", ""), "-p", "secret"
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_key_that_we_would_not_have_made_is_named_and_not_tried(
    make_device: MakeDevice, name: str
) -> None:
    device = make_device(board=VIRGIN)
    FOREIGN[name](device)
    for profile, key in (("tcg", "ecc256"), ("ek-child", "rsa2048")):
        done = Line(device, "ca", profile=profile, key=key).run()
        assert done.returncode == 69
        assert "[idevid-key-other]" in done.stderr
    with Tpm(device.tcti) as tpm:
        assert tpm.budget().lockout_counter == 0


# --- who issues ---


def test_a_certificate_leads_to_a_ca_however_that_names_its_key(
    make_device: MakeDevice, tmp_path: Path
) -> None:
    """RFC 7093: a subjectKeyIdentifier need not be SHA-1 of the key. OpenSSL looks at it."""
    device = make_device(board=VIRGIN)
    line = Line(device, "ca")
    ca = pki.root("Go CA", called=bytes(range(20))).save(tmp_path / "ca")
    issuer = {"certificate": str(ca.chain), "key": str(ca.key)}
    line.configure({"idevid": {"ca": issuer, "trust": str(ca.root)}})
    line.made()
    data = board(device)[1]
    assert data is not None
    (tmp_path / "leaf.pem").write_bytes(x509.pem([x509.leading(data)]))
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(ca.root)]
    subprocess.run([*command, str(tmp_path / "leaf.pem")], check=True)


def test_what_first_boot_would_not_trust_is_not_stored(make_device: MakeDevice) -> None:
    """The line trusts the root alone, and so will the devices; the CA has an intermediate."""
    device = make_device(board=VIRGIN)
    line = Line(device, "est-basic")
    trust, world = device.etc / "idevid-ca.pem", device.world
    issued = len(world.issued(world.factory_est))
    whole = trust.read_bytes()
    trust.write_bytes(pki.pem(world.oem.root))
    done = line.run()
    assert done.returncode == 69
    assert "[idevid-untrusted]" in done.stderr
    assert board(device)[1] is None
    trust.write_bytes(whole)
    line.made()
    assert len(world.issued(world.factory_est)) == issued + 1


def test_nobody_is_asked_for_what_could_not_be_judged(make_device: MakeDevice) -> None:
    device = make_device(board=VIRGIN)
    line = Line(device, "est-basic")
    issued = len(device.world.issued(device.world.factory_est))
    line.configure({"idevid": {"trust": "/nowhere.pem"}})
    done = line.run()
    assert done.returncode == 78
    assert "[trust-unreadable]" in done.stderr
    assert len(device.world.issued(device.world.factory_est)) == issued


def test_what_an_earlier_run_left_is_judged_as_all_else(make_device: MakeDevice) -> None:
    device = make_device(board=VIRGIN)
    line = Line(device, "ca")
    csr = device.directory / "csr.pem"
    assert line.run("--csr-out", str(csr)).returncode == 0
    key = load_pem_x509_csr(csr.read_bytes()).public_key()
    evil = pki.authority("Evil").issue(key, pki.name("device-0001", serialNumber="666"))
    (device.state / "idevid-issued.pem").write_bytes(pki.pem(evil))
    line.made()
    data = board(device)[1]
    assert data is not None
    assert x509_idevid.serial_number(x509.leading(data).subject) == device.wish.id


# --- what has no place ---


def test_a_certificate_that_does_not_fit_takes_no_ones_place(
    make_device: MakeDevice, tmp_path: Path
) -> None:
    device = make_device(board=VIRGIN)
    line = Line(device, "ca", certificate=str(tmp_path / "idevid.pem"))
    line.made()
    before, csr = board(device), tmp_path / "csr.pem"
    assert line.run("--csr-out", str(csr)).returncode == 0
    asked = load_pem_x509_csr(csr.read_bytes())
    long = pki.local_names(*(f"{n:060}.example.com" for n in range(40)))
    large = device.world.oem.issue(asked.public_key(), asked.subject, extensions=[long])
    (tmp_path / "large.pem").write_bytes(pki.pem(large))
    done = line.run("--force", "--cert-in", str(tmp_path / "large.pem"))
    assert done.returncode == 69
    assert "[nv-full]" in done.stderr
    assert board(device) == before
    assert line.run().returncode == 0


def test_what_cannot_be_exchanged_is_not_issued_and_stays_good(make_device: MakeDevice) -> None:
    device = make_device(board=VIRGIN)
    line = Line(device, "est-basic")
    line.made()
    before, issued = board(device), len(device.world.issued(device.world.factory_est))
    tools(device, "changeauth", "-c", "platform", "firmwares-secret")
    done = line.run("--force")
    assert done.returncode == 69
    assert "[tpm-platform-locked]" in done.stderr
    assert len(device.world.issued(device.world.factory_est)) == issued
    assert line.run().returncode == 0
    assert board(device) == before


def test_a_certificate_that_is_not_needed_is_not_used_and_that_is_said(
    make_device: MakeDevice, tmp_path: Path
) -> None:
    device = make_device(board=VIRGIN)
    line = Line(device, "ca")
    line.made()
    before = board(device)
    (tmp_path / "other.pem").write_bytes(pki.pem(device.world.oem.certificate))
    done = line.run("--cert-in", str(tmp_path / "other.pem"))
    assert done.returncode == 0
    assert "was not used: a good one is there" in done.stderr
    assert board(device) == before


# --- what a board is called ---


def test_a_board_that_has_another_name_is_not_taken_for_this_one(make_device: MakeDevice) -> None:
    device = make_device(board=VIRGIN)
    line = Line(device, "ca")
    line.made()
    line.configure({"idevid": {"subject": {"serial_number": "another"}}})
    done = line.run()
    assert done.returncode == 69
    assert "names 'device-0001' [idevid-other]" in done.stderr
    line.made("--force")


@pytest.mark.parametrize(
    ("subject", "code"),
    [
        ({"common_name": "é" * 33}, "subject-invalid"),
        ({"serial_number": "größe"}, "subject-invalid"),
        ({"serial_number": "{serial}"}, "subject-invalid"),
        ({"serial_number": "{machine-id}"}, "factory-config-invalid"),
        ({"country": "us"}, "factory-config-invalid"),
    ],
)
def test_a_name_that_no_board_can_have(
    make_device: MakeDevice, subject: dict[str, str], code: str
) -> None:
    device = make_device(board=VIRGIN)
    line = Line(device, "ca")
    line.configure({"idevid": {"subject": subject}})
    done = line.run()
    assert done.returncode == 78
    assert f"[{code}]" in done.stderr
    assert board(device) == (None, None)


# --- carelessness ---


@pytest.mark.parametrize(("method", "file"), [("ca", "oem/key.pem"), ("est-mtls", "station.key")])
def test_a_private_key_that_others_can_read_is_not_used(
    make_device: MakeDevice, method: str, file: str
) -> None:
    device = make_device(board=VIRGIN)
    line = Line(device, method)  # type: ignore[arg-type]
    (line.directory / file).chmod(0o644)
    done = line.run()
    assert done.returncode == 78
    assert "others than its owner may read it" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--force", "--csr-out", "x"],
        ["--challenge-in", "x"],
        ["--csr-out", "x", "--cert-in", "y"],
    ],
)
def test_options_that_make_no_sense_together_are_a_usage_error(
    make_device: MakeDevice, arguments: list[str]
) -> None:
    device = make_device(board=VIRGIN)
    done = Line(device, "ca").run(*arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_dry_run_tells_of_a_board_whose_ek_somebody_evicted(make_device: MakeDevice) -> None:
    device = make_device(board=VIRGIN)
    line = Line(device, "ca", profile="ek-child")
    line.made()
    tools(device, "evictcontrol", "-C", "o", "-c", "0x81010001")
    done = line.run("--dry-run")
    assert done.returncode == 0, done.stderr
    assert "ek           would be done" in done.stdout
    assert "idevid-key   done" in done.stdout
    line.made()
