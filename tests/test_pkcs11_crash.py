"""The store when things happen at once: others' locks, two writers, and a kill at every effect."""

import contextlib
import fcntl
import functools
import itertools
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent import pkcs11, pkcs11_rows
from agent.errors import NoPermission, TokenBusy, TokenForeign
from agent.pkcs11_objects import spki
from agent.tpm import Tpm
from tests.lab import cryptoki, token
from tests.lab.token import ME, PINS, SRK, TOKEN, Device

NOBODY = (65534, 65534) if os.geteuid() == 0 else ME

CREATE = """\
import sys
from pathlib import Path
from agent import pkcs11
from agent.tpm import Tpm
_, tcti, directory, label, pin = sys.argv
with Tpm(tcti) as tpm:
    pins = pkcs11.Pins(pin, pin)
    pkcs11.create(Path(directory), tpm, 0x81000001, label=label, pins=pins, owner=OWNER)
"""
PUT = """\
import pickle, sys
from pathlib import Path
from cryptography.hazmat.primitives.serialization import load_der_public_key
from agent import pkcs11
_, directory, label, blobs = sys.argv
public, private, der, below = map(bytes.fromhex, blobs.split())
key = pkcs11.Key("ldevid", public, private, load_der_public_key(der), True, False)
pkcs11.put(Path(directory), label, key, below=below)
"""
OF_CREATE = ["mkdir", "flock", "fchown", "fsync", "rename", "unlink"]
OF_PUT = ["fchown", "pwrite64", "fdatasync", "unlink"]


@pytest.fixture
def device(tpm: Tpm, tmp_path: Path) -> Device:
    return token.device(tpm, tmp_path / "store", "ecc256")


def creating(device: Device, pin: str = PINS.user) -> list[str]:
    program = CREATE.replace("OWNER", str(NOBODY))
    return [sys.executable, "-c", program, device.tpm.tcti, str(device.directory), TOKEN, pin]


def kill(effect: str, nth: int, command: list[str]) -> bool:
    """Run it and kill it (SIGKILL) before its `nth` system call of this name; False if it has not
    so many, and ended well."""
    inject = [f"--trace={effect}", f"--inject={effect}:signal=KILL:when={nth}"]
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", *inject, *command]
    return subprocess.run(strace, check=False).returncode != 0


def every_kill(
    effects: list[str], command: list[str], prepare: Callable[[], None]
) -> Iterator[str]:
    """Kill it before each of its effects in turn, until it has no more of them."""
    for effect in effects:
        for nth in itertools.count(1):
            prepare()
            if not kill(effect, nth, command):
                break
            yield f"{effect} {nth}"


def leftovers(device: Device) -> set[str]:
    return {path.name for path in device.directory.iterdir()} - {pkcs11.DATABASE}


def test_a_kill_at_any_effect_of_create_leaves_a_whole_token_or_none(device: Device) -> None:
    points = []
    gone = functools.partial(shutil.rmtree, device.directory, ignore_errors=True)
    for point in every_kill(OF_CREATE, creating(device), gone):
        points.append(point)
        device.tpm.flush(sorted(device.tpm.loaded()))
        if pkcs11.look(device.directory, TOKEN) is None:
            assert subprocess.run(creating(device), check=False).returncode == 0
            assert leftovers(device) == set()
        assert device.look().keys == ()
        assert leftovers(device) <= {f"{pkcs11.DATABASE}.lock"}  # the module's, and removed by it
        assert whose(device.directory) == (*NOBODY, 0o700)
        assert {whose(path) for path in device.directory.iterdir()} == {(*NOBODY, 0o600)}, point
    assert {"fsync 3", "rename 1", "mkdir 1"} <= set(points)
    device.tool("--list-objects")


