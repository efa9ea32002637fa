"""A CA that issues on evidence alone: it trusts TPM makers, and no factory line."""

from pathlib import Path

import pytest
from cryptography import x509

from tests.conftest import MakeDevice
from tests.lab import pki, swtpm
from tests.lab.factory import Board
from tests.lab.line import Line
from tests.lab.tcg_request import Refused
from tests.lab.verifier import Verifier
from tests.lab.world import World
from tests.test_provision import provisioned

VIRGIN = Board(virgin=True)
MODEL = "Gateway 7"
BY_FILE = {"idevid": {"ca": None, "csr": "tcg", "model": MODEL}}


def verifier(world: World, *serials: str) -> Verifier:
    roots = x509.load_pem_x509_certificates(swtpm.roots(world.maker).read_bytes())
    between = x509.load_pem_x509_certificates((world.maker / "issuercert.pem").read_bytes())
    return Verifier(roots, between, dict.fromkeys(serials, MODEL))


@pytest.mark.parametrize("key", ["ecc256", "rsa2048"])
def test_a_certificate_is_issued_on_evidence_and_the_board_provisions_itself(
    make_device: MakeDevice, tmp_path: Path, key: str
) -> None:
    device = make_device(board=VIRGIN, id=f"board-evidence-{key}")
    line = Line(device, "ca", profile="tcg", key=key)
    line.configure(BY_FILE)
    request, challenge, answer, issued = (
        tmp_path / name for name in ("request", "challenge", "answer", "issued.pem")
    )
    assert line.run("--csr-out", str(request)).returncode == 0
    ca = verifier(device.world, device.wish.id)
    number, data = ca.challenge(request.read_bytes())
    challenge.write_bytes(data)
    done = line.run("--challenge-in", str(challenge), "--answer-out", str(answer))
    assert done.returncode == 0, done.stderr
    claim = ca.release(number, answer.read_bytes())
    assert claim.product == (MODEL, device.wish.id)

    subject = pki.name(claim.product[1], serialNumber=claim.product[1])
    issued.write_bytes(pki.pem(device.world.oem.issue(claim.idevid.key, subject)))
    line.made("--cert-in", str(issued))
    provisioned(device)


def test_a_board_does_not_answer_what_is_for_another(
    make_device: MakeDevice, tmp_path: Path
) -> None:
    """And so gets nothing on evidence that it has from that one."""
    virgins = [VIRGIN, Board(id="another", virgin=True)]
    one, another = (Line(make_device(board=board), "ca", profile="tcg") for board in virgins)
    for line in (one, another):
        line.configure(BY_FILE)
    request, challenge, answer = (tmp_path / name for name in ("request", "challenge", "answer"))
    assert one.run("--csr-out", str(request)).returncode == 0
    ca = verifier(one.board.world, one.board.wish.id)
    number, data = ca.challenge(request.read_bytes())
    for sent, status, code in (
        (data, 69, "credential-refused"),
        (data[:-1], 76, "challenge-garbled"),
        (b"", 76, "challenge-garbled"),
    ):
        challenge.write_bytes(sent)
        done = another.run("--challenge-in", str(challenge), "--answer-out", str(answer))
        assert done.returncode == status
        assert f"[{code}]" in done.stderr
        assert not answer.exists()
    with pytest.raises(Refused, match="answer-wrong"):
        ca.release(number, b"")
