"""A disk in another board, a TPM that was cleared, a device that is flashed anew: what was made
with the TPM that is here is told from what was not, and nobody has to come to the device."""

import shutil
from pathlib import Path

import pytest

from agent import pkcs11
from agent.state import State
from agent.steps import ldevid_key, srk
from agent.tpm import Public, Tpm
from tests.conftest import MakeDevice
from tests.lab import crash, swtpm
from tests.lab.device import Device
from tests.lab.factory import Board
from tests.test_bad_input import refused, tools
from tests.test_provision import ldevid, operational, provisioned

OTHER = Board(id="board-other")
STARTS_OVER = "starting over: what is on this disk is of no use any more, it was made with"
REPLACED = "the LDevID key of an earlier installation, at 0x81000002, is replaced"


def board(device: Device, kind: Board = OTHER) -> Path:
    """Another board, beside the device; it is its TPM that counts."""
    there = device.directory / "other"
    device.world.solder(kind, there)
    return there


def move(device: Device, there: Path) -> None:
    """Take the disk out, and put it into the board with the TPM `there`; where that was is then the
    TPM of the first board. In good order: power cuts count as attacks on IoT Edge's keys."""
    device.run(["iotedge", "system", "stop"])
    tools(device, "tpm2_shutdown", "--clear")
    device.power_cut()
    device.tpm.rename(device.directory / "between")
    there.rename(device.tpm)
    (device.directory / "between").rename(there)
    device.power_on()


def key(device: Device) -> Public | None:
    """The LDevID key."""
    with Tpm(device.tcti) as tpm:
        return tpm.public(ldevid_key.HANDLE)


def identity(device: Device) -> dict[Path, bytes]:
    """All that is of one identity: our files, the PKCS#11 store, what IoT Edge keeps."""
    edge = [*device.edge.glob("certd/certs/*"), device.edge / "identityd/device_info"]
    files = [*State(device.state).identity, *device.pkcs11.glob("*.sqlite3"), *edge]
    return {path: path.read_bytes() for path in files if path.exists()}


def labels(device: Device) -> list[str]:
    """The keys in the token that this TPM can load."""
    with Tpm(device.tcti) as tpm:
        token = pkcs11.look(device.pkcs11, "edge", below=tpm.serialized(srk.HANDLE))
    assert token is not None
    return sorted(key.label for key in token.keys)


# --- another board ---


def test_a_disk_in_another_board_becomes_the_device_of_that_board(make_device: MakeDevice) -> None:
    device = provisioned(make_device())
    old, files = key(device), identity(device)
    certificates = [operational(device, name) for name in ("deviceid", "estid")]
    there = board(device)
    move(device, there)
    device.run(["iotedge", "system", "restart"])  # its services try, and fail
    assert device.agent("status").returncode == 3

    done = device.agent("provision")

    assert done.returncode == 0, done.stderr
    assert f"{STARTS_OVER} another TPM" in done.stderr
    assert key(device) not in (None, old)
    assert identity(device).keys() == files.keys()
    assert [path for path, was in files.items() if path.read_bytes() == was] == [
        State(device.state).token,  # where the token is
        device.edge / "identityd/device_info",  # the name of the device is a fixed text
    ]
    assert {operational(device, name) for name in ("deviceid", "estid")}.isdisjoint(certificates)
    assert labels(device) == ["device-id", "est-id", "ldevid"]
    again = device.agent("provision").stderr
    assert all("already done" in line for line in again.splitlines())

    move(device, there)
    back = device.agent("provision")
    assert back.returncode == 0, back.stderr
    assert f"{STARTS_OVER} another TPM" in back.stderr
    assert REPLACED in back.stderr
    assert key(device) != old


def test_where_policy_says_stop_a_moved_disk_waits_for_somebody(make_device: MakeDevice) -> None:
    device = provisioned(make_device())
    device.configure({"device": {"moved": "stop"}})
    files = identity(device)
    move(device, board(device))

    said = refused(device, 69, "tpm-changed")

    assert f"cannot use what is in '{device.state}': it was made with another TPM" in said
    assert identity(device) == files
    assert key(device) is None
    assert "[tpm-changed]" in device.agent("status").stdout
    device.configure({"device": {"moved": "start-over"}})  # what the remedy says
    provisioned(device)


