"""The key for the hub at its handle: a new one takes the place of the old one, and of no other."""

import contextlib
from pathlib import Path

import pytest

from agent.errors import HandleOccupied, HubKeyNotKept, TpmShared
from agent.tpm import HUB_KEY, Tpm, is_hub_key
from tests.lab import liar
from tests.lab.challenges import KEPT, OTHER, SRK, another, keep, parents, signs, socket
from tests.lab.tools import Tools

EVICT = 0x120  # TPM2_CC (TPM 2.0 Library, part 2, 6.5.2)
NV_SPACE = bytes.fromhex("80010000000a0000014b")


def test_a_new_key_takes_the_place_of_the_old_one(tpm: Tpm) -> None:
    keep(tpm)
    with another(tpm) as new:
        assert signs(tpm, KEPT)
        tpm.keep_instead(new, HUB_KEY)
        assert signs(tpm, OTHER)
        tpm.keep_instead(new, HUB_KEY)
    assert signs(tpm, OTHER)
    assert tpm.loaded() == set()


def test_the_same_key_is_not_written_twice(tpm: Tpm, tmp_path: Path) -> None:
    written = []

    def counts(command: bytes, ask: liar.Ask) -> bytes:
        written.append(liar.code(command) == EVICT)
        return ask(command)

    with (
        liar.through(socket(tpm), tmp_path / "bus", counts) as tcti,
        Tpm(tcti) as counted,
        another(counted) as new,
    ):
        for _ in range(3):
            counted.keep_instead(new, HUB_KEY)
    assert sum(written) == 2  # the SRK, and the key


@pytest.mark.parametrize("what", ["srk", "idevid", "ek", "sealed"])
def test_what_is_no_such_key_is_never_evicted(tpm: Tpm, what: str) -> None:
    parents(tpm)
    with contextlib.ExitStack() as stack:
        things = {"srk": tpm.srk("ecc256"), "idevid": tpm.idevid("ecc256")}
        things |= {"ek": tpm.ek("EK-RSA2048"), "sealed": tpm.load(SRK, *tpm.seal(SRK, b"", b"1"))}
        tpm.persist(stack.enter_context(things[what]), HUB_KEY)
    before = tpm.public(HUB_KEY)
    with another(tpm) as new, pytest.raises(HandleOccupied, match="another object is there"):
        tpm.keep_instead(new, HUB_KEY)
    assert tpm.public(HUB_KEY) == before
    assert tpm.loaded() == set()


def test_nor_is_one_for_what_has_left_the_tpm_meanwhile(tpm: Tpm) -> None:
    """Another program without a resource manager has thrown it out."""
    keep(tpm)
    with another(tpm) as new:
        with Tpm(tpm.tcti) as rude:
            rude.flush(sorted(rude.loaded()))
        with pytest.raises(TpmShared, match="sign with a loaded key"):
            tpm.keep_instead(new, HUB_KEY)
    assert signs(tpm, KEPT)


def test_nor_for_one_that_does_not_sign(tpm: Tpm) -> None:
    keep(tpm)
    with tpm.srk("ecc256") as no_key, pytest.raises(HandleOccupied, match="no key for HMAC"):
        tpm.keep_instead(no_key, HUB_KEY)
    assert signs(tpm, KEPT)


def test_where_the_old_one_is_gone_and_the_new_one_not_kept_it_is_said_and_heals(
    tpm: Tpm, tmp_path: Path
) -> None:
    """As after a power cut between the two."""
    keep(tpm)
    evictions = 0

    def full(command: bytes, ask: liar.Ask) -> bytes:
        nonlocal evictions
        evictions += liar.code(command) == EVICT
        return NV_SPACE if evictions == 2 and liar.code(command) == EVICT else ask(command)

    with (
        liar.through(socket(tpm), tmp_path / "bus", full) as tcti,
        Tpm(tcti) as crowded,
        another(crowded) as new,
    ):
        with pytest.raises(HubKeyNotKept, match="the old one is gone already") as e:
            crowded.keep_instead(new, HUB_KEY)
        assert e.value.status == 75
        assert tpm.public(HUB_KEY) is None
        crowded.keep_instead(new, HUB_KEY)
    assert signs(tpm, OTHER)


def test_a_key_that_tpm2_tools_imported_is_one_of_its_kind(tpm: Tpm, tools: Tools) -> None:
    parents(tpm)
    (tools.directory / "key").write_bytes(OTHER)
    blobs = ("-u", "key.pub", "-r", "key.priv")
    options = ("-G", "hmac", "-g", "sha256", "-a", "sign|userwithauth|noda", "-i", "key", *blobs)
    tools("import", "-C", hex(SRK), *options)
    tools("load", "-Q", "-C", hex(SRK), *blobs, "-c", "key.ctx")
    tools("evictcontrol", "-Q", "-C", "o", "-c", "key.ctx", hex(HUB_KEY))
    tools("flushcontext", "-t")
    found = tpm.public(HUB_KEY)
    assert found is not None
    assert is_hub_key(found)
    with another(tpm, KEPT) as new:
        tpm.keep_instead(new, HUB_KEY)
    assert signs(tpm, KEPT)
