"""Passwords of the TPM that are kept, on a device in another state, and beside those of others."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import opened
from agent.authorization import disks, escrow
from agent.authorization.kept import Kept, directory
from agent.config import Authorization
from agent.errors import (
    OwnerHierarchyNeeded,
    PasswordChanged,
    PasswordNotNeeded,
    PcrBankAbsent,
    SealedToAnotherState,
    SealedToAnotherTpm,
    TpmAuth,
)
from agent.steps.authorization import released
from agent.steps.srk import HANDLE as SRK
from agent.tpm import Tpm
from tests.lab.passwords_home import ALL, NAMES, Home, at_home


@pytest.fixture
def home(tcti: str, tmp_path: Path) -> Iterator[Home]:
    with at_home(tcti, tmp_path) as home:
        yield home


def test_in_another_state_they_are_not_told_and_the_escrow_is_the_way_back(home: Home) -> None:
    conf = home.wanting(*ALL, pcrs="sha256:7,2")
    home.run(conf)
    home.extend(8)
    assert home.run(conf) == "already done"
    home.extend(7)
    error = home.refused(SealedToAnotherState, conf)
    assert "PCR 7 of sha256" in str(error)
    assert "escrow" in error.remedy
    home.give(home.escrowed())
    assert home.run(conf) == "done"
    assert home.run(conf) == "already done"
    for file in Path(os.environ["CREDENTIALS_DIRECTORY"]).iterdir():
        file.unlink()
    assert home.run(conf) == "already done"
    assert {*home.escrowed()} == {*NAMES}


def test_the_password_of_lockout_is_not_lost_on_the_way_back(home: Home) -> None:
    """An escrow that is written anew has them all, or it is not written."""
    home.run()
    home.extend(7)
    before = escrow.file(home.state).read_bytes()
    found = home.escrowed()
    home.give({name: found[name] for name in NAMES[:2]})
    assert "lockout" in str(home.refused(SealedToAnotherState))
    home.give({"tpm-lockout-auth": "of another device"})
    assert "credential is wrong" in str(home.refused(TpmAuth))
    assert escrow.file(home.state).read_bytes() == before
    home.give(found)
    home.run()
    home.works("tpm-lockout-auth", home.escrowed()["tpm-lockout-auth"])


def test_much_can_be_done_while_they_are_not_told(home: Home) -> None:
    home.run()
    home.extend(7)
    with opened.tpm(home.tcti) as tpm:
        assert tpm.public(SRK)
        assert tpm.create_key(SRK, "ecc256")
        assert {*map(type, tpm.withheld.values())} == {SealedToAnotherState}


def test_one_that_is_damaged_withholds_no_other(home: Home) -> None:
    home.run()
    (directory(home.state) / "owner.sealed").write_text("{}")
    with opened.tpm(home.tcti) as tpm:
        assert tpm.create_key(SRK, "ecc256")
        assert [*tpm.auths] == ["endorsement"]
        assert [(name, type(why)) for name, why in tpm.withheld.items()] == [
            ("owner", SealedToAnotherTpm)
        ]


@pytest.mark.parametrize("escrow", ["as before", "not named any more"])
def test_settings_back_at_leave_take_nothing_back_and_keep_what_is_set(
    home: Home, escrow: str
) -> None:
    """Also in the next state of the device, and as they were kept before."""
    home.run(home.wanting(*ALL, pcrs="sha256:2,7"))
    leave = home.wanting() if escrow == "as before" else Authorization()
    assert home.run(leave) == "already done"
    home.extend(7)
    home.refused(SealedToAnotherState, leave)
    found = home.escrowed()
    home.give(found)
    assert home.run(leave) == "done"
    for file in Path(os.environ["CREDENTIALS_DIRECTORY"]).iterdir():
        file.unlink()
    assert home.run(leave) == "already done"
    assert home.escrowed() == found
    for name, password in found.items():
        home.works(name, password)


def test_a_run_goes_on_without_the_password_of_lockout_where_none_is_asked_for(home: Home) -> None:
    home.run(home.wanting("lockout"))
    home.extend(7)
    assert home.run(Authorization()) == "already done"
    home.refused(SealedToAnotherState, home.wanting("lockout"))


def test_a_bank_that_this_tpm_does_not_have(home: Home) -> None:
    home.refused(PcrBankAbsent, home.wanting("owner", pcrs="sha384:7"))
    assert home.set() == set()


# --- passwords of others ---


def test_an_administrators_password_stays(home: Home) -> None:
    home.tools("changeauth", "-c", "o", "hers")
    home.tools("changeauth", "-c", "l", "hers")
    home.refused(TpmAuth)
    home.give({"tpm-owner-auth": "his"})
    home.refused(TpmAuth)
    home.give({"tpm-owner-auth": "hers"})
    assert home.run() == "done"
    assert [*home.escrowed()] == ["tpm-endorsement-auth"]
    home.works("tpm-owner-auth", "hers")
    home.works("tpm-lockout-auth", "hers")


def test_one_that_somebody_has_changed_is_told_from_one_that_is_lost(home: Home) -> None:
    home.run()
    found = home.escrowed()
    home.tools("changeauth", "-c", "e", "-p", found["tpm-endorsement-auth"], "another")
    error = home.refused(PasswordChanged)
    assert "tpm-endorsement-auth" in error.remedy
    home.give({"tpm-endorsement-auth": "wrong"})
    home.refused(TpmAuth)
    home.give({"tpm-endorsement-auth": "another"})
    assert home.run() == "done"
    assert home.escrowed() == {**found, "tpm-endorsement-auth": "another"}
    Kept(Tpm(home.tcti), home.state).sealed("owner").write_text("{}")
    home.refused(SealedToAnotherTpm)


@pytest.mark.parametrize(
    "damage",
    [
        {"private": ""},
        {"private": "AAA="},
        {"public": "AAA="},
        {"public": 7},
        {"pcrs": "sha256:99"},
        {"values": []},
        {"values": {"7": "no hex"}},
    ],
)
def test_what_is_kept_and_damaged_is_lost_and_nothing_worse(
    home: Home, damage: dict[str, Any]
) -> None:
    conf = home.wanting("owner")
    home.run(conf)
    file = directory(home.state) / "owner.sealed"
    file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    home.refused(SealedToAnotherTpm, conf)


def test_a_password_for_a_hierarchy_that_has_none_is_told(home: Home) -> None:
    home.give({"tpm-owner-auth": "of another device"})
    assert "tpm-owner-auth" in home.refused(PasswordNotNeeded).remedy
    assert home.set() == set()


def test_such_a_password_is_in_nobodys_way_where_the_hierarchy_is_left_as_it_is(home: Home) -> None:
    """What came out of the escrow stays where it was put, when the passwords are taken back."""
    home.give({"tpm-owner-auth": "of another device", "tpm-endorsement-auth": "of before"})
    with opened.tpm(home.tcti) as tpm:
        before = tpm.public(SRK)
        assert before
        tpm.give_up(SRK, before.name)
        with tpm.srk("ecc256") as key:
            tpm.persist(key, SRK)
    assert home.run(home.wanting("lockout")) == "done"
    with opened.tpm(home.tcti) as tpm:
        assert released(tpm, home.state) == ["lockout"]


@pytest.mark.parametrize("place", ["CRYPTTAB", "COMMAND_LINE"])
def test_the_owner_gets_none_where_a_disk_is_opened_without_it(
    home: Home, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Else the device would not come up again."""
    file = home.base / "told"
    monkeypatch.setattr(disks, place, file)
    file.write_text("root UUID=4711 none tpm2-device=auto,discard\n")
    assert str(file) in home.refused(OwnerHierarchyNeeded).remedy
    assert home.set() == set()
    assert home.run(home.wanting("endorsement", "lockout")) == "done"
    file.write_text("# root UUID=4711 none tpm2-device=auto\nroot UUID=4711 none\n")
    assert home.run() == "done"


def test_a_tpm_that_was_cleared_gets_new_ones(home: Home) -> None:
    """TPM2_Clear takes the passwords, and the SRK that the old ones are sealed below."""
    home.run()
    old = home.escrowed()
    home.tools("clear", "-c", "p")
    with Tpm(home.tcti) as tpm, tpm.srk("ecc256") as srk:
        tpm.persist(srk, SRK)
    assert home.run() == "done"
    assert not {*home.escrowed().values()} & {*old.values()}
