"""The store on disk: whoever else made it, uses it, broke it, or was killed in it."""

import contextlib
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from agent import pkcs11, pkcs11_objects
from agent.errors import AgentError, TokenBusy, TokenForeign, TokenUnreadable
from agent.tpm import Tpm
from agent.tpm.templates import KeyType
from tests.lab import cryptoki, token
from tests.lab.token import ME, PINS, SRK, TOKEN, Device


@pytest.fixture
def device(tpm: Tpm, tmp_path: Path) -> Device:
    return token.device(tpm, tmp_path / "store", "ecc256")


# --- made by the shell scripts ---


def scripts(device: Device, key: pkcs11.Key, *, finish: bool = True) -> None:
    """The token as scripts make it with tpm2_ptool; unfinished, the TPM is full at the second
    step. It needs a resource manager: tools that flush what they load will do."""
    base = device.directory.parent
    device.directory.mkdir()
    (base / "public").write_bytes(key.public)
    (base / "private").write_bytes(key.private)
    tools = flushing_tools(base / "tools") if finish else Path("/usr/bin")
    ptool = ["env", f"PATH={tools}:/usr/bin:/bin", "/usr/bin/tpm2_ptool"]
    where: list[str | Path] = ["--path", device.directory]
    device.run(*ptool, "init", *where, "--primary-handle", hex(SRK))
    label = ["--label", TOKEN, "--userpin", PINS.user]
    device.run(*ptool, "addtoken", "--pid", "1", "--sopin", PINS.so, *label, *where)
    blobs = [base / "public", base / "private"]
    device.run(*ptool, "link", "--key-label", key.label, *label, *where, *blobs)


def flushing_tools(directory: Path) -> Path:
    directory.mkdir()
    for tool in Path("/usr/bin").glob("tpm2_*"):
        if tool.name not in ("tpm2_ptool", "tpm2_flushcontext"):
            script = f'#!/bin/sh\n{tool} "$@"\nrc=$?\n/usr/bin/tpm2_flushcontext -t\nexit $rc\n'
            (directory / tool.name).write_text(script)
            (directory / tool.name).chmod(0o755)
    return directory


def attributes(device: Device) -> dict[int, dict[str, pkcs11_objects.Value]]:
    """The two objects of the one key pair, by class."""
    with contextlib.closing(sqlite3.connect(device.database)) as db:
        rows = [pkcs11_objects.parse(text) for (text,) in db.execute("SELECT attrs FROM tobjects")]
    return {int(str(row["0"])): row for row in rows}


@pytest.mark.parametrize("kind", ["ecc256", "rsa2048"])
def test_a_token_of_the_shell_scripts_is_adopted(device: Device, kind: KeyType) -> None:
    key = device.key(kind)
    scripts(device, key)
    assert device.look().holds("ldevid", key.public)
    assert device.look().keys[0].private == key.private

    with pytest.raises(TokenBusy):
        device.create(key)
    new = device.key("ecc256")
    device.put(new)

    assert device.look().holds("ldevid", new.public)
    assert device.tool("--list-objects").count("label:      ldevid\n") == 2


@pytest.mark.parametrize("kind", ["ecc256", "rsa2048"])
def test_objects_are_those_of_tpm2_ptool_but_for_what_is_wrong_there(
    device: Device, kind: KeyType, tmp_path: Path
) -> None:
    key = device.key(kind)
    scripts(device, key)
    theirs = attributes(device)
    shutil.rmtree(device.directory)
    device.create(key)
    ours = attributes(device)

    del theirs[3][f"{0x8F000001}"]  # the empty password, encrypted; ours is left out
    theirs[2] |= {"260": key.decrypts, "266": key.signs}  # CKA_ENCRYPT and CKA_VERIFY are crossed
    for kind_of_half, half in ours.items():
        assert plain(half, kind) == plain(theirs[kind_of_half], kind)


def plain(half: dict[str, pkcs11_objects.Value], kind: KeyType) -> dict[str, object]:
    """Without CKA_ID, which is random there; hex in one case; mechanisms without order, and with
    CKM_SHA1_RSA_PKCS (6), which the module lists for the keys it makes and tpm2_ptool forgets."""
    texts: dict[str, object] = {
        name: v.lower() if isinstance(v, str) else v for name, v in half.items()
    }
    mechanisms = texts[f"{0x40000600}"]
    assert isinstance(mechanisms, tuple)
    added = {6} if kind == "rsa2048" else set()
    return texts | {"258": "", f"{0x40000600}": frozenset({*mechanisms, *added})}


def test_a_key_linked_twice_becomes_one(device: Device) -> None:
    key = device.key("ecc256")
    scripts(device, key)
    with contextlib.closing(sqlite3.connect(device.database)) as db, db:
        db.execute("INSERT INTO tobjects (tokid, attrs) SELECT tokid, attrs FROM tobjects")
    assert not device.look().holds("ldevid", key.public)
    device.put(key)
    assert device.look().holds("ldevid", key.public)


def test_half_a_key_pair_is_not_a_key_and_is_mended(device: Device) -> None:
    key = device.key("ecc256")
    device.create(key)
    with contextlib.closing(sqlite3.connect(device.database)) as db, db:
        db.execute("DELETE FROM tobjects WHERE id = 2")
    assert not device.look().holds("ldevid", key.public)
    device.put(key)
    assert device.look().holds("ldevid", key.public)


# --- a store that holds nothing ---


def made_by_the_module(device: Device) -> None:
    device.directory.mkdir()
    device.run("pkcs11-tool", "--module", cryptoki.module(), "--list-slots")


