"""The receipt of a device without an IDevID: its TPM has signed it, by a key that nobody has
certified."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import config
from agent.errors import ReceiptUnproven
from agent.receipt import facts, keep, lines, proof
from agent.state import State
from agent.tpm import Tpm, templates
from tests.lab import documented, receipts
from tests.lab.device import Device, Wish
from tests.lab.process import TOP
from tests.lab.receipts import makers
from tests.lab.world import World


def here(device: Device) -> facts.Here:
    return facts.Here(config.load(device.config), State(device.state), device.config)


@pytest.fixture(scope="module")
def by_iak(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """A device that DPS knows by its TPM, as it is when all steps are done."""
    wish = Wish(target="device", attestation="tpm", enrolled=False)
    with Device(world, tmp_path_factory.mktemp("iak") / "device", wish) as device:
        with Tpm(device.tcti) as tpm:
            keep.record(here(device), tpm)
        yield device


# --- believed ---


def test_an_attestation_key_is_believed_after_a_challenge_and_not_before(
    by_iak: Device, tmp_path: Path
) -> None:
    receipt, trust = by_iak.state / "receipt.jsonl", makers(by_iak, tmp_path / "roots.pem")
    verify = ["receipt", "verify", str(receipt), "--trust", str(trust)]
    unproven = by_iak.agent(*verify)
    assert unproven.returncode == 76
    assert "[receipt-unproven]" in unproven.stderr

    found = lines.parse(receipt.read_bytes())
    challenge, kept = proof.challenge(found, trust)
    (tmp_path / "challenge").write_bytes(challenge)
    out = tmp_path / "answer"
    done = by_iak.agent("receipt", "answer", str(tmp_path / "challenge"), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert out.stat().st_mode & 0o777 == 0o600
    assert (
        "in the TPM of this EK"
        in proof.proven(found, trust, proof.Answer(out.read_bytes(), kept))[1]
    )
    for wrong in (proof.Answer(bytes(32), kept), proof.Answer(out.read_bytes(), b"{}")):
        with pytest.raises(ReceiptUnproven):
            proof.proven(found, trust, wrong)


def test_the_name_of_an_iak_is_made_of_its_key_alone(by_iak: Device) -> None:
    """So a key that is not restricted to what the TPM says has another name, and gets no secret."""
    with Tpm(by_iak.tcti) as tpm, tpm.iak("ecc256") as iak:
        key = lines.parse((by_iak.state / "receipt.jsonl").read_bytes()).key
        assert key == iak.public.key
        assert proof.iak_name(key) == iak.public.name
    template = bytes(templates.iak("ecc256").publicArea.marshal())
    assert template.startswith(proof.IAK)


# --- what is in it ---


def test_a_device_that_is_named_by_its_ek_cannot_withhold_it(
    by_iak: Device, tmp_path: Path
) -> None:
    state = State(tmp_path)
    by_iak.configure({"device": {"id": "{ek}"}})
    named = facts.Here(config.load(by_iak.config), state, by_iak.config)
    by_iak.configure({})
    with Tpm(by_iak.tcti) as tpm:
        keep.record(named, tpm)
    done = by_iak.agent("receipt", "export", "--without-ek", str(state.receipt))
    assert done.returncode == 78
    assert "[receipt-names-ek]" in done.stderr


@pytest.mark.parametrize(
    ("settings", "registers"),
    [
        ({"ek": False}, 8),
        ({"pcrs": "sha256:7,23"}, 2),
        ({"pcrs": "sha512:0"}, 0),  # a bank that is not allocated
    ],
)
def test_what_is_told_besides_is_as_its_owner_wants_it(
    by_iak: Device, tmp_path: Path, settings: dict[str, Any], registers: int
) -> None:
    by_iak.configure({"receipt": settings})
    wanted = facts.Here(config.load(by_iak.config), State(tmp_path), by_iak.config)
    by_iak.configure({})
    with Tpm(by_iak.tcti) as tpm:
        keep.record(wanted, tpm)
    found = lines.parse((tmp_path / "receipt.jsonl").read_bytes())
    assert len(found.pcrs) == registers
    assert (found.ek is None) == (found.header["ek"] is None) == ("ek" in settings)


# --- from the documentation alone ---

PAGE = TOP / "docs/receipt.md"


def test_the_commands_of_the_documentation_work(by_iak: Device, tmp_path: Path) -> None:
    makers(by_iak, tmp_path / "maker-roots.pem")
    (tmp_path / "receipt.jsonl").write_bytes((by_iak.state / "receipt.jsonl").read_bytes())
    text = documented.shell(PAGE, "## A device without an IDevID")
    done = receipts.typing(by_iak, tmp_path, text)
    assert done.returncode == 0, done.stderr
    assert "which is in the TPM of this EK" in done.stdout
