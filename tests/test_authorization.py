"""Passwords of the TPM's hierarchies: set at random, kept, escrowed, and found by every run."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agent import opened
from agent.authorization import disks, escrow
from agent.authorization.kept import Kept, directory
from agent.config import Authorization
from agent.errors import (
    AgentError,
    EscrowUnusable,
    HostKeyMissing,
    OwnerHierarchyNeeded,
    PasswordChanged,
    PasswordNotNeeded,
    PcrBankAbsent,
    SealedToAnotherState,
    SealedToAnotherTpm,
    TpmAuth,
)
from agent.state import State
from agent.steps.authorization import authorization, forget, released
from agent.steps.completing import converge
from agent.steps.preflight import tpm_answers
from agent.steps.srk import HANDLE as SRK
from agent.tpm import Tpm, pcr
from tests.lab import pki
from tests.lab.owner import Key, Owner
from tests.lab.tools import Tools

ALL = ("owner", "endorsement", "lockout")
NAMES = [f"tpm-{name}-auth" for name in ALL]


class Home:
    """A device's state directory and credentials, and its TPM, with an SRK."""

    def __init__(self, tcti: str, base: Path) -> None:
        self.tcti, self.base, self.state = tcti, base, State(base / "state")
        self.owner, self.tools = Owner(base, base / "escrow.pem"), Tools(tcti, base)
        self.state.directory.mkdir()
        self.conf = self.wanting(*ALL)
        with Tpm(tcti) as tpm, tpm.srk("ecc256") as srk:
            tpm.persist(srk, SRK)

    def wanting(self, *names: str, **settings: str) -> Authorization:
        wanted = dict.fromkeys(names, "random")
        return Authorization(escrow=self.owner.public, **wanted, **settings)  # type: ignore[arg-type]

    def run(self, conf: Authorization | None = None) -> str:
        """One run of the plan's two steps that are about it: the event."""
        with opened.tpm(self.tcti) as tpm:
            converge(tpm_answers(tpm, 0))
            step = authorization(tpm, conf or self.conf, self.state, lambda: "device-0001")
            return converge(step)[1]

    def refused(self, kind: type[AgentError], conf: Authorization | None = None) -> AgentError:
        with pytest.raises(kind) as caught:
            self.run(conf)
        assert caught.type is kind
        self.unlocked()
        return caught.value

    def give(self, passwords: dict[str, str]) -> None:
        for name, password in passwords.items():
            pki.write_private(Path(os.environ["CREDENTIALS_DIRECTORY"], name), password.encode())

    def escrowed(self) -> dict[str, str]:
        found = self.owner.opens(escrow.file(self.state))
        assert found.pop("device") == "device-0001"
        return found

    def set(self) -> set[str]:
        with Tpm(self.tcti) as tpm:
            return set(tpm.passwords_set())

    def unlocked(self) -> None:
        """Nobody ever tried a wrong password that counts, and nothing is left loaded."""
        with Tpm(self.tcti) as tpm:
            budget = tpm.budget()
            assert (budget.lockout_counter, budget.in_lockout) == (0, False)
            assert tpm.loaded() == set()

    def works(self, name: str, password: str) -> None:
        """Seen by another program."""
        if name == "tpm-lockout-auth":
            self.tools("dictionarylockout", "-c", "-p", password)
        else:
            hierarchy = name.split("-")[1][0]
            self.tools("changeauth", "-c", hierarchy, "-p", password, password)


@pytest.fixture
def home(tcti: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    (tmp_path / "credentials").mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(tmp_path / "host.secret"))
    home = Home(tcti, tmp_path)
    yield home
    home.unlocked()


@pytest.mark.parametrize("keep", ["sealed", "credential"])
def test_all_three_are_set_at_random_and_found_again(home: Home, keep: str) -> None:
    conf = home.wanting(*ALL, keep=keep)
    assert home.run(conf) == "done"
    assert home.set() == {*ALL}
    assert home.run(conf) == "already done"
    found = home.escrowed()
    assert [*found] == NAMES
    assert len({*found.values()}) == len(ALL)
    for name, password in found.items():
        assert len(bytes.fromhex(password)) == 16
        home.works(name, password)
    assert home.run(conf) == "already done"


def test_all_that_needs_a_password_is_done_with_it(home: Home) -> None:
    home.run()
    with opened.tpm(home.tcti) as tpm, tpm.idevid("ecc256") as idevid:
        tpm.persist(idevid, 0x81020000)
        assert tpm.sign(0x81020000, bytes(32), "sha256")
        tpm.nv_store(0x1C90000, b"a certificate", "owner")
    with Tpm(home.tcti) as stranger, pytest.raises(TpmAuth), stranger.idevid("ecc256"):
        pass


def test_nothing_kept_tells_a_password(home: Home) -> None:
    home.run()
    passwords = [password.encode() for password in home.escrowed().values()]
    files = [each for each in home.state.directory.rglob("*") if each.is_file()]
    assert len(files) == 5
    for each in files:
        assert each.stat().st_mode & 0o077 == 0
        assert not any(password in each.read_bytes() for password in passwords)


