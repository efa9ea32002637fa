"""What a reset says is to be revoked: its commands do it, at a CA that OpenSSL keeps."""

import shlex
import subprocess
from pathlib import Path

import pytest
from cryptography.x509 import Certificate

from agent import x509
from agent.receipt import facts
from agent.reset import handover
from agent.state import State
from tests.lab import pki
from tests.test_config import GOOD, load
from tests.test_receipt_forged import receipt

CA = """\
[ca]
default_ca = here

[here]
database = index.txt
new_certs_dir = newcerts
certificate = ca.pem
private_key = ca-key.pem
default_md = sha256
"""


@pytest.fixture
def authority(tmp_path: Path) -> pki.Authority:
    """In its own directory, as the manual of openssl-ca(1) has it."""
    made = pki.root("Owner CA")
    (tmp_path / "newcerts").mkdir()
    (tmp_path / "CA.cnf").write_text(CA)
    (tmp_path / "index.txt").touch()
    (tmp_path / "ca.pem").write_bytes(pki.pem(made.certificate))
    pki.write_private(tmp_path / "ca-key.pem", pki.private_pem(made.key))
    return made


def test_the_commands_of_the_hand_over_revoke_just_what_the_device_had(
    tmp_path: Path, authority: pki.Authority
) -> None:
    ours, other = (authority.issue(pki.new_key().public_key(), name) for name in ("dev", "dev-2"))
    state = State(tmp_path / "state")
    state.directory.mkdir()
    state.ldevid_cert.write_bytes(pki.pem(ours, authority.certificate))
    for each in (ours, other):
        digits = f"{each.serial_number:X}"
        file = f"newcerts/{digits.zfill(len(digits) + len(digits) % 2)}.pem"
        (tmp_path / file).write_bytes(pki.pem(each))
        run(tmp_path, ["openssl", "ca", "-config", "CA.cnf", "-valid", file])

    conf = load(
        tmp_path, f'{GOOD}[aziot]\ndirectory = "{tmp_path}"\nstate = "{tmp_path / "aziot"}"\n'
    )
    found = handover.gather(conf, state, lambda: "dev")
    for command in handover.commands(found):
        run(tmp_path, shlex.split(command))

    lines = (tmp_path / "index.txt").read_text().splitlines()
    assert {line.split("\t")[5]: line[0] for line in lines} == {"/CN=dev": "R", "/CN=dev-2": "V"}
    assert found["registration"] is None


def test_certificates_that_were_renewed_since_are_to_be_revoked_too(
    tmp_path: Path, authority: pki.Authority
) -> None:
    """Those of this owner, that are valid still, each once."""
    now, before, at_first, others = (
        authority.issue(pki.new_key().public_key(), name) for name in ("d", "d", "d", "other")
    )
    over = {**ldevid(at_first), "sha256": "00", "not_after": "2020-01-01T00:00:00+00:00"}
    told = [None, over, ldevid(at_first), ldevid(before), ldevid(before), ldevid(now)]
    events = [{"facts": {"ldevid": each}} if each else {"facts": None} for each in told]
    state = State(tmp_path / "state")
    state.directory.mkdir()
    state.ldevid_cert.write_bytes(pki.pem(now, authority.certificate))
    state.receipt.write_bytes(receipt(None, {"facts": {"ldevid": ldevid(others)}}, *events))

    conf = load(
        tmp_path, f'{GOOD}[aziot]\ndirectory = "{tmp_path}"\nstate = "{tmp_path / "aziot"}"\n'
    )
    found = handover.gather(conf, state, lambda: "dev")["certificates"]
    assert [each["sha256"] for each in found] == [
        x509.fingerprint(each) for each in (now, before, at_first)
    ]
    serials = [int(each["serial"], 16) for each in found]
    assert serials == [each.serial_number for each in (now, before, at_first)]
    state.receipt.write_bytes(b"damaged")
    assert len(handover.gather(conf, state, lambda: "dev")["certificates"]) == 1


def ldevid(leaf: Certificate) -> dict[str, str]:
    found = facts._certificate([leaf])
    assert found is not None
    return found


def run(at: Path, command: list[str]) -> None:
    done = subprocess.run(command, cwd=at, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
