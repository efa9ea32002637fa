"""The ledger of what was loaded before us: what a killed run left is thrown out, and no more."""

import json
import shutil
from pathlib import Path

import pytest

from agent.tpm import Tpm
from tests.lab import swtpm
from tests.lab.tools import Tools


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "tpm-loaded.json"


def resets(tcti: str) -> int:
    return int(Tools(tcti, Path.cwd())("readclock").partition("reset_count:")[2].split()[0])


def loads(tools: Tools) -> None:
    tools("createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", "left.ctx")


def killed(tcti: str, ledger: Path) -> str:
    """The ledger of a process that opened this TPM, and is gone."""
    with Tpm(tcti, ledger=ledger) as tpm:
        tpm.wait(0)
        return ledger.read_text()


def looked(tcti: str, ledger: Path, kept: str) -> set[int]:
    """What is loaded after the next one opened the TPM and found this ledger."""
    ledger.write_text(kept)
    with Tpm(tcti, ledger=ledger) as tpm:
        return tpm.loaded()


def test_what_was_loaded_before_a_killed_run_stays_and_what_it_left_goes(
    tcti: str, tools: Tools, ledger: Path
) -> None:
    loads(tools)
    kept = killed(tcti, ledger)
    assert not ledger.exists()
    loads(tools)
    assert looked(tcti, ledger, kept) == {0x80000000}


def test_the_ledger_of_another_board_throws_nothing_out(
    tcti: str, ledger: Path, tmp_path: Path
) -> None:
    """The factory's disk goes from board to board."""
    kept, state = killed(tcti, ledger), tmp_path / "other"
    state.mkdir()
    for _ in range(resets(tcti) - 1):
        with swtpm.running(state):
            pass
    with swtpm.running(state) as other:
        assert resets(other) == resets(tcti)  # so that does not tell them apart
        loads(Tools(other, tmp_path))
        assert looked(other, ledger, kept) == {0x80000000}


def test_nor_does_that_of_the_same_tpm_before_it_was_reset_or_cleared(
    factory_fresh: Path, tmp_path: Path, ledger: Path
) -> None:
    state = tmp_path / "tpm"
    shutil.copytree(factory_fresh / "state", state)
    with swtpm.running(state) as tcti:
        kept = killed(tcti, ledger)
    with swtpm.running(state) as tcti:
        tools = Tools(tcti, tmp_path)
        loads(tools)
        assert looked(tcti, ledger, kept) == {0x80000000}
        kept = killed(tcti, ledger)
        tools("clear", "-c", "p")
        loads(tools)
        assert 0x80000000 in looked(tcti, ledger, kept)


@pytest.mark.parametrize("kept", ["", "[]", "{}", "7", '{"tpm": 1, "loaded": []}'])
def test_a_damaged_ledger_throws_nothing_out(
    tcti: str, tools: Tools, ledger: Path, kept: str
) -> None:
    loads(tools)
    assert looked(tcti, ledger, kept) == {0x80000000}


@pytest.mark.parametrize("hierarchy", ["sh", "eh", "ph"])
def test_a_tpm_is_told_from_others_with_a_hierarchy_off(
    tcti: str, tools: Tools, ledger: Path, hierarchy: str
) -> None:
    before = json.loads(killed(tcti, ledger))
    tools("hierarchycontrol", "-C", "p", f"{hierarchy}Enable", "clear")
    assert json.loads(killed(tcti, ledger)) == before
