"""Passwords of the TPM are taken back, and the disk goes to another board."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import opened
from agent.authorization.kept import Kept, directory
from agent.errors import (
    PasswordChanged,
    SealedToAnotherState,
    TpmAuth,
)
from agent.steps.authorization import forget, released
from agent.steps.srk import HANDLE as SRK
from agent.tpm import Tpm, pcr
from tests.lab.passwords_home import NAMES, Home, at_home


@pytest.fixture
def home(tcti: str, tmp_path: Path) -> Iterator[Home]:
    with at_home(tcti, tmp_path) as home:
        yield home


def test_what_was_set_is_taken_back_and_what_others_have_set_stays(home: Home) -> None:
    home.tools("changeauth", "-c", "e", "hers")
    home.give({"tpm-endorsement-auth": "hers"})
    home.run()
    with opened.tpm(home.tcti) as tpm:
        assert released(tpm, home.state) == ["owner", "lockout"]
        assert tpm.passwords_set() == {"endorsement"}
        assert released(tpm, home.state) == []
    assert [*directory(home.state).iterdir()] == []
    assert home.run() == "done"


def test_in_another_state_nothing_is_lost_by_taking_it_back(home: Home) -> None:
    home.run()
    home.extend(7)
    with opened.tpm(home.tcti) as tpm, pytest.raises(SealedToAnotherState):
        released(tpm, home.state)
    home.give({**home.escrowed(), "tpm-lockout-auth": "a guess"})
    with opened.tpm(home.tcti) as tpm, pytest.raises(TpmAuth):
        released(tpm, home.state)
    assert home.set() == {"lockout"}
    assert [*home.escrowed()] == NAMES
    home.give(home.escrowed())
    with opened.tpm(home.tcti) as tpm:
        assert released(tpm, home.state) == ["lockout"]


def test_a_password_of_lockout_is_kept_though_nothing_tells_a_wrong_one(home: Home) -> None:
    """Its digest is lost: then a credential with another one does not take its place."""
    home.run()
    before = home.escrowed()
    (directory(home.state) / "escrow.json").unlink()
    home.give({"tpm-lockout-auth": "of another device"})
    home.refused(TpmAuth)
    with opened.tpm(home.tcti) as tpm, pytest.raises(TpmAuth):
        released(tpm, home.state)
    assert Kept(Tpm(home.tcti), home.state).sealed("lockout").exists()
    assert home.escrowed() == before


def test_a_password_of_lockout_is_for_the_tpm_it_was_set_in(home: Home) -> None:
    """A credential of this host opens with any TPM: where the disk is in another device, or this
    one was cleared, what is kept is not the one that somebody has set there."""
    conf = home.wanting("lockout", keep="credential")
    home.run(conf)
    home.tools("clear", "-c", "p")
    with Tpm(home.tcti) as tpm, tpm.srk("ecc256") as srk:
        tpm.persist(srk, SRK)
    home.tools("changeauth", "-c", "l", "hers")
    home.refused(PasswordChanged, conf)
    with opened.tpm(home.tcti) as tpm, pytest.raises(TpmAuth):
        released(tpm, home.state)
    home.unlocked()
    home.works("tpm-lockout-auth", "hers")


def test_what_does_not_open_again_is_not_set(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a register changes just when its value has been read."""
    read = pcr.read

    def changing(*args: Any) -> dict[int, bytes]:
        found = read(*args)
        home.extend(7)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(pcr, "read", changing)
        home.refused(SealedToAnotherState)
    assert home.set() == set()
    assert home.run() == "done"


def test_of_another_tpm_the_escrow_stays_and_nothing_else(home: Home) -> None:
    """It has these passwords still: the disk was in another board for an hour, and comes back."""
    home.run()
    before = home.escrowed()
    for _ in range(2):
        forget(home.state)
        (left,) = directory(home.state).iterdir()
        assert left.name.startswith("escrow-")
    home.refused(TpmAuth)
    found = home.owner.opens(left)
    assert found.pop("device") == "device-0001"
    assert found == before
    home.give(found)
    assert home.run() == "already done"