def whose(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def test_a_kill_at_any_effect_of_put_leaves_the_old_key_or_the_new(device: Device) -> None:
    old, new, other = device.key("ecc256"), device.key("ecc256"), device.key("ecc256", "other")
    device.create(old, other)
    pkcs11.own(device.directory, NOBODY)
    points = []
    for point in every_kill(OF_PUT, putting(device, new), lambda: device.put(old)):
        points.append(point)
        found = device.look()
        assert found.holds("other", other.public)
        if not found.holds("ldevid", new.public):
            assert found.holds("ldevid", old.public)
            device.put(new)  # as the next run does
        assert whose(device.database) == (*NOBODY, 0o600)
        assert leftovers(device) == set()
    assert {"fdatasync 3", "pwrite64 4", "unlink 1"} <= set(points)


def putting(device: Device, key: pkcs11.Key) -> list[str]:
    blobs = [key.public, key.private, spki(key.key), device.tpm.serialized(SRK)]
    hexed = " ".join(each.hex() for each in blobs)
    return [sys.executable, "-c", PUT, str(device.directory), TOKEN, hexed]


def test_of_two_runs_that_create_at_once_one_wins_and_the_other_comes_back(device: Device) -> None:
    commands = {pin: creating(device, pin) for pin in ("first", "second")}
    runs = {
        pin: subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for pin, command in commands.items()
    }
    said = {pin: run.communicate()[1] for pin, run in runs.items()}
    device.tpm.flush(sorted(device.tpm.loaded()))
    (winner,) = (pin for pin, run in runs.items() if run.returncode == 0)
    (loser,) = (pin for pin, run in runs.items() if run.returncode != 0)
    assert "TokenBusy" in said[loser]
    device.tool("--list-objects", pin=winner)
    assert leftovers(device) == set()


def test_programs_that_start_meanwhile_do_not_spoil_the_token(device: Device) -> None:
    device.directory.mkdir()
    listing = ["pkcs11-tool", "--module", str(cryptoki.module()), "--list-token-slots"]
    env = os.environ | device.env
    others = [subprocess.Popen(listing, env=env, stdout=subprocess.DEVNULL) for _ in range(3)]
    device.create(key := device.key("ecc256"))
    for other in others:
        other.wait()
    device.tpm.flush(sorted(device.tpm.loaded()))
    assert device.look().holds("ldevid", key.public)
    assert "never extractable" in device.tool("--list-objects")


def test_a_look_takes_no_lock_and_waits_for_none(device: Device) -> None:
    """The module gives up at once where it meets a lock, even a reader's."""
    device.create()
    with contextlib.closing(sqlite3.connect(device.database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert device.look().keys == ()


def test_a_look_in_the_middle_of_a_transaction_waits_for_its_end(device: Device) -> None:
    device.create(device.key("ecc256"))
    with contextlib.closing(sqlite3.connect(device.database, check_same_thread=False)) as other:
        other.isolation_level = None
        other.execute("BEGIN")
        other.execute("UPDATE tobjects SET attrs = 'half written'")
        threading.Timer(0.2, other.execute, ["ROLLBACK"]).start()
        begin = time.monotonic()
        assert len(device.look().keys) == 1
        assert time.monotonic() - begin > 0.1


def test_looks_and_a_busy_writer_do_not_disturb_each_other(device: Device) -> None:
    """Its journal comes and goes between any two system calls of ours; it waits for no lock."""
    device.create(device.key("ecc256"))
    over, failed = threading.Event(), []

    def write() -> None:
        with contextlib.closing(sqlite3.connect(device.database, timeout=0)) as other:
            while not over.is_set():
                try:
                    with other:
                        other.execute("INSERT INTO tobjects (tokid, attrs) SELECT 99, 'x'")
                        other.execute("DELETE FROM tobjects WHERE tokid = 99")
                except sqlite3.OperationalError as e:
                    failed.append(e)
                over.wait(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = {len(device.look().keys) for _ in range(300)}
    finally:
        over.set()
        writer.join()
    assert (seen, failed) == ({1}, [])


def test_a_lock_that_is_not_released_means_later(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pkcs11_rows, "PATIENCE", 0.1)
    device.create(key := device.key("ecc256"))
    with contextlib.closing(sqlite3.connect(device.database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TokenBusy) as refused:
            device.put(replace(key, label="another"))
        assert "fuser -v" in refused.value.remedy


def test_a_module_that_holds_its_own_lock_is_waited_for_and_means_later(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.directory.mkdir()
    with (device.directory / f"{pkcs11.DATABASE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        monkeypatch.setattr(pkcs11, "PATIENCE", 0.1)
        with pytest.raises(TokenBusy, match=r"sqlite3\.lock"):
            device.create()
        monkeypatch.undo()
        threading.Timer(0.2, fcntl.flock, [lock, fcntl.LOCK_UN]).start()
        device.create()
    assert device.look().keys == ()


CRASH = """\
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 1")
db.execute("BEGIN")
db.execute("UPDATE tobjects SET attrs = 'half written'")
db.execute("CREATE TABLE bulk (x)")
db.executemany("INSERT INTO bulk VALUES (?)", [("x" * 4000,)] * 50)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_half_done_is_rolled_back(device: Device) -> None:
    device.create(key := device.key("ecc256"))
    subprocess.run([sys.executable, "-c", CRASH, str(device.database)], check=False)
    assert leftovers(device) == {f"{pkcs11.DATABASE}-journal"}
    assert device.look().holds("ldevid", key.public)
    assert leftovers(device) == set()


def test_a_store_in_wal_mode_is_read_as_it_is_now(device: Device) -> None:
    device.create(device.key("ecc256"))
    with contextlib.closing(sqlite3.connect(device.database)) as other:
        other.execute("PRAGMA journal_mode = wal")
        other.execute("SELECT * FROM tokens").fetchall()
        device.put(new := device.key("ecc256"))
        assert f"{pkcs11.DATABASE}-wal" in leftovers(device)
        assert device.look().holds("ldevid", new.public)
    assert device.look().holds("ldevid", new.public)


def test_looking_and_putting_the_same_key_write_nothing(device: Device) -> None:
    device.create(key := device.key("ecc256"))
    before = {device.database: device.database.stat()}
    device.put(key)
    before[device.directory] = device.directory.stat()
    device.look()
    for path, was in before.items():
        assert (path.stat().st_mtime_ns, path.stat().st_ino) == (was.st_mtime_ns, was.st_ino)
    assert pkcs11.look(device.directory.parent / "nothing", TOKEN) is None
    assert not (device.directory.parent / "nothing").exists()


def test_the_store_belongs_to_who_uses_it(device: Device) -> None:
    device.create()
    device.directory.chmod(0o755)
    (device.directory / f"{pkcs11.DATABASE}.lock").touch(0o644)
    pkcs11.own(device.directory, NOBODY)
    assert whose(device.directory) == (*NOBODY, 0o700)
    assert {whose(path) for path in device.directory.iterdir()} == {(*NOBODY, 0o600)}
    assert device.look().owner == NOBODY


def test_a_link_is_never_followed_to_give_a_file_away(device: Device, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir(mode=0o755)
    device.directory.symlink_to(tmp_path / "precious")
    with pytest.raises(TokenForeign, match="symbolic link"):
        device.create()
    assert whose(tmp_path / "precious") == (*ME, 0o755)


def test_no_permission_is_said_so(device: Device, tmp_path: Path) -> None:
    device.create()
    program = "from pathlib import Path; from agent import pkcs11, errors; import os, sys\n"
    program += "if os.geteuid() == 0: os.setuid(65534)\n"
    program += "try: pkcs11.look(Path(sys.argv[1]), 'x')\n"
    program += "except errors.NoPermission as e: print(e.code)\n"
    device.directory.chmod(0o000)
    shown = subprocess.run(
        [sys.executable, "-c", program, str(device.directory)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == f"{NoPermission.code}\n"


def test_a_pin_is_not_shown_by_accident() -> None:
    assert "1234" not in repr(PINS)
    assert "5678" not in str(PINS)