def test_only_what_is_asked_for_is_set(home: Home) -> None:
    conf = home.wanting("owner")
    home.run(conf)
    assert home.set() == {"owner"}
    home.run()
    assert home.set() == {*ALL}
    assert [*home.escrowed()] == NAMES
    assert home.run(home.wanting("lockout")) == "already done"  # nothing is taken back


# --- other states of the device ---


def extend(home: Home, register: int) -> None:
    home.tools("pcrextend", f"{register}:sha256={'11' * 32}")


def test_in_another_state_they_are_not_told_and_the_escrow_is_the_way_back(home: Home) -> None:
    conf = home.wanting(*ALL, pcrs="sha256:7,2")
    home.run(conf)
    extend(home, 8)
    assert home.run(conf) == "already done"
    extend(home, 7)
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
    extend(home, 7)
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
    extend(home, 7)
    with opened.tpm(home.tcti) as tpm:
        assert tpm.public(SRK)
        assert tpm.create_key(SRK, "ecc256")
        assert isinstance(tpm.withheld, SealedToAnotherState)


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


# --- the escrow ---


def rsa_key() -> Key:
    return rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    "key", [rsa_key(), *(ec.generate_private_key(c()) for c in (ec.SECP384R1, ec.SECP521R1))]
)
def test_openssl_opens_the_escrow_of_each_kind_of_key(home: Home, key: Key) -> None:
    home.run(home.wanting("owner"))
    before = home.escrowed()
    home.owner.have(key)
    assert home.run(home.wanting("owner")) == "done"  # another owner's key: written anew
    assert home.escrowed() == before


def test_an_escrow_that_is_gone_or_damaged_is_written_anew(home: Home) -> None:
    home.run()
    before = home.escrowed()
    for damage in (
        lambda: escrow.file(home.state).unlink(),
        lambda: escrow.file(home.state).write_bytes(b""),
    ):
        damage()
        assert home.run() == "done"
        assert home.escrowed() == before


SM2 = """-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoEcz1UBgi0DQgAEUviR6M9g/hPHZLlFv7i/EOxeof2O
vg3xD6jWQAAa6TIiJEaMqxvoQE4d/sV47MN3bYc/9rhEtRtdkhsFIAN9sg==
-----END PUBLIC KEY-----
"""


@pytest.mark.parametrize(
    "text", [None, "", "-----BEGIN CERTIFICATE-----\n", "weak", "ed25519", SM2, "private"]
)
def test_without_an_escrow_nothing_is_set(home: Home, text: str | None) -> None:
    if text is None:
        home.owner.public.unlink()
    elif text == "weak":
        home.owner.have(rsa.generate_private_key(65537, 1024))  # noqa: S505
    elif text == "private":
        authority = pki.authority("Owner's escrow")
        both = pki.pem(authority.certificate) + pki.private_pem(authority.key)
        home.owner.public.write_bytes(both)
    else:
        home.owner.public.write_text(text)
    error = home.refused(EscrowUnusable)
    assert str(home.owner.public) in error.remedy
    assert home.set() == set()
    assert not directory(home.state).exists()


def test_a_certificate_is_as_good_as_a_key(home: Home) -> None:
    authority = pki.authority("Owner's escrow")
    home.owner.have(authority.key)
    home.owner.public.write_bytes(pki.pem(authority.certificate))
    home.run()
    assert [*home.escrowed()] == NAMES


# --- credentials of the host ---


def test_a_credential_is_one_that_systemd_takes(home: Home) -> None:
    home.run(home.wanting("owner", keep="credential"))
    file = directory(home.state) / "tpm-owner-auth"
    done = subprocess.run(["systemd-creds", "decrypt", file, "-"], capture_output=True, check=True)
    assert done.stdout.decode() == home.escrowed()["tpm-owner-auth"]


def test_a_host_key_that_is_lost_or_cannot_be_made(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = home.wanting("owner", keep="credential")
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", "/proc/no/such/place")
    error = home.refused(HostKeyMissing, conf)
    assert "systemd-creds setup" in error.remedy
    assert home.set() == set()
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(home.base / "host.secret"))
    home.run(conf)
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(home.base / "another.secret"))
    home.refused(SealedToAnotherTpm, conf)
    home.give(home.escrowed())
    assert home.run(conf) == "done"


def test_what_is_kept_moves_with_the_configuration(home: Home) -> None:
    home.run()
    before = home.escrowed()
    for settings in ({"keep": "credential"}, {"pcrs": "sha256:0,7"}, {}):
        conf = home.wanting(*ALL, **settings)
        assert home.run(conf) == "done"
        assert home.run(conf) == "already done"
        assert home.escrowed() == before
        assert len([*directory(home.state).iterdir()]) == 5


# --- the end ---


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
    extend(home, 7)
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
        extend(home, 7)
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


# --- settings ---


@pytest.mark.parametrize(
    ("settings", "at"),
    [
        ({"owner": "random"}, "escrow"),
        ({"pcrs": "sha256:24"}, "pcrs"),
        ({"pcrs": "sha256:7,7"}, "pcrs"),
        ({"pcrs": "7"}, "pcrs"),
        ({"keep": "credential", "pcrs": "sha256:1"}, "pcrs"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, str], at: str) -> None:
    found = [where for where, _ in Authorization(**settings).problems()]  # type: ignore[arg-type]
    assert found == [at]
