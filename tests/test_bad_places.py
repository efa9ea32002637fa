"""Who asks, and what is in the way: users without rights, odd files, closed streams."""

import os
import subprocess

import pytest

from tests.conftest import MakeDevice
from tests.lab import pki
from tests.lab.device import Device
from tests.test_bad_input import refused


def powerless(device: Device, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`tpm2cloud` by a user to whom modes of files apply: root's capabilities are taken away."""
    less = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.getuid() == 0 else []
    return device.run([*less, *device.agent_command(*arguments)])


def test_a_user_who_may_not_look_is_told_so(make_device: MakeDevice) -> None:
    """Not that the device has failed, which nobody knows."""
    device = make_device()
    assert device.agent("provision").returncode == 0
    (device.tpm / "tpm.sock").chmod(0)
    closed = powerless(device, "identity")
    assert (closed.returncode, "tpm.sock': Permission denied" in closed.stderr) == (77, True)
    (device.tpm / "tpm.sock").chmod(0o600)
    for secret in (device.state / "pins.json", device.aziot / "config.toml"):
        secret.chmod(0)
    device.state.chmod(0o555)
    status = powerless(device, "status")
    done = powerless(device, "provision")
    device.state.chmod(0o755)
    assert status.returncode == 77, status.stderr
    assert "[no-permission]" in status.stdout
    assert "This device is in a state that this user may not see." in status.stdout
    assert (done.returncode, "[no-permission]" in done.stderr) == (77, True), done.stderr
    assert powerless(device, "identity").returncode == 0
    assert "Traceback" not in status.stderr + done.stderr


@pytest.mark.parametrize("place", ["state", "aziot"])
def test_a_read_only_place_is_called_that(make_device: MakeDevice, place: str) -> None:
    """As the service's sandbox makes them, or a root file system that updates exchange."""
    device = make_device()
    path = getattr(device, place)
    script = f'mount --bind {path} {path} && mount -o remount,bind,ro {path} && exec "$@"'
    sandbox = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    done = device.run([*sandbox, *device.agent_command("provision")])
    assert (done.returncode, "[read-only]" in done.stderr) == (77, True), done.stderr
    assert device.agent("provision").returncode == 0


def test_status_tells_what_stopped_a_run_before_its_first_step(make_device: MakeDevice) -> None:
    device = make_device(auth="basic")
    secret = (device.credentials / "est-password").read_bytes()
    (device.credentials / "est-password").unlink()
    refused(device, 78, "secret-unreadable")
    status = device.agent("status")
    assert status.returncode == 4
    assert "[secret-unreadable]" in status.stdout
    pki.write_private(device.credentials / "est-password", secret)
    assert device.agent("provision").returncode == 0
    assert device.agent("status").returncode == 0


@pytest.mark.parametrize(
    "name", ["ldevid.pem", "ldevid-key.pem", "pins.json", "registration.json", "tpm-loaded.json"]
)
def test_a_directory_where_a_file_should_be(make_device: MakeDevice, name: str) -> None:
    device = make_device()
    (device.state / name).mkdir()
    assert name in refused(device, 78, "path-unusable")
    status = device.agent("status")
    assert status.returncode == 4, status.stderr
    assert "[path-unusable]" in status.stdout


def test_a_state_directory_that_is_none(make_device: MakeDevice) -> None:
    device = make_device()
    device.state.rmdir()
    device.state.touch()
    refused(device, 78, "path-unusable")


def test_standard_error_may_be_closed(make_device: MakeDevice) -> None:
    device = make_device()
    command = " ".join(device.agent_command("provision"))
    assert device.run(["sh", "-c", f"{command} 2>&-"]).returncode == 0


def test_a_damaged_request_is_made_anew(make_device: MakeDevice) -> None:
    device = make_device()
    (device.state / "enrolment.json").write_text('{"csr": 3, "since": "x"}')
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr


def test_a_damaged_key_file_is_recovered_from_the_token(make_device: MakeDevice) -> None:
    device = make_device()
    assert device.agent("provision").returncode == 0
    before = (device.state / "ldevid-key.pem").read_bytes()
    (device.state / "ldevid-key.pem").write_bytes(b"\0" * 400)
    assert device.agent("provision").returncode == 0
    assert (device.state / "ldevid-key.pem").read_bytes() == before
