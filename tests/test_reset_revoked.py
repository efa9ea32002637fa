"""What a reset says is to be revoked: its commands do it, at a CA that OpenSSL keeps."""

import shlex
import subprocess
from pathlib import Path

import pytest

from agent.reset import handover
from agent.state import State
from tests.lab import pki
from tests.test_config import GOOD, load

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

    conf = load(tmp_path, f'{GOOD}[aziot]\nstate = "{tmp_path / "aziot"}"\n')
    found = handover.gather(conf, state, lambda: "dev")
    for command in handover.commands(found):
        run(tmp_path, shlex.split(command))

    lines = (tmp_path / "index.txt").read_text().splitlines()
    assert {line.split("\t")[5]: line[0] for line in lines} == {"/CN=dev": "R", "/CN=dev-2": "V"}
    assert found["registration"] is None


def run(at: Path, command: list[str]) -> None:
    done = subprocess.run(command, cwd=at, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
