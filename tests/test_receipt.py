"""The receipt: what was done to a device, signed by its TPM, and believed by who was not there."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

import agent
from agent.errors import ReceiptInvalid
from agent.receipt import lines
from agent.tpm import Tpm
from tests.conftest import Tell
from tests.lab import documented, receipts
from tests.lab.device import Device
from tests.lab.process import TOP
from tests.lab.provisioning import HUB
from tests.lab.receipts import makers, told, verified
from tests.lab.tools import Tools
from tests.lab.world import World


def provisioned(device: Device) -> str:
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def device(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    with Device(world, tmp_path_factory.mktemp("receipt") / "device") as device:
        yield device


@pytest.fixture(scope="module")
def first(device: Device) -> bytes:
    """The receipt of a first boot."""
    provisioned(device)
    return (device.state / "receipt.jsonl").read_bytes()


@pytest.fixture(scope="module")
def second(device: Device, first: bytes) -> bytes:
    """After the certificate was lost, and got again; and the configuration changed."""
    (device.state / "ldevid.pem").unlink()
    device.configure({"health": {"interventions": 1}})
    provisioned(device)
    return (device.state / "receipt.jsonl").read_bytes()


# --- what it says ---


def test_after_the_first_boot_it_says_who_the_device_is_and_what_was_done(
    device: Device, first: bytes
) -> None:
    path = device.state / "receipt.jsonl"
    assert path.stat().st_mode & 0o777 == 0o644
    found = told(verified(device, first, "--json"))
    [event] = found["events"]
    assert event["did"] == ["provisioned"]
    assert event["clock"]["by"].startswith("localhost:")
    said = event["facts"]
    assert said["software"] == agent.__version__
    assert said["hub"] == {"host": HUB, "device_id": "device-0001"}
    leaf = x509.load_pem_x509_certificate((device.state / "ldevid.pem").read_bytes())
    assert said["ldevid"]["sha256"] == leaf.fingerprint(hashes.SHA256()).hex()
    assert int(said["ldevid"]["serial"], 16) == leaf.serial_number
    with Tpm(device.tcti) as tpm:
        ek = tpm.public(0x81010001)
        assert ek is not None
        assert found["ek"]["name"] == ek.name.hex()
    assert "IDevID of CN=board-0001" in found["proved"][0]


def test_a_run_that_changes_nothing_writes_nothing(device: Device, first: bytes) -> None:
    path = device.state / "receipt.jsonl"
    before = path.stat()
    provisioned(device)
    assert device.agent("needs-renewal").returncode == 1
    assert device.agent("health").returncode == 0
    assert path.stat() == before


def test_what_is_done_later_is_written_behind_and_is_told_from_what_was_known(
    device: Device, first: bytes, second: bytes
) -> None:
    found = told(verified(device, second, "--json"))
    assert [event["did"] for event in found["events"]] == [
        ["provisioned"],
        ["renewed", "configured"],
    ]
    digest = sha256(device.config.read_bytes()).hexdigest()
    assert found["events"][-1]["facts"]["configuration"] == digest

    kept = device.directory / "kept.jsonl"
    kept.write_bytes(first)
    assert verified(device, second, "--after", str(kept), "--at-least", "4").returncode == 0
    for options in (("--at-least", "4"), ("--after", str(device.state / "receipt.jsonl"))):
        older = verified(device, first, *options)
        assert older.returncode == 76
        assert "[receipt-older]" in older.stderr


def test_it_is_shown_to_everybody_and_nobody_is_asked_for_that(
    device: Device, second: bytes
) -> None:
    shown = device.agent("receipt")
    assert shown.returncode == 0
    assert "2. renewed, configured: " in shown.stdout
    assert "Nobody was asked who vouches for it" in shown.stdout
    assert device.agent("receipt", "export").stdout.encode() == second


# --- what nobody can change ---


def test_of_1000_random_mutations_none_is_believed(
    device: Device, first: bytes, second: bytes, tell: Tell
) -> None:
    for data in (second, lines.without_ek(second)):
        lines.parse(data)
        for what, changed in receipts.mutated(data, first, seed=1, count=500):
            with pytest.raises(ReceiptInvalid, match="cannot believe the receipt"):
                pytest.fail(f"believed: {what}: {lines.parse(changed)}")
    tell(f"1,000 mutations of a receipt, of {len(receipts.MUTATIONS)} kinds: all found")


def test_a_receipt_by_a_key_that_nobody_trusted_certified_is_refused(
    device: Device, first: bytes
) -> None:
    path = device.directory / "whole.jsonl"
    path.write_bytes(first)
    other = str(device.etc / "owner-ca.pem")
    done = device.agent("receipt", "verify", str(path), "--trust", other)
    assert done.returncode == 76
    assert "[receipt-untrusted]" in done.stderr


def test_a_changed_receipt_is_refused_by_its_code(device: Device, first: bytes) -> None:
    done = verified(device, first.replace(b"provisioned", b"Provisioned"))
    assert done.returncode == 76
    assert "does not follow the one before [receipt-invalid]" in done.stderr


def test_who_has_an_idevid_needs_no_challenge(device: Device, first: bytes, tmp_path: Path) -> None:
    trust = str(makers(device, tmp_path / "roots.pem"))
    done = device.agent(
        *("receipt", "challenge", str(device.state / "receipt.jsonl"), "--trust", trust),
        *("--out", str(tmp_path / "c"), "--secret", str(tmp_path / "s")),
    )
    assert done.returncode == 78
    assert "[receipt-needs-no-challenge]" in done.stderr


# --- without the EK ---


def test_a_copy_without_the_ek_is_believed_and_says_nothing_of_it(
    device: Device, first: bytes
) -> None:
    (device.directory / "whole.jsonl").write_bytes(first)
    whole = str(device.directory / "whole.jsonl")
    copy = device.agent("receipt", "export", "--without-ek", whole).stdout.encode()
    found = told(verified(device, copy, "--json"))
    assert found["ek"] is None
    ek = lines.parse(first).ek
    assert ek is not None
    secrets = [ek.public, *ek.certificates, ek.salt]
    assert not any(lines.text(each).encode() in copy for each in secrets)
    assert ek.name.hex().encode() not in copy


# --- what is in its way ---


def test_a_receipt_that_cannot_be_written_keeps_nothing_from_being_provisioned(
    world: World, tmp_path: Path
) -> None:
    with Device(world, tmp_path / "device") as device:
        path = device.state / "receipt.jsonl"
        path.mkdir()
        assert "[receipt-not-written]" in provisioned(device)
        assert device.agent("status").returncode == 0
        assert device.agent("receipt").returncode != 0
        path.rmdir()
        absent = device.agent("receipt")
        assert absent.returncode == 75
        assert "[receipt-absent]" in absent.stderr

        assert device.agent("needs-renewal").returncode == 0
        assert device.agent("health").returncode == 0
        assert told(device.agent("receipt", "show", "--json"))["lines"] == 3
        _damaged(device, path)


def _damaged(device: Device, path: Path) -> None:
    """Nobody's changes are signed: another receipt is begun, and says what was before."""
    damaged = path.read_bytes().replace(b'"provisioned"', b'"reset"')
    path.write_bytes(damaged)
    assert "another receipt begins" in provisioned(device)
    assert (device.state / "receipt-before.jsonl").read_bytes() == damaged
    found = told(verified(device, path.read_bytes(), "--json"))
    assert found["after"] == sha256(damaged).hexdigest()
    kept = device.directory / "kept.jsonl"
    kept.write_bytes(damaged)
    assert verified(device, path.read_bytes(), "--after", str(kept)).returncode == 76


