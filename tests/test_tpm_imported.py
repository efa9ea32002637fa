"""Keys that DPS seals for one TPM: taken apart, imported, kept; and all that is no such key."""

import shutil
from base64 import b64decode
from pathlib import Path

import pytest

from agent import ek
from agent.errors import (
    AgentError,
    ChallengeInvalid,
    ChallengeOfAnother,
    KeyImportRefused,
    TpmAuth,
    TpmError,
)
from agent.tpm import HUB_KEY, Challenge, Tpm, Transient
from tests.lab import challenges, credential, dps_tpm, liar, states, swtpm, tpm_wire
from tests.lab.challenges import EK, KEPT, OTHER, SRK, keep, of, parents, signs, socket
from tests.lab.states import Maker
from tests.lab.tools import Tools

ACTIVATE = 0x147  # TPM2_CC (TPM 2.0 Library, part 2, 6.5.2)
FAILURE = bytes.fromhex("80010000000a00000101")


def two(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def area(blob: bytes) -> tpm_wire.Area:
    return tpm_wire.area(blob[2:])


def takes(tpm: Tpm, blob: bytes, key: bytes = KEPT, at: int | Transient = EK) -> bool:
    with tpm.load(SRK, *tpm.imported(blob, at, SRK)) as loaded:
        found = signs(tpm, key, loaded)
    return found and tpm.loaded() - {int(HUB_KEY)} == set()


# --- taken apart, without a TPM ---

PUBLIC = bytes.fromhex("0008 000b 00040440 0000 0005 000b 0020") + bytes(32)
SOUND = [two(bytes(52)), two(bytes(256)), two(bytes(142)), two(bytes(256)), two(PUBLIC)]
MISFITS = {
    "another kind": PUBLIC.replace(b"\0\x08", b"\0\x01", 1),
    "another name": PUBLIC.replace(b"\0\x0b", b"\0\x0c", 1),
    **{
        f"attributes {bits}": PUBLIC.replace(b"\0\x04\x04\x40", bytes.fromhex(bits))
        for bits in ("00060440", "00050440", "00040442", "00040450", "00000440", "00040400")
    },
    "another scheme": PUBLIC.replace(b"\0\x05\0\x0b", b"\0\x0a\0\x0b"),
    "another hash": PUBLIC.replace(b"\0\x05\0\x0b", b"\0\x05\0\x04"),
    "an odd policy": PUBLIC.replace(b"\x04\x40\0\0", b"\x04\x40\0\x01\0"),
    "cut": PUBLIC[:-1],
    "more behind": PUBLIC + b"\0",
    "only a head": PUBLIC[:4],
}


def test_a_key_from_dps_is_taken_apart() -> None:
    found = Challenge.parse(b"".join(SOUND))
    assert [two(getattr(found, name)) for name in Challenge.__match_args__] == SOUND
    policy = PUBLIC.replace(b"\x04\x40\0\0", b"\x04\x40\0\x20" + bytes(32))
    assert Challenge.parse(b"".join([*SOUND[:4], two(policy)])).public == policy


def test_what_is_behind_it_is_not_looked_at_but_must_not_be_long() -> None:
    for trailer in (b"\0", two(bytes(154)), bytes(4096)):
        assert Challenge.parse(b"".join(SOUND) + trailer).public == PUBLIC
    for trailer in (bytes(4097), bytes(65536)):
        with pytest.raises(ChallengeInvalid, match="cannot use the key from DPS"):
            Challenge.parse(b"".join(SOUND) + trailer)


def test_wherever_it_ends_too_early_it_is_refused() -> None:
    whole = b"".join(SOUND)
    for size in range(len(whole)):
        with pytest.raises(ChallengeInvalid, match="it ends in its"):
            Challenge.parse(whole[:size])


@pytest.mark.parametrize("part", range(5))
@pytest.mark.parametrize("size", [0, 1025])
def test_every_part_has_a_largest_size_and_none_is_empty(part: int, size: int) -> None:
    parts = [*SOUND[:part], two(bytes(size)), *SOUND[part + 1 :]]
    with pytest.raises(ChallengeInvalid, match=rf"has {size} bytes"):
        Challenge.parse(b"".join(parts))


@pytest.mark.parametrize("what", MISFITS)
def test_a_key_for_anything_but_hmac_with_sha256_is_refused(what: str) -> None:
    with pytest.raises(ChallengeInvalid, match="cannot use the key from DPS: its key is") as e:
        Challenge.parse(b"".join([*SOUND[:4], two(MISFITS[what])]))
    assert e.value.status == 76


# --- imported ---


@pytest.mark.parametrize(("size", "whole"), [(16, 904), (32, 920), (64, 952)])
def test_keys_of_every_size_that_hubs_have(tpm: Tpm, size: int, whole: int) -> None:
    """The challenges that were recorded from DPS have 920 bytes."""
    key = bytes(range(size))
    blob = of(tpm, key)
    assert len(blob) == whole
    assert takes(tpm, blob, key)


STORAGE_KEYS: dict[str, Maker] = {
    "systemd": states.srk_of_systemd,
    "scripts": states.srk_of_the_seed_scripts,
    "guidance": states.srk_of_windows,
}


@pytest.mark.parametrize("whose", STORAGE_KEYS)
def test_below_the_storage_key_of_whoever_was_here_before(
    tpm: Tpm, tools: Tools, whose: str
) -> None:
    """That of the scripts is subject to lockout, and its password is not known to be empty."""
    STORAGE_KEYS[whose](tools)
    assert takes(tpm, of(tpm))
    assert tpm.budget().lockout_counter == 0


def test_by_the_ek_that_dps_is_shown_whosever_it_is(tpm: Tpm, tools: Tools) -> None:
    """The Azure SDK's; then none is kept, and the TCG's is made for the purpose."""
    srk = parents(tpm).srk
    states.ek_of_the_azure_sdk(tools)
    for _ in range(2):
        with ek.for_dps(tpm) as (at, public):
            blob = b"".join(dps_tpm.wrapped(dps_tpm.Parents(public.blob, srk), KEPT))
            blobs = tpm.imported(blob, at, SRK)
        with tpm.load(SRK, *blobs) as loaded:
            assert signs(tpm, KEPT, loaded)
        if at == EK:
            states.evict(tools, hex(EK))
    assert isinstance(at, Transient)
    assert tpm.loaded() == set()


def test_by_elliptic_keys_too(tpm: Tpm) -> None:
    with tpm.srk("ecc256") as srk:
        tpm.persist(srk, SRK)
    with tpm.ek("EK-ECC256") as by:
        blob = b"".join(dps_tpm.wrapped(dps_tpm.Parents(by.public.blob, srk.public.blob), KEPT))
        blobs = tpm.imported(blob, by, SRK)
    with tpm.load(SRK, *blobs) as loaded:
        assert signs(tpm, KEPT, loaded)
    assert tpm.loaded() == set()


def test_the_passwords_of_the_hierarchies_are_asked_for(tpm: Tpm, tools: Tools) -> None:
    """The endorsement's to open a key, the owner's to keep it."""
    blob = of(tpm)
    states.password("owner", "endorsement")(tools)
    with pytest.raises(TpmAuth, match="activate a credential"):
        tpm.imported(blob, EK, SRK)
    secret = states.PASSWORD.encode()
    with Tpm(tpm.tcti, {"endorsement": secret}) as half:
        blobs = half.imported(blob, EK, SRK)
        with half.load(SRK, *blobs) as loaded, pytest.raises(TpmAuth, match="keep a key"):
            half.keep_instead(loaded, HUB_KEY)
        assert half.loaded() == set()
    with Tpm(tpm.tcti, {"endorsement": secret, "owner": secret}) as knowing:
        keep(knowing)
        assert signs(knowing, KEPT)


def test_no_secret_of_it_is_in_the_clear_on_the_bus(tpm: Tpm, tmp_path: Path) -> None:
    blob, said = of(tpm), bytearray()
    parts = Challenge.parse(blob)
    inner = tpm.activate(SRK, EK, parts.credential, parts.secret, parent=True)

    def heard(command: bytes, ask: liar.Ask) -> bytes:
        reply = ask(command)
        said.extend(command + reply)
        return reply

    with liar.through(socket(tpm), tmp_path / "bus", heard) as tcti, Tpm(tcti) as overheard:
        assert takes(overheard, blob)
    assert parts.duplicate in said
    assert inner not in said
    assert KEPT not in said


# --- what makes no sense to the TPM ---

SPOILT: dict[str, type[AgentError]] = {
    "truncated": ChallengeInvalid,
    "oversized": ChallengeInvalid,
    "empty": ChallengeInvalid,
    "other-ek": ChallengeOfAnother,
    "other-srk": ChallengeOfAnother,
    "flipped-credential": ChallengeOfAnother,
    "flipped-secret": ChallengeOfAnother,
    "flipped-private": KeyImportRefused,
    "flipped-seed": KeyImportRefused,
    "flipped-public": KeyImportRefused,
}


def test_each_kind_of_damage_has_its_name_and_the_key_in_use_stays(tpm: Tpm) -> None:
    """To a damaged RSA secret the TPM says that it is broken; it is well after that."""
    keep(tpm)
    for how, kind in SPOILT.items():
        blob = b64decode(dps_tpm.blob(parents(tpm), OTHER, how) or "")
        with pytest.raises(ChallengeInvalid) as e:
            tpm.imported(blob, EK, SRK)
        assert type(e.value) is kind, how
        assert e.value.status == 76
        assert OTHER.hex() not in str(e.value)
        assert tpm.loaded() == set()
        assert signs(tpm, KEPT)
    trailer = b64decode(dps_tpm.blob(parents(tpm), OTHER, "flipped-trailer") or "")
    assert takes(tpm, trailer, OTHER)


def test_a_key_longer_than_any_hub_has_is_not_taken(tpm: Tpm) -> None:
    with pytest.raises(KeyImportRefused):
        takes(tpm, of(tpm, bytes(65)), bytes(65))


@pytest.mark.parametrize("bits", [128, 256])
def test_the_inner_key_says_how_it_is_wrapped(tpm: Tpm, bits: int) -> None:
    assert takes(tpm, b"".join(dps_tpm.wrapped(parents(tpm), KEPT, inner=bits // 8)))


@pytest.mark.parametrize("size", [0, 1, 15, 17, 31])
def test_an_inner_key_that_is_none_of_aes(tpm: Tpm, size: int) -> None:
    both = parents(tpm)
    parts, by = (
        dps_tpm.wrapped(both, KEPT),
        [tpm_wire.area(each[2:]) for each in (both.ek, both.srk)],
    )
    sealed = credential.protect(by[0].key, b"IDENTITY", by[1].name, two(bytes(size)))
    with pytest.raises(ChallengeInvalid, match=f"encrypted with has {size} bytes"):
        tpm.imported(b"".join([*map(two, sealed), *parts[2:]]), EK, SRK)
    assert tpm.loaded() == set()


def test_a_tpm_that_is_broken_indeed_is_not_taken_for_a_wrong_key(tpm: Tpm, tmp_path: Path) -> None:
    blob, broken = of(tpm), False

    def fails(command: bytes, ask: liar.Ask) -> bytes:
        nonlocal broken
        broken = broken or liar.code(command) == ACTIVATE
        return FAILURE if broken else ask(command)

    with (
        liar.through(socket(tpm), tmp_path / "bus", fails) as tcti,
        Tpm(tcti) as failing,
        pytest.raises(TpmError, match=r"cannot activate a credential.*0x101") as e,
    ):
        failing.imported(blob, EK, SRK)
    assert e.value.code == "tpm-error"


# --- all that DPS would never send ---


def test_a_thousand_keys_that_were_spoilt_by_chance(
    factory_fresh: Path, tmp_path: Path, tpm: Tpm
) -> None:
    """None crashes, none leaves anything loaded, no key is taken that was not sent, and the one in
    use stays, and signs. More: python -m tests.lab.challenges 10000 SEED"""
    shutil.copytree(factory_fresh / "state", tmp_path / "another")
    with swtpm.running(tmp_path / "another") as tcti, Tpm(tcti) as other:
        Tools(tcti, tmp_path)("changeeps")
        with other.ek("EK-RSA2048") as theirs:
            other.persist(theirs, EK)
        sound = challenges.sound(tpm, other)
    keep(tpm)
    found = challenges.tried(tpm, challenges.spoilt(1, sound), 1000)
    assert found["all"] == 1000
    assert found["parsed"] > 400
    kinds = (ChallengeInvalid, ChallengeOfAnother, KeyImportRefused)
    for what in ("imported", ChallengeInvalid.code, *(f"{kind.code} by the TPM" for kind in kinds)):
        assert found[what] > 10, what
