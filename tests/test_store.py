"""Whole-or-nothing files, the lock, and secrets."""

import os
from pathlib import Path

import pytest

from agent import credentials, store
from agent.errors import Busy, NoPermission, PathUnusable, SecretUnreadable
from agent.state import read_json


def test_a_file_is_replaced_whole_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "x"
    store.write(path, b"old", mode=0o644)
    store.write(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_what_a_killed_writer_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".x.new").write_text("half a fi")
    store.write(tmp_path / "x", b"whole")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_what_a_killed_writer_left_goes_with_the_next_run_but_for_what_is_just_being_written(
    tmp_path: Path,
) -> None:
    for name in (".x.new", ".shared.new", "y.new", ".z"):
        (tmp_path / name).write_text("half a fi")
    (tmp_path / ".directory.new").mkdir()
    with store.lock(tmp_path, besides=[tmp_path / "shared"]):
        left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".directory.new", ".shared.new", ".z", "y.new"]


@pytest.mark.parametrize("name", ["", "/", ".", "..", "directory", "fifo", "link"])
def test_what_is_no_file_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`/dev/stdout` is a link to a pipe, mostly."""
    monkeypatch.chdir(tmp_path)
    Path("directory").mkdir()
    os.mkfifo("fifo")
    Path("link").symlink_to("fifo")
    path = Path(name)
    before, kind = {*tmp_path.rglob("*")}, path.lstat().st_mode
    with pytest.raises(PathUnusable, match=r"Is a directory|Not a regular file"):
        store.write(path, b"x")
    assert ({*tmp_path.rglob("*")}, path.lstat().st_mode) == (before, kind)


def test_a_directory_is_emptied_and_stays_and_no_link_is_followed(tmp_path: Path) -> None:
    full, elsewhere = tmp_path / "full", tmp_path / "elsewhere"
    (full / "a/b").mkdir(parents=True)
    elsewhere.mkdir()
    for path in (full / "file", full / "a/b/file", elsewhere / "file"):
        path.write_text("x")
    (full / "link").symlink_to(elsewhere)
    (full / "a/link").symlink_to(elsewhere)
    full.chmod(0o710)
    store.empty(full, only=("file", "not there"))
    assert sorted(path.name for path in full.iterdir()) == ["a", "link"]
    store.empty(full)
    assert list(full.iterdir()) == []
    assert full.stat().st_mode & 0o777 == 0o710
    assert (elsewhere / "file").exists()
    store.empty(tmp_path / "nothing")


def test_a_link_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    """Whoever owns the directory above may have put it there."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PathUnusable):
        store.empty(tmp_path / "link")
    assert (tmp_path / "elsewhere/file").exists()


def test_only_one_run_at_a_time(tmp_path: Path) -> None:
    with store.lock(tmp_path / "state"), pytest.raises(Busy), store.lock(tmp_path / "state"):
        pass
    with store.lock(tmp_path / "state"):
        pass


def test_no_permission_is_said_as_such(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(0o500)
    was = os.geteuid()
    os.seteuid(was or 65534)  # root may do everything; nobody may not
    try:
        with pytest.raises(NoPermission, match="closed"), store.lock(tmp_path / "closed" / "x"):
            pass
    finally:
        os.seteuid(was)


def test_a_damaged_state_file_is_made_anew(tmp_path: Path) -> None:
    for damaged in ("{", "[" * 100_000):
        (tmp_path / "x.json").write_text(damaged)
        assert read_json(tmp_path / "x.json") is None
    assert read_json(tmp_path / "none.json") is None


def test_a_systemd_credential_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "est-password").write_text("from systemd\n")
    file = tmp_path / "file"
    store.write(file, b"from the file")
    assert credentials.read("est-password", file, "x") == "from the file"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert credentials.read("est-password", file, "x") == "from systemd"


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (b"hunter2", 0o644, "others than its owner may read it"),
        (b"\n", 0o600, "it is empty"),
        (b"\xff\xfehunter2", 0o600, "it is not UTF-8"),
        (b"hunter2" * 1000, 0o600, "longer than 4096 bytes"),
    ],
)
def test_a_bad_secret_is_named_and_not_shown(
    tmp_path: Path, content: bytes, mode: int, why: str
) -> None:
    store.write(tmp_path / "secret", content, mode=mode)
    with pytest.raises(SecretUnreadable, match=why) as e:
        credentials.read("est-password", tmp_path / "secret", "ldevid.est.password_file")
    assert "hunter2" not in f"{e.value} {e.value.__cause__!r} {e.value.remedy}"
    assert "/etc/credstore/est-password" in e.value.remedy


def test_a_missing_secret_says_where_it_may_come_from(tmp_path: Path) -> None:
    with pytest.raises(SecretUnreadable, match=r"no such credential, and x\.y is not set"):
        credentials.read("est-password", None, "x.y")
    with pytest.raises(SecretUnreadable, match="No such file"):
        credentials.read("est-password", tmp_path / "none", "x.y")
