"""The doctor on whole devices: one verdict, the right one, and nothing is changed by it. Servers
are in test_check_network, test_check_est and test_check_dps."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from agent.check import run
from agent.check.probe import Probe
from agent.errors import Busy, IotedgeMissing, NoPermission, ReadOnly
from tests.conftest import MakeDevice
from tests.lab import edge, pki, snapshot
from tests.lab import states as s
from tests.lab.device import Device, Wish
from tests.lab.world import World
from tests.test_bad_input import with_iotedge
from tests.test_bad_places import powerless

DAY = timedelta(days=1)
BOOTED = (
    "for at in /run /var/lib; do mount -t tmpfs none $at; done && "
    'mkdir -p /run/systemd/system && exec "$@"'
)


@pytest.fixture(scope="module")
def provisioned(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """For tests that leave it as it is."""
    with Device(world, tmp_path_factory.mktemp("check") / "device", Wish(id="checked")) as device:
        done = device.agent("provision")
        assert done.returncode == 0, done.stderr
        yield device


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert "Traceback" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["verdict"] is None) == (done.returncode == 0)
    return found


def check(device: Device, within: Sequence[str] = ()) -> tuple[int, str | None]:
    """The exit status and the code of the verdict, which has a remedy."""
    done = device.run([*within, *device.agent_command("check", "--json")])
    verdict = told(done)["verdict"]
    assert verdict is None or verdict["remedy"]
    return done.returncode, verdict and verdict["code"]


# --- one verdict ---


def nothing() -> str:
    return "is fine"


def fails(error: Exception) -> Any:
    def look() -> str:
        raise error

    return look


def test_the_first_that_is_not_fine_is_the_verdict_and_what_comes_of_it_is_not_looked_at() -> None:
    probes = [
        Probe("a", nothing),
        Probe("b", fails(Busy("cannot wait"))),
        Probe("c", fails(IotedgeMissing("cannot be asked")), ("a", "b")),
        Probe("d", nothing, ("c",)),
        Probe("e", fails(IotedgeMissing("cannot find it")), ("a",)),
        Probe("f", fails(Busy("cannot wait, either"))),
    ]
    found = run.examine(probes)
    states = ["fine", "waits", "not looked at", "not looked at", "wrong", "waits"]
    assert [each.state for each in found] == states
    assert run.verdict(found) == found[1]
    assert (found[1].detail, found[1].code, found[1].remedy) == ("cannot wait", "busy", Busy.remedy)
    assert run.also(found) == [found[4]]
    assert (run.status(found), run.status(found[4:]), run.status(found[:1])) == (3, 4, 0)


def test_what_root_may_not_do_needs_a_person_and_what_others_may_not_needs_root() -> None:
    unseen = run.examine([Probe("a", fails(NoPermission("cannot open it", path="/x")))])
    assert run.status(unseen) == (4 if os.geteuid() == 0 else 77)
    assert run.status(run.examine([Probe("a", fails(ReadOnly("cannot write", path="/x")))])) == 4


def test_several_faults_are_told_in_the_order_in_which_they_are_to_be_mended(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    anchors = device.etc / "est-ca.pem"
    kept = anchors.read_bytes()
    anchors.unlink()
    device.configure({"device": {"id": "not legal"}, "tpm": {"kye": 1}})
    shutil.rmtree(device.etc / "tpm-roots.d")
    device.power_cut()
    assert check(device) == (4, "config-invalid")
    device.configure({"device": {"id": "not legal"}})
    assert check(device) == (4, "trust-unreadable")
    anchors.write_bytes(kept)
    assert check(device) == (4, "tpm-unavailable")
    device.power_on()
    assert check(device) == (4, "device-id-invalid")
    device.configure({})
    assert check(device) == (4, "ek-cert-untrusted")


# --- nothing is changed ---


def files(device: Device) -> dict[str, object]:
    """All of the device's own; not what the TPM's and IoT Edge's processes keep. The directory of
    the PKCS#11 store is written to when IoT Edge is asked who it is: there is its lock."""
    found: dict[str, object] = {}
    for top in (device.directory / "etc", device.state, device.credentials, device.pkcs11):
        for path in sorted(top.rglob("*")):
            known = path.stat(follow_symlinks=False)
            content = path.read_bytes() if path.is_file() else b""
            found[str(path)] = (known.st_mode, known.st_uid, known.st_mtime_ns, content)
    return found


