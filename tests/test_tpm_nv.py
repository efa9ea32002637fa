"""Certificates in the TPM's NV: defined, written, read back, given up; others' left alone."""

import re

import pytest

from agent.errors import (
    NvFull,
    NvLocked,
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


@pytest.mark.parametrize("hierarchy", ["platform", "owner"])
@pytest.mark.parametrize("wanted", [PLATFORM, OWNER])
def test_what_was_defined_and_never_written_gives_way(
    tpm: Tpm, tools: Tools, hierarchy: Definer, wanted: str
) -> None:
    """A run was cut off, and what it wanted to write is gone with its disk."""
    define(tools, 64, wanted)
    found = tpm.nv_public(INDEX)
    assert found is not None
    assert found.blank
    tpm.nv_store(INDEX, DATA, hierarchy)
    assert tpm.nv_read(INDEX) == DATA
    found = tpm.nv_public(INDEX)
    assert found is not None
    assert (found.definer, found.ours, found.blank) == (hierarchy, True, False)


@pytest.mark.parametrize("more", ["write_stclear", "policyread", "nt=counter"])
def test_others_may_define_first_and_write_later(tpm: Tpm, tools: Tools, more: str) -> None:
    define(tools, 8, f"{OWNER}|{more}")
    before = attributes(tools)
    with pytest.raises(NvOccupied):
        tpm.nv_store(INDEX, DATA, "owner")
    assert attributes(tools) == before


def test_a_certificate_that_was_cut_off_is_said_to_be(tpm: Tpm, tools: Tools) -> None:
    """It may be that of an interrupted run, of which nothing is left on the disk; or not."""
    whole = b"\x30\x82" + (1536 - 4).to_bytes(2, "big") + DATA[4:]
    tpm.nv_store(INDEX, whole, "platform")
    with pytest.raises(NvOccupied, match=r"already$"):
        tpm.nv_store(INDEX, DATA, "platform")
    tpm.nv_undefine(INDEX)
    define(tools, 1536)
    tools("nvwrite", hex(INDEX), "-C", "p", "-i", "-", stdin=whole[:1000])
    before = tpm.nv_read(INDEX)
    with pytest.raises(NvOccupied, match="a certificate that was cut off"):
        tpm.nv_store(INDEX, DATA, "platform")
    assert tpm.nv_read(INDEX) == before


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


def foreign(tools: Tools, wanted: str, by: str, *, written: bool = True) -> None:
    """Somebody's index, with a password."""
    password = ("-p", "secret")
    tools("nvdefine", hex(INDEX), "-C", by, "-s", "8", "-a", wanted, *password)
    if written:
        auth = ("-C", hex(INDEX), "-P", "secret")
        tools("nvwrite", hex(INDEX), *auth, "-i", "-", stdin=b"whatever")


@pytest.mark.parametrize(
    ("wanted", "by", "who"),
    [
        ("authread|authwrite", "o", "only who knows its password may"),
        ("authread|authwrite|no_da", "o", "only who knows its password may"),
        ("authread|authwrite|ppread", "o", "its password or the platform hierarchy"),
        ("authread|authwrite|ppread|platformcreate", "p", "its password or the platform hierarchy"),
        ("policyread|authwrite", "o", "only whom its policy allows may"),
    ],
)
def test_a_password_is_never_guessed_where_an_error_counts(
    tpm: Tpm, tools: Tools, wanted: str, by: str, who: str
) -> None:
    """Three runs of ours would lock this TPM."""
    foreign(tools, wanted, by)
    tools("changeauth", "-c", "p", "secret")
    for _ in range(4):
        with pytest.raises(NvLocked, match=f"cannot read NV 0x1c90000: .*{who}") as e:
            tpm.nv_read(INDEX)
    assert "tpm2_nvundefine -C o 0x1c90000" in e.value.remedy
    with pytest.raises(NvOccupied):
        tpm.nv_store(INDEX, DATA, "owner")
    budget = tpm.budget()
    assert (budget.lockout_counter, budget.in_lockout) == (0, False)


@pytest.mark.parametrize("also", ["ownerread", "ppread", "ownerread|no_da", "ppread|no_da"])
def test_where_a_hierarchy_may_read_it_too_nobody_asks_for_the_password(
    tpm: Tpm, tools: Tools, also: str
) -> None:
    foreign(tools, f"authread|authwrite|{also}", "o")
    assert tpm.nv_read(INDEX) == b"whatever"
    tools("changeauth", "-c", "o", "secret")
    with Tpm(tpm.tcti, {"owner": b"secret"}) as knowing:
        assert knowing.nv_read(INDEX) == b"whatever"
    assert tpm.budget().lockout_counter == 0


def test_an_owners_password_that_we_are_not_told_is_named(tpm: Tpm, tools: Tools) -> None:
    foreign(tools, "authread|authwrite|ownerread", "o")
    tools("changeauth", "-c", "o", "secret")
    with pytest.raises(TpmAuth, match="read NV 0x1c90000"):
        tpm.nv_read(INDEX)


def test_what_was_never_written_is_none_whoever_may_read_it(tpm: Tpm, tools: Tools) -> None:
    foreign(tools, "authread|authwrite", "o", written=False)
    assert tpm.nv_read(INDEX) is None
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
