"""Secrets that only one key in one TPM opens (TPM2_MakeCredential, TPM2_ActivateCredential)."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import CredentialRefused, TpmAuth
from agent.tpm import Public, Tpm, make_credential
from agent.tpm.templates import KeyType
from tests.lab import swtpm
from tests.lab.tools import Tools

EK, ELLIPTIC_EK, KEY = 0x81010001, 0x81010016, 0x81020000
SECRET = b"thirty-two bytes, as AES-256 is."
EKS = [EK, ELLIPTIC_EK]
HEADER = bytes.fromhex("badcc0de00000001")  # tpm2-tools' file, then two TPM2B


def public(tpm: Tpm, handle: int) -> Public:
    found = tpm.public(handle)
    assert found is not None
    return found


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def kept(tpm: Tpm, profile: str, ek: int = EK) -> Public:
    with tpm.ek_child(ek, "ecc256") if profile == "ek-child" else tpm.idevid("ecc256") as key:
        tpm.persist(key, KEY)
    return key.public


# --- with tpm2-tools, both ways ---


@pytest.mark.parametrize("ek", EKS)
def test_tpm2_tools_open_what_we_sealed(tpm: Tpm, tools: Tools, ek: int) -> None:
    name = kept(tpm, "ek-child").name
    credential, secret = make_credential(public(tpm, ek), name, SECRET)
    (tools.directory / "sealed").write_bytes(HEADER + sized(credential) + sized(secret))
    authorized: tuple[str, ...] = ()  # the elliptic EK of the high range has an empty password
    if ek == EK:
        tools("startauthsession", "--policy-session", "-S", "s")
        tools("policysecret", "-S", "s", "-c", "e")
        authorized = ("-P", "session:s")
    handles = ("-c", hex(KEY), "-C", hex(ek), *authorized)
    tools("activatecredential", *handles, "-i", "sealed", "-o", "opened")
    assert (tools.directory / "opened").read_bytes() == SECRET


@pytest.mark.parametrize("ek", EKS)
def test_we_open_what_tpm2_tools_sealed(tpm: Tpm, tools: Tools, ek: int) -> None:
    name = kept(tpm, "tcg").name
    tools("readpublic", "-c", hex(ek), "-o", "ek.pub")
    assert (tools.directory / "ek.pub").read_bytes() == public(tpm, ek).blob
    (tools.directory / "secret").write_bytes(SECRET)
    wanted = ("-u", "ek.pub", "-s", "secret", "-n", name.hex(), "-o", "sealed")
    tools("makecredential", "-T", "none", *wanted)
    sealed = (tools.directory / "sealed").read_bytes().removeprefix(HEADER)
    size = int.from_bytes(sealed[:2], "big")
    credential, secret = sealed[2 : 2 + size], sealed[4 + size :]
    assert tpm.activate(KEY, ek, credential, secret) == SECRET
    assert tpm.loaded() == set()


@pytest.mark.parametrize("ek", EKS)
def test_the_name_is_the_one_that_tpm2_tools_read(tpm: Tpm, tools: Tools, ek: int) -> None:
    tools("readpublic", "-c", hex(ek), "-n", "name", "-f", "tpmt", "-o", "tpmt")
    assert (tools.directory / "name").read_bytes() == public(tpm, ek).name
    assert (tools.directory / "tpmt").read_bytes() == public(tpm, ek).tpmt


# --- every key we make, every EK ---


@pytest.mark.parametrize("ek", EKS)
@pytest.mark.parametrize("profile", ["tcg", "ek-child"])
def test_a_key_that_is_kept_activates(tpm: Tpm, profile: str, ek: int) -> None:
    """The policy of TCG's keys is satisfied on the way; the others have an empty password."""
    sealed = make_credential(public(tpm, ek), kept(tpm, profile, ek).name, SECRET)
    assert tpm.activate(KEY, ek, *sealed) == SECRET
    assert tpm.loaded() == set()


