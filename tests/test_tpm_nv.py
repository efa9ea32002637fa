"""Certificates in the TPM's NV: defined, written, read back, given up; others' left alone."""

import re

import pytest

from agent.errors import (
    NvFull,
    NvOccupied,
    PlatformLocked,
    TpmAuth,
    TpmDisabled,
    TpmError,
)
from agent.tpm import Tpm
from agent.tpm.nv import Definer
from tests.lab.tools import Tools

INDEX = 0x01C90000
DATA = bytes(range(256)) * 6  # more than the TPM takes in one command
PLATFORM = "ppwrite|ppread|ownerread|authread|no_da|platformcreate"
OWNER = "ownerwrite|ownerread|authread|no_da"


def attributes(tools: Tools) -> set[str]:
    *_, last = re.findall(r"friendly: (\S+)", tools("nvreadpublic", hex(INDEX)))
    return set(last.split("|"))


def define(tools: Tools, size: int, wanted: str = PLATFORM) -> None:
    definer = "p" if wanted == PLATFORM else "o"
    tools("nvdefine", hex(INDEX), "-C", definer, "-s", str(size), "-a", wanted)


@pytest.mark.parametrize(
    ("hierarchy", "letter", "wanted"), [("platform", "p", PLATFORM), ("owner", "o", OWNER)]
)
def test_what_is_stored_is_what_tpm2_tools_read(
    tpm: Tpm, tools: Tools, hierarchy: Definer, letter: str, wanted: str
) -> None:
    tpm.nv_store(INDEX, DATA, hierarchy)
    assert tpm.nv_read(INDEX) == DATA
    assert attributes(tools) == {*wanted.split("|"), "written"}
    for reader in (letter, "o", hex(INDEX)):
        tools("nvread", hex(INDEX), "-C", reader, "-o", "read")
        assert (tools.directory / "read").read_bytes() == DATA
    found = tpm.nv_public(INDEX)
    assert found is not None
    assert (found.size, found.platform, found.written) == (1536, hierarchy == "platform", True)
    tpm.nv_undefine(INDEX)
    assert tpm.nv_public(INDEX) is None
    assert tpm.nv_read(INDEX) is None


def test_what_is_there_is_never_overwritten(tpm: Tpm, tools: Tools) -> None:
    tpm.nv_store(INDEX, DATA, "owner")
    for other in (bytes(1536), b"short"):
        with pytest.raises(NvOccupied, match="0x1c90000: 1536 bytes") as e:
            tpm.nv_store(INDEX, other, "owner")
    assert "tpm2_nvreadpublic 0x1c90000" in e.value.remedy
    with pytest.raises(NvOccupied):
        tpm.nv_store(INDEX, DATA, "platform")
    assert tpm.nv_read(INDEX) == DATA
    tools("nvundefine", hex(INDEX), "-C", "o")
    define(tools, 1536, f"{OWNER}|write_stclear")
    with pytest.raises(NvOccupied):
        tpm.nv_store(INDEX, DATA, "owner")
    assert "write_stclear" in attributes(tools)


@pytest.mark.parametrize("written", [0, 700, 1536])
def test_what_a_power_cut_interrupted_is_finished(tpm: Tpm, tools: Tools, written: int) -> None:
    define(tools, 1536)
    if written:
        tools("nvwrite", hex(INDEX), "-C", "p", "-i", "-", stdin=DATA[:written])
    tpm.nv_store(INDEX, DATA, "platform")
    assert tpm.nv_read(INDEX) == DATA


def test_what_somebody_else_began_to_write_is_theirs(tpm: Tpm, tools: Tools) -> None:
    define(tools, 1536)
    tools("nvwrite", hex(INDEX), "-C", "p", "-i", "-", stdin=b"theirs")
    before = tpm.nv_read(INDEX)
    with pytest.raises(NvOccupied):
        tpm.nv_store(INDEX, DATA, "platform")
    assert tpm.nv_read(INDEX) == before


# --- who may ---


def test_a_platform_password_is_named_and_the_owner_takes_over(tpm: Tpm, tools: Tools) -> None:
    tpm.nv_store(INDEX, b"before", "platform")
    assert tpm.platform_open()
    tools("changeauth", "-c", "p", "secret")
    assert not tpm.platform_open()
    assert tpm.budget().passwords == {"platform"}
    with pytest.raises(PlatformLocked, match="undefine NV 0x1c90000"):
        tpm.nv_undefine(INDEX)
    with pytest.raises(PlatformLocked, match="define NV 0x1c90001") as e:
        tpm.nv_store(INDEX + 1, DATA, "platform")
    assert "tpm-platform-auth" in e.value.remedy
    assert tpm.nv_public(INDEX + 1) is None
    tpm.nv_store(INDEX + 1, DATA, "owner")
    assert tpm.nv_read(INDEX) == b"before"
    assert tpm.budget().lockout_counter == 0


