"""The TPM in our words: adopt, make, keep, sign, and what is said when it will not."""

import time
from contextlib import ExitStack

import pytest

from agent.errors import HandleOccupied, TpmFull, TpmShared, TpmUnavailable
from agent.tpm import Tpm
from agent.tpm.templates import KeyType

SRK, KEY = 0x81000001, 0x81000002


@pytest.mark.parametrize("kind", ["ecc256", "rsa2048"])
def test_a_key_is_made_kept_and_signs_and_nothing_is_left_loaded(tpm: Tpm, kind: KeyType) -> None:
    with tpm.srk(kind) as srk:
        tpm.persist(srk, SRK)
    public, private = tpm.create_key(SRK, kind)
    with tpm.load(SRK, public, private) as key:
        tpm.persist(key, KEY)

    kept = tpm.public(KEY)
    assert kept is not None
    assert kept.blob == public
    assert kept.signs
    assert len(tpm.sign(KEY, bytes(32), "sha256")) > 64
    assert tpm.loaded() == set()


def test_the_ek_made_from_the_template_is_the_one_its_maker_left(tpm: Tpm) -> None:
    with tpm.ek("EK-RSA2048") as made:
        assert tpm.public(0x81010001) == made.public


def test_what_is_not_there_is_none(tpm: Tpm) -> None:
    assert tpm.public(0x81000123) is None
    assert tpm.nv_read(0x01C90000) is None


def test_a_handle_in_use_is_refused_by_name_and_never_evicted(tpm: Tpm) -> None:
    before = tpm.public(0x81010001)
    with tpm.srk("ecc256") as srk, pytest.raises(HandleOccupied, match="0x81010001"):
        tpm.persist(srk, 0x81010001)
    assert tpm.public(0x81010001) == before


def test_a_tpm_that_is_full_for_a_moment_is_waited_for(
    tpm: Tpm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while another resource manager has its client's objects in the three slots."""
    with ExitStack() as others:
        for _ in range(3):
            others.enter_context(tpm.srk("ecc256"))
        monkeypatch.setattr(time, "sleep", lambda _: others.close())
        with tpm.ek("EK-RSA2048") as made:
            assert tpm.loaded() == {0x80000000}
            assert made.public == tpm.public(0x81010001)


def test_one_that_stays_full_is_full(tpm: Tpm) -> None:
    with ExitStack() as others:
        for _ in range(3):
            others.enter_context(tpm.srk("ecc256"))
        with pytest.raises(TpmFull, match="0x902"), tpm.ek("EK-RSA2048"):
            pass


def test_only_a_key_of_ours_is_evicted(tpm: Tpm) -> None:
    with tpm.srk("ecc256") as srk:
        tpm.persist(srk, SRK)
    public, private = tpm.create_key(SRK, "ecc256")
    with tpm.load(SRK, public, private) as key:
        tpm.persist(key, KEY)
    tpm.evict_ours(KEY)
    assert tpm.public(KEY) is None
    for foreign in (SRK, KEY, 0x81010001):
        before = tpm.public(foreign)
        with pytest.raises(HandleOccupied, match="not ours"):
            tpm.evict_ours(foreign)
        assert tpm.public(foreign) == before


def test_no_tpm_says_what_to_do() -> None:
    with Tpm("swtpm:path=/nonexistent") as tpm, pytest.raises(TpmUnavailable) as e:
        tpm.wait(0)
    assert "open the TPM at 'swtpm:path=/nonexistent'" in str(e.value)
    assert "tpm.tcti" in e.value.remedy


def test_a_wrong_tcti_is_no_tpm() -> None:
    with Tpm("no-such-tcti:x") as tpm, pytest.raises(TpmUnavailable):
        tpm.wait(0)


def test_what_somebody_else_has_thrown_out_meanwhile_is_no_failure(tpm: Tpm, tcti: str) -> None:
    """Without a resource manager all users share the slots."""
    with tpm.srk("ecc256"), Tpm(tcti) as other:
        other.flush(sorted(other.loaded()))
    assert tpm.loaded() == set()


def test_what_is_thrown_out_while_it_is_needed_is_tried_again(tpm: Tpm, tcti: str) -> None:
    with tpm.iak("ecc256") as key:
        with Tpm(tcti) as other:
            other.flush(sorted(other.loaded()))
        with pytest.raises(TpmShared, match="not loaded") as raised:
            tpm.certify_creation(key, b"")
    assert raised.value.status == 75