@contextlib.contextmanager
def unchanged(device: Device) -> Iterator[None]:
    world = device.world
    files_before, tpm = files(device), snapshot.take(device.tcti)
    issued = [len(world.issued(site)) for site in (world.owner_est, world.operations_est)]
    yield
    after = snapshot.take(device.tcti)
    assert files(device) == files_before
    assert (tpm.lost(after), tpm.added(after)) == ([], set())
    assert [len(world.issued(site)) for site in (world.owner_est, world.operations_est)] == issued


def test_nothing_is_wrong_with_a_provisioned_device_and_it_stays_as_it_is(
    provisioned: Device,
) -> None:
    with unchanged(provisioned):
        done = provisioned.agent("check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n\nNothing is wrong with this device.\n")


def test_a_device_before_its_first_boot_stays_as_it_is_too(make_device: MakeDevice) -> None:
    device = make_device()
    with unchanged(device):
        done = device.agent("check")
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    assert lines[-2].startswith("provisioned: cannot say that this device is provisioned: to do:")
    assert lines[-2].endswith("registration [not-yet-provisioned]")
    assert lines[-1].startswith("Remedy: Have it done now: systemctl restart tpm2cloud-firstboot")


def test_a_run_at_work_is_told_and_not_disturbed(make_device: MakeDevice) -> None:
    device = make_device()
    fd = os.open(device.state, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert check(device) == (3, "busy")
    finally:
        os.close(fd)


def test_without_root_it_says_that_it_cannot_tell(provisioned: Device) -> None:
    provisioned.state.chmod(0o555)
    try:
        done = powerless(provisioned, "check", "--json")
    finally:
        provisioned.state.chmod(0o755)
    expected = 4 if os.geteuid() == 0 else 77  # root without its powers is still called root
    assert (done.returncode, told(done)["verdict"]["code"]) == (expected, "no-permission")


# --- what is around ---


@pytest.mark.parametrize(
    ("place", "mount", "code", "status"),
    [
        ("state", "--bind {0} {0} && mount -o remount,bind,ro {0}", "read-only", 4),
        ("state", "-t tmpfs -o size=16k none {0}", "disk-full", 3),
        ("aziot", "-t tmpfs -o nr_inodes=1 none {0}", "disk-full", 3),
    ],
    ids=["read-only", "full", "no inodes"],
)
def test_where_nothing_can_be_written_is_told_before_it_is_tried(
    make_device: MakeDevice, place: str, mount: str, code: str, status: int
) -> None:
    device = make_device()
    script = f'mount {mount.format(getattr(device, place))} && exec "$@"'
    within = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    assert check(device, within) == (status, code)


def test_a_host_name_that_iotedge_would_keep_for_ever_is_told_before_it_does(
    make_device: MakeDevice, provisioned: Device
) -> None:
    script = 'hostname localhost && exec "$@"'
    within = ["unshare", "--map-current-user", "--keep-caps", "--uts", "sh", "-c", script, "sh"]
    device = make_device()
    assert check(device, within) == (4, "hostname-unfit")
    (device.aziot / "config.toml").write_text('hostname = "gateway-7"\n')
    assert check(device, within) == (3, "not-yet-provisioned")
    assert check(provisioned, within) == (0, None), "it has taken its name"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("LoadState=loaded\\nUnitFileState=enabled", "not-yet-provisioned"),
        ("LoadState=loaded\\nUnitFileState=static", "not-yet-provisioned"),
        ("LoadState=loaded\\nUnitFileState=disabled", "unit-off"),
        ("LoadState=masked\\nUnitFileState=masked", "unit-off"),
        ("LoadState=not-found\\nUnitFileState=", "unit-off"),
    ],
    ids=["enabled", "static", "disabled", "masked", "not installed"],
)
def test_a_unit_that_no_boot_starts_is_told_of_the_installed_program(
    make_device: MakeDevice, said: str, code: str
) -> None:
    device = make_device()
    systemctl = device.bin / "systemctl"
    systemctl.unlink()
    systemctl.write_text(f"#!/bin/sh\nprintf '{said}\\n'\n")
    systemctl.chmod(0o755)
    command = device.agent_command("check", "--json")
    within = ["unshare", "--map-root-user", "--mount", "sh", "-c", BOOTED, "sh"]
    done = device.run([*within, "env", "--unset=STATE_DIRECTORY", *command])
    assert told(done)["verdict"]["code"] == code