# --- by others' tools, from the documentation alone ---

PAGE = TOP / "docs/receipt.md"


def test_openssl_and_tpm2_tools_verify_it_by_what_the_documentation_says(
    device: Device, first: bytes, second: bytes, tmp_path: Path
) -> None:
    (tmp_path / "receipt.jsonl").write_bytes(second)
    (tmp_path / "idevid-ca.pem").write_bytes((device.etc / "idevid-ca.pem").read_bytes())
    commands = documented.shell(PAGE, "## Verified without")
    done = receipts.typing(device, tmp_path, commands)
    assert done.returncode == 0, done.stderr
    assert "Verified OK" in done.stdout
    assert "idevid.pem: OK" in done.stdout

    signed = receipts.rows(second)[:-1]  # the rest of the last line is not
    kinds = {
        what: changed
        for what, changed in receipts.mutated(second, first, seed=2, count=110)
        if receipts.rows(changed)[: len(signed)] != signed
    }
    assert len(kinds) == len(receipts.MUTATIONS)
    for what, changed in kinds.items():
        (tmp_path / "receipt.jsonl").write_bytes(changed)
        assert receipts.typing(device, tmp_path, commands).returncode != 0, what


def test_a_quote_is_read_as_tpm2_tools_read_it(
    device: Device, first: bytes, tmp_path: Path
) -> None:
    (tmp_path / "quote").write_bytes(lines.blob(receipts.read(first)[-1]["quote"]))
    found = lines.parse(first).quote
    shown = Tools(device.tcti, tmp_path)("print", "-t", "TPMS_ATTEST", "quote")
    values = dict(line.strip().split(": ", 1) for line in shown.splitlines() if ": " in line)
    assert values["extraData"] == found.nonce.hex()
    assert values["qualifiedSigner"] == found.signer.hex()
    assert int(values["clock"]) == found.clock
    assert int(values["resetCount"]) == found.resets
    assert values["pcrDigest"] == found.digest.hex()
    registers = b"".join(map(bytes.fromhex, lines.parse(first).pcrs.values()))
    assert sha256(registers).digest() == found.digest


def test_the_commands_of_the_documentation_work(
    device: Device, first: bytes, second: bytes, tmp_path: Path
) -> None:
    (tmp_path / "idevid-ca.pem").write_bytes((device.etc / "idevid-ca.pem").read_bytes())
    (tmp_path / "kept.jsonl").write_bytes(first)
    titles = ("# The receipt", "## Verified with tpm2cloud", "## Without the EK")
    text = "\n".join(documented.shell(PAGE, title) for title in titles)
    done = receipts.typing(device, tmp_path, text)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Proved: ") == 4


# --- its next life ---


def test_it_goes_on_when_the_device_is_let_go_and_when_somebody_has_it_again(
    device: Device, second: bytes
) -> None:
    path, trust = device.state / "receipt.jsonl", str(device.etc / "idevid-ca.pem")
    done = device.agent("reset", "-y")
    assert done.returncode == 0, done.stderr
    again = device.agent("provision", "--again")
    assert again.returncode == 0, again.stderr
    kept = device.directory / "kept.jsonl"
    kept.write_bytes(second)
    verify = ("verify", str(path), "--trust", trust, "--after", str(kept), "--json")
    events = told(device.agent("receipt", *verify))["events"]
    assert [event["did"] for event in events[2:]] == [["reset"], ["provisioned"]]
    assert events[2]["facts"] is None
