"""HMAC with the key that a hub knows too: equal to what Python computes of it."""

import hashlib
import hmac
from pathlib import Path

import pytest

from agent.errors import HandleOccupied, TpmAuth, TpmError, TpmLockout
from agent.tpm import HUB_KEY, Public, Tpm, is_hub_key
from tests.lab import dps_tpm, liar
from tests.lab.challenges import EK, KEPT, SRK, keep, of, parents, socket
from tests.lab.states import evict
from tests.lab.tools import Tools

KEYS = [bytes(range(size)) for size in (16, 32, 64)]
TOKEN = b"hub.example%2Fdevices%2Fsensor-1\n1700000000"
UPDATE = 0x15C  # TPM2_CC_SequenceUpdate (TPM 2.0 Library, part 2, 6.5.2)
FAILURE = bytes.fromhex("80010000000a00000101")
LENGTHS = (0, 1, 63, 64, 65, 1023, 1024, 1025, 2047, 2048, 2049, 3000)


def kept(tpm: Tpm) -> Public:
    found = tpm.public(HUB_KEY)
    assert found is not None
    return found


@pytest.mark.parametrize("key", KEYS, ids=len)
def test_messages_of_every_length_are_signed_as_python_signs_them(tpm: Tpm, key: bytes) -> None:
    """A TPM takes 1024 bytes at once."""
    with tpm.load(SRK, *tpm.imported(of(tpm, key), EK, SRK)) as loaded:
        for size in LENGTHS:
            message = bytes(each % 251 for each in range(size))
            assert tpm.hmac(loaded, message) == hmac.digest(key, message, "sha256"), size
    assert tpm.loaded() == set()


def test_one_that_is_kept_signs_too(tpm: Tpm) -> None:
    keep(tpm)
    assert is_hub_key(kept(tpm))
    for message in (TOKEN, TOKEN * 100):
        assert tpm.hmac(HUB_KEY, message) == hmac.digest(KEPT, message, hashlib.sha256)
    assert tpm.loaded() == set()


@pytest.mark.parametrize("message", [TOKEN, TOKEN * 100], ids=["short", "long"])
def test_neither_message_nor_signature_is_in_the_clear_on_the_bus(
    tpm: Tpm, tools: Tools, tmp_path: Path, message: bytes
) -> None:
    """Over the bus of a board anybody listens; without a storage key there is nothing to hide it
    by, and it is seen there."""
    keep(tpm)
    made, said = hmac.digest(KEPT, message, "sha256"), bytearray()

    def heard(command: bytes, ask: liar.Ask) -> bytes:
        reply = ask(command)
        said.extend(command + reply)
        return reply

    with liar.through(socket(tpm), tmp_path / "bus", heard) as tcti:
        with Tpm(tcti) as overheard:
            assert overheard.hmac(HUB_KEY, message) == made
        assert message[:1024] not in said
        assert made not in said
        evict(tools, hex(SRK))
        with Tpm(tcti) as overheard:
            assert overheard.hmac(HUB_KEY, message) == made
        assert made in said


def test_a_storage_key_that_is_none_hides_nothing_and_hinders_nothing(
    tpm: Tpm, tools: Tools
) -> None:
    keep(tpm)
    evict(tools, hex(SRK))
    with tpm.idevid("ecc256") as no_parent:
        tpm.persist(no_parent, SRK)
    assert tpm.hmac(HUB_KEY, TOKEN) == hmac.digest(KEPT, TOKEN, "sha256")
    assert tpm.loaded() == set()


def test_a_long_message_that_is_cut_off_leaves_nothing_in_the_tpm(tpm: Tpm, tmp_path: Path) -> None:
    keep(tpm)

    def fails(command: bytes, ask: liar.Ask) -> bytes:
        return FAILURE if liar.code(command) == UPDATE else ask(command)

    with liar.through(socket(tpm), tmp_path / "bus", fails) as tcti, Tpm(tcti) as failing:
        with pytest.raises(TpmError, match="sign with 0x81000100"):
            failing.hmac(HUB_KEY, TOKEN * 100)
        assert failing.loaded() == set()
        assert failing.hmac(HUB_KEY, TOKEN) == hmac.digest(KEPT, TOKEN, "sha256")


# --- no such key ---


def test_a_key_of_another_kind_does_not_sign(tpm: Tpm) -> None:
    with tpm.srk("ecc256") as srk:
        tpm.persist(srk, HUB_KEY)
        with pytest.raises(HandleOccupied, match="cannot sign with a loaded key: it is no key for"):
            tpm.hmac(srk, TOKEN)
    with pytest.raises(HandleOccupied, match="cannot sign with 0x81000100: it is no key for HMAC"):
        tpm.hmac(HUB_KEY, TOKEN)
    assert not is_hub_key(kept(tpm))
    assert tpm.loaded() == set()


def test_where_there_is_no_key_it_is_said(tpm: Tpm) -> None:
    with pytest.raises(TpmError, match=r"cannot sign with 0x81000100: .*\(0x18b\)"):
        tpm.hmac(HUB_KEY, TOKEN)


def test_a_key_whose_password_counts_signs_while_that_is_empty(tpm: Tpm) -> None:
    parts = dps_tpm.wrapped(parents(tpm), KEPT, attributes=0x00040040)
    with tpm.load(SRK, *tpm.imported(b"".join(parts), EK, SRK)) as loaded:
        assert loaded.public.locks
        assert tpm.hmac(loaded, TOKEN) == hmac.digest(KEPT, TOKEN, "sha256")
    assert tpm.budget().lockout_counter == 0


def test_one_with_a_password_never_costs_the_last_try(tpm: Tpm, tools: Tools) -> None:
    parents(tpm)
    blobs = ("-u", "key.pub", "-r", "key.priv")
    attributes = ("-a", "sensitivedataorigin|userwithauth|sign")
    tools("create", "-Q", "-C", hex(SRK), "-G", "hmac:sha256", *attributes, "-p", "secret", *blobs)
    tools("load", "-Q", "-C", hex(SRK), *blobs, "-c", "key.ctx")
    tools("evictcontrol", "-Q", "-C", "o", "-c", "key.ctx", hex(HUB_KEY))
    tools("flushcontext", "-t")
    for _ in range(2):
        with pytest.raises(TpmAuth, match="sign with 0x81000100"):
            tpm.hmac(HUB_KEY, TOKEN)
    for _ in range(4):
        with pytest.raises(TpmLockout, match="key at 0x81000100: its password may be another"):
            tpm.hmac(HUB_KEY, TOKEN * 100)
    budget = tpm.budget()
    assert (budget.lockout_counter, budget.in_lockout) == (2, False)
    assert tpm.loaded() == set()
