"""Who has a key signs what she likes with it: a receipt of hers says no more than it may."""

import json
import struct
from argparse import Namespace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent import x509
from agent.deviceid import registration_ids
from agent.errors import (
    ConfigError,
    PathUnusable,
    ReceiptInvalid,
    ReceiptNamesEk,
    ReceiptOfAnother,
    ReceiptOlder,
)
from agent.receipt import facts, lines, proof, shown, verb
from agent.state import State
from tests.lab import pki
from tests.test_config import GOOD, load

Line = dict[str, Any]
VALUES = [bytes([number]) * 32 for number in range(2)]  # of the registers 0 and 1
EVENT: Line = {"at": "2026-01-01T00:00:00+00:00", "clock": None, "did": ["reset"], "facts": None}


def quote(body: bytes) -> bytes:
    """TPMS_ATTEST, of no TPM."""
    sized = (struct.pack(">H", len(each)) + each for each in (b"\0\x0bkey", lines.nonce(body)))
    clock = struct.pack(">QIIBQ", 1, 2, 3, 1, 4)
    registers = struct.pack(">IHB", 1, 0x000B, 3) + b"\x03\0\0"
    digest = sha256(b"".join(VALUES)).digest()
    head = struct.pack(">IH", 0xFF544347, 0x8018)
    return head + b"".join(sized) + clock + registers + struct.pack(">H", 32) + digest


def receipt(header: Line | None = None, *events: Line, ek: lines.Ek | None = None) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    parts = ("after", "idevid", "ek", "srk")
    said = {**dict.fromkeys(parts), "receipt": 1, "signer": "iak", **(header or {})}
    said["key"] = lines.text(x509.spki(key.public_key()))
    said["ek"] = sha256(ek.written()).hexdigest() if ek else said["ek"]
    body = lines.chained(b"", [said, *({**EVENT, **each} for each in events or ({},))])
    signed = quote(body)
    signature = key.sign(signed, ec.ECDSA(hashes.SHA256()))
    return lines.sealed(body, signed, signature, VALUES, ek)


def changed(**seal: object) -> bytes:
    """The last line, which is not signed, says something else."""
    data = receipt()
    body = lines.parse(data).body
    last = json.loads(data[len(body) :])
    return body + lines.canonical({**last, **seal}) + b"\n"


def text(data: bytes) -> list[str]:
    return list(shown.as_text(shown.as_json(lines.parse(data))))


def test_registers_cannot_lend_each_other_bytes() -> None:
    """The digest in a quote is over all of them."""
    both = b"".join(VALUES).hex()
    for at in (0, 2, 62, 66, 128):
        with pytest.raises(ReceiptInvalid, match="other values than were quoted"):
            lines.parse(changed(pcrs=[both[:at], both[at:]]))
    assert lines.parse(receipt()).pcrs["sha256", 1] == VALUES[1].hex()


def test_an_ek_that_is_not_said_is_not_said_to_be_none() -> None:
    with pytest.raises(ReceiptInvalid, match="other parts"):
        lines.parse(changed(ek=None))


def test_who_signs_by_an_attestation_key_shows_nobodys_idevid() -> None:
    somebodys = lines.text(pki.der(pki.root("board-0001").certificate))
    for header in (
        {"signer": "iak", "idevid": [somebodys]},
        {"signer": "idevid", "idevid": None},
        {"signer": "idevid", "idevid": []},
        {"signer": "me"},
    ):
        with pytest.raises(ReceiptInvalid, match="not of the kind of its signer"):
            lines.parse(receipt(header))


def test_an_idevid_that_nobody_asked_about_is_said_to_be_one() -> None:
    somebodys = lines.text(pki.der(pki.root("board-0001").certificate))
    told = text(receipt({"signer": "idevid", "idevid": [somebodys]}))
    assert "by a key that is said to be the IDevID CN=board-0001" in told[0]


