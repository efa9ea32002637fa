"""Passwords of the TPM's hierarchies: set at random, kept, escrowed, and found by every run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import opened
from agent.config import Authorization
from agent.errors import (
    TpmAuth,
)
from agent.tpm import Tpm
from tests.lab.passwords_home import ALL, NAMES, Home, at_home


@pytest.fixture
def home(tcti: str, tmp_path: Path) -> Iterator[Home]:
    with at_home(tcti, tmp_path) as home:
        yield home


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