def test_with_the_platform_password_it_is_as_ever(tpm: Tpm, tools: Tools) -> None:
    tools("changeauth", "-c", "p", "secret")
    with Tpm(tpm.tcti, {"platform": b"secret"}) as knowing:
        assert knowing.budget().passwords == set()
        knowing.nv_store(INDEX, DATA, "platform")
        assert tpm.nv_read(INDEX) == DATA
        knowing.nv_undefine(INDEX)
    with Tpm(tpm.tcti, {"platform": b"wrong"}) as guessing:
        assert not guessing.platform_open()
        with pytest.raises(PlatformLocked):
            guessing.nv_store(INDEX, DATA, "platform")
    assert tpm.budget().lockout_counter == 0


def test_a_switched_off_platform_hierarchy_is_named(tpm: Tpm, tools: Tools) -> None:
    tools("hierarchycontrol", "-C", "p", "phEnable", "clear")
    assert tpm.budget().disabled == {"platform"}
    assert not tpm.platform_open()
    with pytest.raises(PlatformLocked, match="0x185"):
        tpm.nv_store(INDEX, DATA, "platform")
    tpm.nv_store(INDEX, DATA, "owner")
    assert tpm.nv_read(INDEX) == DATA


def test_an_owner_password(tpm: Tpm, tools: Tools) -> None:
    tools("changeauth", "-c", "o", "secret")
    assert tpm.budget().passwords == {"owner"}
    with pytest.raises(TpmAuth, match="define NV 0x1c90000"):
        tpm.nv_store(INDEX, DATA, "owner")
    with Tpm(tpm.tcti, {"owner": b"secret"}) as knowing:
        knowing.nv_store(INDEX, DATA, "owner")
    with pytest.raises(TpmAuth, match="undefine NV 0x1c90000"):
        tpm.nv_undefine(INDEX)
    assert tpm.nv_read(INDEX) == DATA


def test_a_switched_off_owner_hierarchy(tpm: Tpm, tools: Tools) -> None:
    tools("hierarchycontrol", "-C", "p", "shEnable", "clear")
    assert tpm.budget().disabled == {"owner"}
    with pytest.raises(TpmDisabled, match="define NV 0x1c90000"):
        tpm.nv_store(INDEX, DATA, "owner")


# --- how much ---


def test_an_nv_that_is_full_is_full_and_nothing_half_made_stays(tpm: Tpm, tools: Tools) -> None:
    wanted, room = f"{OWNER}", 0
    while not tools.ask(
        "nvdefine", hex(0x01500000 + room), "-C", "o", "-s", "2048", "-a", wanted
    ).returncode:
        room += 1
    before = tpm.nv_indices()
    with pytest.raises(NvFull, match="define NV 0x1c90000 of 2048 bytes") as e:
        tpm.nv_store(INDEX, bytes(2048), "platform")
    assert "tpm2_getcap handles-nv-index" in e.value.remedy
    assert tpm.nv_indices() == before
    assert tpm.budget().nv_bytes >= 2048 * room


def test_what_is_larger_than_any_index_has_no_room(tpm: Tpm) -> None:
    most = tpm.budget().nv_index_max
    with pytest.raises(NvFull, match=f"of {most + 1} bytes"):
        tpm.nv_store(INDEX, bytes(most + 1), "platform")
    tpm.nv_store(INDEX, bytes(most), "platform")


def test_what_is_not_there_cannot_be_given_up(tpm: Tpm) -> None:
    assert tpm.nv_public(INDEX) is None
    with pytest.raises(TpmError, match="it is not defined"):
        tpm.nv_undefine(INDEX)


def test_the_budget_is_what_tpm2_tools_count(tpm: Tpm, tools: Tools) -> None:
    tpm.nv_store(INDEX, DATA, "platform")
    with tpm.srk("ecc256"):
        budget = tpm.budget()
        assert budget.transient_used == len(listed(tools, "handles-transient")) == 1
    assert budget.persistent_used == len(listed(tools, "handles-persistent"))
    assert budget.nv_indices == len(listed(tools, "handles-nv-index"))
    sizes = re.findall(r"^ *size: (\d+)", tools("nvreadpublic"), re.MULTILINE)
    assert budget.nv_bytes == sum(map(int, sizes))
    said = tools("getcap", "properties-variable")
    for name, value in (
        ("HR_PERSISTENT_AVAIL", budget.persistent_available),
        ("HR_LOADED_AVAIL", budget.sessions_available),
        ("LOCKOUT_COUNTER", budget.lockout_counter),
        ("MAX_AUTH_FAIL", budget.lockout_max),
        ("LOCKOUT_INTERVAL", budget.lockout_interval),
    ):
        found = re.search(rf"TPM2_PT_{name}: (\S+)", said)
        assert found is not None
        assert int(found[1], 16) == value, name
    assert not budget.passwords | budget.disabled
    assert not budget.in_lockout
    assert tpm.loaded() == set()


def listed(tools: Tools, capability: str) -> list[str]:
    return re.findall(r"0x[0-9A-Fa-f]+", tools("getcap", capability))