@pytest.mark.parametrize("kind", ["ecc256", "rsa2048"])
def test_so_does_the_iak_with_an_ek_that_nobody_keeps(tpm: Tpm, kind: KeyType) -> None:
    """All three slots of the TPM are used, and no more: the SRK sits in one."""
    with tpm.srk("ecc256"), tpm.iak(kind) as iak, tpm.ek("EK-ECC256") as ek:
        sealed = make_credential(ek.public, iak.public.name, SECRET)
        assert tpm.activate(iak, ek, *sealed) == SECRET
    assert tpm.loaded() == set()


def test_a_password_of_the_endorsement_hierarchy_is_asked_for(tpm: Tpm, tools: Tools) -> None:
    sealed = make_credential(public(tpm, EK), kept(tpm, "tcg").name, SECRET)
    tools("changeauth", "-c", "e", "secret")
    with pytest.raises(TpmAuth, match="activate a credential"):
        tpm.activate(KEY, EK, *sealed)
    assert tpm.loaded() == set()
    with Tpm(tpm.tcti, {"endorsement": b"secret"}) as knowing:
        assert knowing.activate(KEY, EK, *sealed) == SECRET


# --- refused ---


@pytest.fixture
def another(factory_fresh: Path, tmp_path: Path) -> Iterator[Tpm]:
    """A TPM of the same make, with an endorsement seed of its own."""
    state = tmp_path / "another"
    shutil.copytree(factory_fresh / "state", state)
    with swtpm.running(state) as tcti, Tpm(tcti) as tpm:
        Tools(tcti, tmp_path)("changeeps")
        yield tpm


@pytest.mark.parametrize("kind", ["EK-RSA2048", "EK-ECC256"])
def test_what_was_sealed_for_another_tpm(tpm: Tpm, another: Tpm, kind: str) -> None:
    with another.ek(kind) as theirs:
        pass
    with tpm.ek(kind) as ours, tpm.idevid("ecc256") as key:
        assert ours.public.name != theirs.public.name
        sealed = make_credential(theirs.public, key.public.name, SECRET)
        with pytest.raises(CredentialRefused, match="cannot activate a credential: it ") as e:
            tpm.activate(key, ours, *sealed)
        assert "compare the EK" in e.value.remedy
        assert tpm.activate(key, ours, *make_credential(ours.public, key.public.name, b"1")) == b"1"
    assert tpm.loaded() == set()


@pytest.mark.parametrize("ek", EKS)
def test_what_was_sealed_for_another_key(tpm: Tpm, ek: int) -> None:
    kept(tpm, "tcg")
    with tpm.idevid("rsa2048") as other:
        sealed = make_credential(public(tpm, ek), other.public.name, SECRET)
    why = r"sealed for another TPM or another key \(0x1df\)"
    with pytest.raises(CredentialRefused, match=why):
        tpm.activate(KEY, ek, *sealed)
    assert tpm.loaded() == set()


@pytest.mark.parametrize("ek", EKS)
def test_what_was_damaged_on_the_way_and_the_tpm_is_well_after_it(tpm: Tpm, ek: int) -> None:
    """To a damaged RSA secret libtpms says 0x101, as if it was broken itself; it is not."""
    credential, secret = make_credential(public(tpm, ek), kept(tpm, "tcg").name, SECRET)
    flipped = bytes([secret[20] ^ 1])
    for bad in (
        (credential, secret[:20] + flipped + secret[21:]),
        (credential, secret[:-1]),
        (credential, b""),
        (credential[:-1], secret),
        (credential[:-1] + bytes([credential[-1] ^ 1]), secret),
        (b"", secret),
    ):
        with pytest.raises(CredentialRefused):
            tpm.activate(KEY, ek, *bad)
        assert tpm.loaded() == set()
        assert tpm.activate(KEY, ek, credential, secret) == SECRET


def test_a_secret_for_an_rsa_ek_is_none_for_an_elliptic_one(tpm: Tpm) -> None:
    sealed = make_credential(public(tpm, EK), kept(tpm, "tcg").name, SECRET)
    with pytest.raises(CredentialRefused, match="another kind of EK"):
        tpm.activate(KEY, ELLIPTIC_EK, *sealed)