# --- the TPM ---


def test_what_a_tpm_lacks_for_its_first_keys_is_told_before_they_are_made(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    s.at(device.directory / "work", device.tcti, s.password("owner"))
    assert check(device) == (4, "tpm-auth")
    pki.write_private(device.credentials / "tpm-owner-auth", s.PASSWORD.encode())
    assert check(device) == (3, "not-yet-provisioned")
    (device.credentials / "tpm-owner-auth").write_bytes(b"x" * 65)
    assert check(device) == (4, "secret-unreadable")


@pytest.mark.parametrize(
    ("maker", "status", "code"),
    [
        (s.srk_with_a_password, 4, "srk-password"),
        (s.off("owner"), 4, "tpm-hierarchy-disabled"),
        (s.no_persistent_slot, 4, "tpm-full"),
        (s.no_transient_slot, 4, "tpm-full"),
        (s.lockout, 3, "tpm-lockout"),
    ],
    ids=["SRK with a password", "hierarchy off", "no handle", "no slot", "lockout"],
)
def test_a_tpm_that_is_not_fit_is_told_from_another(
    make_device: MakeDevice, maker: s.Maker, status: int, code: str
) -> None:
    device = make_device()
    s.at(device.directory / "work", device.tcti, maker)
    before = snapshot.take(device.tcti)
    assert check(device) == (status, code)
    after = snapshot.take(device.tcti)
    assert (before.lost(after), before.added(after)) == ([], set())


# --- what the last run stopped of, and what IoT Edge says ---


def test_what_nothing_else_explains_is_what_the_last_run_stopped_of(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    kept = (device.bin / "iotedge").readlink()
    with_iotedge(device, "echo Ouch; exit 3")
    assert device.agent("provision").returncode == 75
    assert check(device) == (3, "iotedge-failed")
    (device.bin / "iotedge").unlink()
    assert device.agent("provision").returncode == 78
    assert check(device) == (4, "iotedge-missing")
    (device.bin / "iotedge").symlink_to(kept)
    assert check(device) == (3, "not-yet-provisioned"), "what can be looked at is not remembered"


def test_iotedge_is_asked_itself(make_device: MakeDevice) -> None:
    device = make_device()
    assert device.agent("provision").returncode == 0
    edge.broken(device, crash=["aziot-edged"])
    device.run(["systemctl", "restart", "aziot-edged"])
    edge.until(lambda: check(device) == (3, "iotedge-down"))
    edge.broken(device)
    device.run(["iotedge", "system", "stop"])
    assert check(device) == (3, "not-provisioned")


def test_certificates_are_judged_as_the_companion_does(make_device: MakeDevice) -> None:
    device = make_device()
    assert device.agent("provision").returncode == 0
    anchors = device.etc / "idevid-ca.pem"
    own = device.state / "ldevid.pem"
    kept = own.read_bytes()
    own.unlink()
    assert check(device) == (3, "certificate-unwell")
    own.write_bytes(kept)
    ended = pki.root("Ended", starts=-9 * DAY, lasts=DAY).save(device.directory / "ended")
    issuer = {"certificate": str(ended.chain), "key": str(ended.key)}
    device.configure({"ldevid": {"est": None, "ca": issuer}})
    assert check(device) == (4, "certificate-of-nobody")
    device.configure({})
    anchors.write_bytes(pki.pem(pki.authority("Somebody else").root))
    assert check(device) == (4, "idevid-untrusted")
