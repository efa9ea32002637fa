"""Keys of others, with passwords: our own tries never bring a TPM into lockout."""

import pytest

from agent.errors import HandleOccupied, TpmAuth, TpmLockout
from agent.tpm import Tpm
from agent.tpm.templates import KeyType
from tests.lab.tools import Tools

SRK, KEY, EK = 0x81000001, 0x81020000, 0x81010001
BOUND = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
PASSWORD = ("-p", "secret")
RUNS = 4  # three wrong passwords are this TPM's lockout


def keep(tools: Tools, handle: int, *template: str, hierarchy: str = "e") -> None:
    tools("createprimary", "-Q", "-C", hierarchy, *template, "-c", "key.ctx")
    tools("evictcontrol", "-Q", "-C", "o", "-c", "key.ctx", hex(handle))
    tools("flushcontext", "-t")


def counted(tpm: Tpm) -> int:
    budget = tpm.budget()
    assert not budget.in_lockout
    assert tpm.loaded() == set()
    return budget.lockout_counter


@pytest.mark.parametrize("algorithm", ["ecc256", "rsa2048"])
def test_a_key_whose_password_counts_is_not_used(tpm: Tpm, tools: Tools, algorithm: str) -> None:
    keep(tools, KEY, "-G", algorithm, "-a", f"{BOUND}|sign", *PASSWORD)
    public = tpm.public(KEY)
    assert public is not None
    assert public.locks
    why = "cannot use the key at 0x81020000: only who knows its password may"
    for _ in range(RUNS):
        with pytest.raises(HandleOccupied, match=why):
            tpm.sign(KEY, bytes(32), "sha256")
        with pytest.raises(HandleOccupied, match=why), tpm.private_key(KEY):
            pass
        with tpm.iak("ecc256") as iak, pytest.raises(HandleOccupied, match=why):
            tpm.certify(KEY, iak, b"nonce")
        with pytest.raises(HandleOccupied, match=why):
            tpm.activate(KEY, EK, b"credential", b"secret")
    assert counted(tpm) == 0


def test_nor_is_such_an_ek(tpm: Tpm, tools: Tools) -> None:
    tools("evictcontrol", "-Q", "-C", "o", "-c", hex(EK))
    keep(tools, EK, "-G", "rsa2048:aes128cfb", "-a", f"{BOUND}|restricted|decrypt", *PASSWORD)
    for _ in range(RUNS):
        with pytest.raises(HandleOccupied, match="0x81010001"), tpm.ek_child(EK, "ecc256"):
            pass
        with tpm.iak("ecc256") as iak, pytest.raises(HandleOccupied, match="0x81010001"):
            tpm.activate(iak, EK, b"credential", b"secret")
    assert counted(tpm) == 0


def test_one_whose_maker_is_known_is_used(tpm: Tpm, tools: Tools) -> None:
    """As the shell scripts make the LDevID: its password counts, and is empty."""
    keep(tools, KEY, "-G", "rsa2048", "-a", f"{BOUND}|sign|decrypt")
    with tpm.private_key(KEY, known=True) as key:
        assert key.public_key().key_size == 2048  # type: ignore[union-attr]
    assert counted(tpm) == 0


@pytest.mark.parametrize("kind", ["ecc256", "rsa2048"])
def test_our_own_do_not_lock(tpm: Tpm, kind: KeyType) -> None:
    with tpm.idevid(kind) as idevid, tpm.iak(kind) as iak:
        assert idevid.public.counts_attacks
        assert not idevid.public.locks | iak.public.locks
    with tpm.ek_child(EK, kind) as child:
        assert not child.public.locks
    with tpm.srk(kind) as srk:
        assert not srk.public.locks
    for ek in (EK, 0x81010016):
        public = tpm.public(ek)
        assert public is not None
        assert not public.locks


def test_a_storage_key_of_the_scripts_is_used_and_one_with_a_password_never_to_the_last_try(
    tpm: Tpm, tools: Tools
) -> None:
    """They look the same, to the name."""
    keep(tools, SRK, "-G", "rsa", hierarchy="o")
    before = tpm.public(SRK)
    public, private = tpm.create_key(SRK, "ecc256")
    with tpm.load(SRK, public, private):
        pass
    tools("evictcontrol", "-Q", "-C", "o", "-c", hex(SRK))
    keep(tools, SRK, "-G", "rsa", *PASSWORD, hierarchy="o")
    assert tpm.public(SRK) == before
    for _ in range(2):
        with pytest.raises(TpmAuth, match="make a key below 0x81000001"):
            tpm.create_key(SRK, "ecc256")
    for _ in range(RUNS):
        with pytest.raises(TpmLockout, match="one more error locks it"):
            tpm.create_key(SRK, "ecc256")
        with pytest.raises(TpmLockout), tpm.load(SRK, public, private):
            pass
        with pytest.raises(TpmLockout):
            tpm.seal(SRK, b"pin", b"data")
    assert counted(tpm) == 2
