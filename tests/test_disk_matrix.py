"""After a power cut, on a disk that forgets what was not synced: what it may hold, and that the
next run finishes the first boot on some of the worst. `tests/prove disk` tries them all."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import Tell
from tests.lab.disk import Disk, Tree
from tests.lab.disk_plays import FIRST
from tests.lab.disk_trace import Point
from tests.matrices import disk

OLD, NEW = b"o" * 1024, b"n" * 1024
ACTS = {act.name: act for act in FIRST}


@pytest.fixture
def files() -> Disk:
    return Disk({"d": (0o755, None), "d/x": (0o644, OLD)})


def found(files: Disk) -> list[Tree]:
    return [tree for _, tree in files.states()]


def contents(files: Disk, path: str = "d/x") -> set[bytes | None]:
    """What it may be; None: it may not be there."""
    return {tree.get(path, (0, None))[1] for tree in found(files)}


def new_file(files: Disk, *, synced: bool) -> None:
    files.make("d/.x.new", 0o600)
    files.file("d/.x.new").write(0, NEW)
    if synced:
        files.sync("d/.x.new")
    files.rename("d/.x.new", "d/x")


def test_a_disk_on_which_nobody_writes_forgets_nothing(files: Disk) -> None:
    assert found(files) == [files.tree()]


def test_a_file_that_is_synced_and_then_renamed_is_the_old_or_the_new_one(files: Disk) -> None:
    new_file(files, synced=True)
    assert contents(files) == {OLD, NEW}
    files.sync("d")
    assert contents(files) == {NEW}


def test_one_that_is_renamed_without_a_sync_may_be_empty_nothing_or_a_part(files: Disk) -> None:
    new_file(files, synced=False)
    empty, nothing, parts = b"", bytes(1024), {NEW[:512], bytes(512) + NEW[512:]}
    assert contents(files) == {OLD, NEW, empty, nothing, *parts}
    files.sync("d")
    assert empty in contents(files)


def test_a_file_that_is_written_anew_in_its_place_may_be_the_old_one_or_empty(files: Disk) -> None:
    files.file("d/x").truncate(0)
    assert contents(files) == {OLD, b""}
    files.file("d/x").write(0, b"new")
    assert contents(files) == {OLD, b"", bytes(3), b"new"}


def test_what_is_written_into_a_file_may_be_torn_between_sectors_and_pages(files: Disk) -> None:
    files.make("big", 0o600)
    files.file("big").write(0, b"o" * 8192)
    files.sync("big")
    files.sync("")
    files.file("big").write(4096 - 512, b"n" * 1024)
    before, after = b"o" * (4096 - 512), b"o" * (4096 - 512)
    halves = {b"n" * 512 + b"o" * 512, b"o" * 512 + b"n" * 512, b"n" * 1024, b"o" * 1024}
    assert contents(files, "big") == {before + half + after for half in halves}


def test_names_in_a_directory_are_made_and_taken_away_each_for_itself(files: Disk) -> None:
    files.make("d/y", 0o600)
    files.unlink("d/x")
    assert {frozenset(tree) - {"d"} for tree in found(files)} == {
        frozenset(names) for names in ({"d/x"}, {"d/x", "d/y"}, {"d/y"}, set[str]())
    }


def test_a_new_directory_is_lost_with_all_that_is_in_it_until_its_parent_is_synced(
    files: Disk,
) -> None:
    files.make("new", 0o700, directory=True)
    files.make("new/x", 0o600)
    files.sync("new/x")
    files.sync("new")
    assert {"d", "d/x"} in [tree.keys() for tree in found(files)]
    files.sync("")
    assert all("new/x" in tree for tree in found(files))


def test_a_mode_is_on_the_disk_when_the_file_was_synced_and_not_its_data_alone(files: Disk) -> None:
    files.chmod("d/x", 0o600)
    files.sync("d/x", mode=False)
    assert {tree["d/x"][0] for tree in found(files)} == {0o644, 0o600}
    files.sync("d/x")
    assert {tree["d/x"][0] for tree in found(files)} == {0o600}


def test_what_others_changed_is_there_and_what_we_changed_besides_may_not_be(files: Disk) -> None:
    new_file(files, synced=True)
    files.adopt({**files.tree(), "d/theirs": (0o600, b"theirs")})
    assert all(tree["d/theirs"] == (0o600, b"theirs") for tree in found(files))
    assert contents(files) == {OLD, NEW}


# --- on whole devices ---

OF_PINS = "pins.json"  # without these, nobody can use the token any more


def worst(points: Sequence[Point]) -> Sequence[Point]:
    """The PINs are lost as early and as late as can be; a name is there, and not what was written
    under it; all is lost that can be; the last of all."""
    of_pins = [each for each in points if OF_PINS in each.name]
    named = [each for each in points if "after rename" in each.name and "not " not in each.name]
    lost = [each for each in points if each.name.endswith("; data lost")]
    return [*of_pins[:1], *of_pins[-1:], *named[-2:], *lost[-1:], *points[-1:]]


@pytest.mark.parametrize("act", ["first boot, IoT Edge, X.509", "first boot, no IoT Edge, TPM"])
def test_when_the_power_fails_the_first_boot_is_finished_whatever_the_disk_forgot(
    tmp_path: Path, tell: Tell, act: str
) -> None:
    told = list[str]()
    [outcome] = disk.played([ACTS[act]], tmp_path, worst, told.append)
    assert not outcome.failed, "\n".join(told)
    tell(f"{act}: {len(outcome.passed)} of the worst disks after a power cut: all survived")