def test_another_tpm_that_somebody_configures_is_no_reason_to_start_over(
    make_device: MakeDevice,
) -> None:
    """A device may have two, or a trial be made on it; the same one by another way is the same."""
    device = provisioned(make_device())
    files, there = identity(device), board(device)
    with swtpm.running(there) as tcti:
        device.configure({"tpm": {"tcti": tcti}})
        said = refused(device, 69, "tpm-of-another-tcti")
        assert f"set tpm.tcti back to '{device.tcti}'" in said
        assert identity(device) == files
    link = device.directory / "same"
    link.symlink_to(device.tpm)
    device.configure({"tpm": {"tcti": swtpm.tcti(link)}})
    assert STARTS_OVER not in provisioned(device).agent("provision").stderr
    assert {path: files[path] for path in identity(device)} == identity(device)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (Board(id="board-other", certificate="foreign"), "idevid-untrusted"),
        (Board(id="board-other", certificate="none"), "idevid-absent"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_for_a_board_that_is_not_ours_nothing_is_given_up(
    make_device: MakeDevice, kind: Board, code: str
) -> None:
    device = provisioned(make_device())
    files, there = identity(device), board(device, kind)
    move(device, there)
    refused(device, 69, code)
    assert identity(device) == files
    move(device, there)
    assert STARTS_OVER not in provisioned(device).agent("provision").stderr


def test_for_a_tpm_of_an_unknown_maker_or_none_at_all_nothing_is_given_up(
    make_device: MakeDevice,
) -> None:
    device = provisioned(make_device())
    files, there = identity(device), board(device)
    move(device, there)
    device.configure({"tpm": {"tcti": "swtpm:path=/nonexistent", "wait": "1s"}})
    refused(device, 69, "tpm-unavailable")
    roots = device.etc / "tpm-roots.d"
    device.configure({"tpm": {"manufacturer_roots": [str(roots / "none")]}})
    refused(device, 69, "ek-cert-untrusted")
    assert identity(device) == files


def test_without_a_word_of_what_tpm_it_was_a_key_that_does_not_load_is_for_somebody_to_judge(
    make_device: MakeDevice,
) -> None:
    device = provisioned(make_device())
    files = identity(device)
    State(device.state).tpm.write_text("damaged")
    move(device, board(device))
    refused(device, 69, "key-of-another-tpm")
    assert identity(device) == files


def test_a_locked_owner_hierarchy_is_no_other_tpm(make_device: MakeDevice) -> None:
    device = provisioned(make_device())
    files = identity(device)
    tools(device, "tpm2_evictcontrol", "-C", "o", "-c", "0x81000001")
    tools(device, "tpm2_changeauth", "-c", "owner", "s3cret")
    refused(device, 69, "tpm-auth")
    tools(device, "tpm2_changeauth", "-c", "owner", "-p", "s3cret")
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
    assert STARTS_OVER not in done.stderr
    assert identity(device) == files


def test_an_srk_that_somebody_exchanged_is_no_other_tpm(make_device: MakeDevice) -> None:
    device = provisioned(make_device())
    files = identity(device)
    tools(device, "tpm2_evictcontrol", "-C", "o", "-c", "0x81000001")
    tools(device, "tpm2_createprimary", "-C", "o", "-G", "rsa", "-c", "srk.ctx")
    tools(device, "tpm2_evictcontrol", "-C", "o", "-c", "srk.ctx", "0x81000001")
    tools(device, "tpm2_flushcontext", "-t")
    refused(device, 78, "token-foreign")
    assert identity(device) == files


# --- the same board ---


def test_a_cleared_tpm_is_another_one(make_device: MakeDevice) -> None:
    """The IDevID went with the clear, unless it is needed there is a way back without a factory."""
    device = make_device(board=Board(certificate="none"), auth="basic")
    device.configure({"idevid": {"require": False}})
    tools(device, "tpm2_evictcontrol", "-C", "o", "-c", "0x81020000")
    old = key(provisioned(device))
    tools(device, "tpm2_clear", "-c", "p")
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
    assert f"{STARTS_OVER} this TPM before that was cleared" in done.stderr
    assert key(device) not in (None, old)


def test_where_the_idevid_was_cleared_too_it_is_the_factorys_turn(make_device: MakeDevice) -> None:
    device = provisioned(make_device())
    files = identity(device)
    tools(device, "tpm2_clear", "-c", "p")
    refused(device, 69, "idevid-absent")
    assert identity(device) == files


def flash(device: Device) -> list[Path]:
    """The image, written anew over all that is not in the TPM: what was there is put aside."""
    device.run(["iotedge", "system", "stop"])
    before = [device.state, device.pkcs11, device.edge, device.aziot]
    for directory in before:
        shutil.rmtree(directory.with_suffix(".old"), ignore_errors=True)
        directory.rename(directory.with_suffix(".old"))
        directory.mkdir(mode=0o700)
    return before


def test_a_device_that_is_flashed_anew_gets_a_new_key(make_device: MakeDevice) -> None:
    device = provisioned(make_device())
    old = key(device)
    flash(device)
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
    assert REPLACED in done.stderr
    new = key(device)
    assert new not in (None, old)
    assert new is not None
    assert ldevid(device).public_key() == new.key


def test_of_two_systems_on_one_board_each_has_its_key_while_it_runs(
    make_device: MakeDevice,
) -> None:
    """As with updates that keep the old system beside the new one."""
    device = provisioned(make_device())
    first, directories = key(device), flash(device)
    provisioned(device)
    device.run(["iotedge", "system", "stop"])
    for directory in directories:
        shutil.rmtree(directory)
        directory.with_suffix(".old").rename(directory)
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
    assert REPLACED in done.stderr
    assert key(device) == first


def test_a_key_without_our_mark_is_left_alone(make_device: MakeDevice) -> None:
    """Whatever it looks like: it may be an earlier version's, or somebody else's."""
    device = make_device()
    tools(device, "tpm2_createprimary", "-C", "o", "-G", "ecc", "-c", "parent.ctx")
    attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign"
    files = ["-u", "pub", "-r", "priv", "-c", "key.ctx"]
    tools(device, "tpm2_create", "-C", "parent.ctx", "-G", "ecc256", "-a", attributes, *files)
    tools(device, "tpm2_flushcontext", "-t")
    tools(device, "tpm2_evictcontrol", "-C", "o", "-c", "key.ctx", "0x81000002")
    before = key(device)
    refused(device, 69, "ldevid-key-lost")
    assert key(device) == before


# --- cut off ---


def survived(device: Device) -> None:
    """The next run comes to the end, and one more has nothing to do."""
    provisioned(device)
    again = device.agent("provision")
    assert again.returncode == 0, again.stderr
    assert all("already done" in line for line in again.stderr.splitlines()), again.stderr
    assert labels(device) == ["device-id", "est-id", "ldevid"]


def test_killed_while_it_starts_over_it_does_so_at_the_next_run(
    make_device: MakeDevice, tmp_path: Path
) -> None:
    """Wherever something goes, or comes in its place: files, the token (one transaction), and, as
    each board has been used before, the old LDevID key in the TPM."""
    device = provisioned(make_device())
    there = board(device)
    for _ in range(2):
        move(device, there)
        places = crash.places(device, tmp_path / "trace")  # from the second on, all the same
    last = max(n for n, place in enumerate(places) if "tpm.json" in place.what)
    goes = [p for p in places[: last + 1] if p.call in ("vfork", "unlinkat", "unlink", "rename")]
    evictions = [place for place in places if "evictcontrol" in place.what]
    assert (len(goes), len(evictions)) == (13, 4)
    for place in [*goes, *evictions]:
        move(device, there)
        assert crash.kill_at(device, place, tmp_path / "trace"), f"{place} was not reached"
        survived(device)