def left_by_a_failed_addtoken(device: Device) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        scripts(device, device.key("ecc256"), finish=False)
    device.tpm.flush(sorted(device.tpm.loaded()))


def an_empty_file(device: Device) -> None:
    device.directory.mkdir()
    device.database.touch()


def left_by_a_module_killed_while_it_made_tables(device: Device) -> None:
    made_by_the_module(device)
    with contextlib.closing(sqlite3.connect(device.database)) as db, db:
        db.execute("DROP TABLE schema")
        db.execute("DROP TABLE tobjects")


@pytest.mark.parametrize(
    "before",
    [
        made_by_the_module,
        left_by_a_failed_addtoken,
        an_empty_file,
        left_by_a_module_killed_while_it_made_tables,
    ],
)
def test_a_store_without_a_token_gets_one(device: Device, before: object) -> None:
    assert callable(before)
    before(device)
    assert pkcs11.look(device.directory, TOKEN) is None
    key = device.key("ecc256")
    device.create(key)
    assert device.look().holds("ldevid", key.public)
    assert "never extractable" in device.tool("--list-objects")


def test_tokens_of_others_in_the_same_store_stay(device: Device) -> None:
    device.create(device.key("ecc256"))
    first = device.look()
    pkcs11.create(device.directory, device.tpm, SRK, label="second", pins=PINS, owner=ME)
    assert device.look() == first
    assert f"label: {TOKEN}\n" in device.run("tpm2_ptool", "listtokens", "--pid", "1", *at(device))
    assert "label: second" in device.run("tpm2_ptool", "listtokens", "--pid", "2", *at(device))


def test_a_token_that_is_removed_leaves_those_of_others(device: Device) -> None:
    device.create(device.key("ecc256"))
    pkcs11.create(device.directory, device.tpm, SRK, label="second", pins=PINS, owner=ME)
    second = pkcs11.look(device.directory, "second")
    for _ in range(2):
        pkcs11.remove(device.directory, TOKEN)
        assert pkcs11.look(device.directory, TOKEN) is None
    assert pkcs11.look(device.directory, "second") == second
    key = device.key("ecc256")
    device.create(key)
    assert device.look().holds("ldevid", key.public)
    assert "label: second" in device.run("tpm2_ptool", "listtokens", "--pid", "2", *at(device))
    pkcs11.remove(device.directory / "nothing", TOKEN)


def at(device: Device) -> list[str | Path]:
    return ["--path", device.directory]


# --- not ours ---


def garbage(device: Device) -> None:
    device.directory.mkdir()
    device.database.write_bytes(b"SQLite format 3\0 or what" * 100)


def another_database(device: Device) -> None:
    device.directory.mkdir()
    with contextlib.closing(sqlite3.connect(device.database)) as db, db:
        db.execute("CREATE TABLE tokens (id)")
        db.execute("CREATE TABLE recipes (id)")


def a_store_of_the_future(device: Device) -> None:
    device.create()
    with contextlib.closing(sqlite3.connect(device.database)) as db, db:
        db.execute("UPDATE schema SET schema_version = 10")


def a_token_below_another_key(device: Device) -> None:
    with device.tpm.srk("rsa2048") as other:
        device.tpm.persist(other, 0x81000005)
    where, tpm = device.directory, device.tpm
    pkcs11.create(where, tpm, 0x81000005, label=TOKEN, pins=PINS, owner=ME)


def damaged_rows(device: Device) -> None:
    device.create(device.key("ecc256"))
    with contextlib.closing(sqlite3.connect(device.database)) as db, db:
        db.execute("UPDATE pobjects SET config = 'esys-tr'")


def no_pins(device: Device) -> None:
    device.create()
    with contextlib.closing(sqlite3.connect(device.database)) as db, db:
        db.execute("DELETE FROM sealobjects")


def no_hex(device: Device) -> None:
    device.create(device.key("ecc256"))
    with contextlib.closing(sqlite3.connect(device.database)) as db, db:
        db.execute("UPDATE tobjects SET attrs = replace(attrs, '6c646576', 'ldevid')")


def a_link(device: Device) -> None:
    device.directory.mkdir()
    device.database.symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (garbage, TokenUnreadable),
        (another_database, TokenUnreadable),
        (a_store_of_the_future, TokenUnreadable),
        (damaged_rows, TokenUnreadable),
        (no_pins, TokenUnreadable),
        (a_token_below_another_key, TokenForeign),
        (a_link, TokenForeign),
    ],
)
def test_what_is_not_ours_is_refused_and_left_as_it_is(
    device: Device, made: object, error: type[AgentError]
) -> None:
    assert callable(made)
    made(device)
    before = device.database.read_bytes()
    key = device.key("ecc256")
    for attempt in (device.look, device.create, lambda: device.put(key)):
        with pytest.raises(error) as refused:
            attempt()
        assert str(device.database) in str(refused.value) + refused.value.remedy
    assert device.database.read_bytes() == before
    assert [path.name for path in device.directory.iterdir()] == [pkcs11.DATABASE]


def test_a_key_that_is_no_hex_is_unreadable(device: Device) -> None:
    no_hex(device)
    with pytest.raises(TokenUnreadable, match="hex"):
        device.look()


def test_a_file_where_the_directory_should_be_is_not_ours(device: Device) -> None:
    device.directory.touch()
    for attempt in (device.look, device.create):
        with pytest.raises(TokenForeign, match="directory"):
            attempt()