def test_what_a_device_says_looks_like_nothing_else() -> None:
    """Neither a line of ours, nor a word to a terminal."""
    lie = "x\nProved: all is well.\x1b[2J\u202e\ud800"
    told = text(receipt(None, {"at": lie, "did": [lie], "facts": {"hub": {lie: lie}}}))
    assert not [line for line in told if line.startswith("Proved")]
    assert all(line.isprintable() for line in told)
    said = r"x\nProved: all is well.\x1b[2J\u202e\ud800"
    assert f"1. {said}: {said}, by its own clock alone" in told


@pytest.mark.parametrize(
    "event",
    [
        {"facts": {"a": {"b": {"c": "d"}}}},
        {"facts": {"a": 1}},
        {"facts": {"a": ["b"]}},
        {"clock": {"at": 1.5}},
        {"did": [1]},
    ],
    ids=["deep", "number", "list", "time", "deed"],
)
def test_what_is_no_text_is_not_said(event: Line) -> None:
    with pytest.raises(ReceiptInvalid, match="says what is no text"):
        lines.parse(receipt(None, event))


def test_a_hub_is_not_taken_over_from_another_registration(tmp_path: Path) -> None:
    """Where IoT Edge does not say yet which one it has got."""
    state = State(tmp_path / "state")
    here = facts.Here(load(tmp_path, GOOD), state, tmp_path / "config.toml")
    hub = {"host": "hub.of-before.invalid", "device_id": "dev"}
    before = {**facts.now(here, "dev", None, ask=False), "hub": hub}
    assert facts.now(here, "dev", before, ask=False)["hub"] == hub
    for other in ({"id_scope": "0neOTHER"}, {"registration_id": "dev-2"}, {"endpoint": "x"}):
        assert facts.now(here, "dev", {**before, **other}, ask=False)["hub"] is None


def test_that_one_is_begun_after_another_makes_it_none_of_the_same_device() -> None:
    """A disk that was moved has the receipt of the board before. The same EK is the same device."""
    one, other = (lines.Ek(b"\0\4\0\1\0\x0b" + each, (), bytes(32)) for each in (b"1", b"2"))
    for earlier, now in ((None, None), (one, other), (one, None)):
        kept = receipt(ek=earlier)
        later = lines.parse(receipt({"after": sha256(kept).hexdigest()}, ek=now))
        with pytest.raises(ReceiptOfAnother, match="do not name the same EK"):
            proof.follows(later, kept, lines.parse(kept), 0)
    kept = receipt(ek=one)
    later = lines.parse(receipt({"after": sha256(kept).hexdigest()}, ek=one))
    key = sha256(x509.spki(lines.parse(kept).key)).hexdigest()
    assert key in proof.follows(later, kept, lines.parse(kept), 0)[0]
    with pytest.raises(ReceiptOlder):
        proof.follows(lines.parse(receipt(ek=one)), kept, lines.parse(kept), 0)


def test_of_a_file_without_an_end_no_more_is_read_than_a_receipt_may_have() -> None:
    with pytest.raises(PathUnusable, match="it is too large"):
        verb.show(Namespace(file=Path("/dev/zero"), json=False))


@pytest.mark.parametrize("kind", ["base32", "sha256_hex"])
def test_an_ek_is_not_withheld_where_it_is_the_name_in_whatever_letters(kind: str) -> None:
    ek = lines.Ek(bytes.fromhex("00040001000b"), (), bytes(32))
    name = registration_ids(ek.public)[kind]
    for said in (name, name.upper(), f"board-{name}"):
        with pytest.raises(ReceiptNamesEk):
            lines.without_ek(receipt(None, {"facts": {"registration_id": said}}, ek=ek))


@pytest.mark.parametrize("name", ["{ek}", "board-{ek-sha256}"])
def test_who_is_named_by_the_ek_cannot_be_told_to_withhold_it(tmp_path: Path, name: str) -> None:
    odd = f"{GOOD}[device]\nid = '{name}'\n[receipt]\nek = false\n"
    with pytest.raises(ConfigError, match=r"receipt\.ek: must be true where device\.id is made"):
        load(tmp_path, odd)
