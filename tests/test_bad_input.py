"""Bad input: what it gets. A distinct code each, a remedy, and nothing lost or half done."""

import os
import re
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from agent.tpm import Tpm
from tests.conftest import MakeDevice
from tests.lab import pki, swtpm
from tests.lab.device import AGENT, Device
from tests.lab.world import World


def refused(device: Device, status: int, code: str) -> str:
    """`provision` ends with this status and code, and a remedy; what it said."""
    done = device.agent("provision")
    said = done.stderr
    assert (done.returncode, f"[{code}]" in said, "Remedy: " in said) == (status, True, True), said
    assert "Traceback" not in said
    return said


def untouched(device: Device) -> bool:
    """No key was made, nothing issued, nothing configured."""
    with Tpm(device.tcti) as tpm:
        keys = {h for h in tpm.handles(0x81000000) if tpm.public(h)}
    written = [*device.aziot.iterdir(), *(device.state / n for n in ("ldevid.pem", "pins.json"))]
    return not keys & {0x81000001, 0x81000002} and not any(p.exists() for p in written)


def tools(device: Device, *command: str) -> None:
    environment = {**os.environ, "TPM2TOOLS_TCTI": device.tcti}
    subprocess.run(command, env=environment, cwd=device.directory, check=True, capture_output=True)


# --- configuration and surroundings ---


def test_everything_wrong_with_the_configuration_is_listed(make_device: MakeDevice) -> None:
    device = make_device()
    device.configure({"tpm": {"kye": 1, "key": "rsa1024"}, "ldevid": {"est": {"url": None}}})
    said = refused(device, 78, "config-invalid")
    for problem in ("tpm.kye: unknown setting, did you mean key?", "tpm.key: must be one of"):
        assert problem in said
    assert "ldevid.est.url: required" in said


def test_what_the_configuration_points_at_is_looked_at_first(make_device: MakeDevice) -> None:
    device = make_device(auth="basic", operational_auth="basic")
    for name in ("est-password", "operational-password"):
        (device.credentials / name).unlink()
    (device.etc / "owner-ca.pem").write_text("no certificate")
    said = refused(device, 78, "config-invalid")
    for code in ("secret-unreadable", "trust-unreadable"):
        assert f"[{code}]" in said
    assert said.count("[secret-unreadable]") == 2
    assert untouched(device)


def test_a_secret_that_others_may_read_is_refused(make_device: MakeDevice) -> None:
    device = make_device(auth="secret")
    (device.credentials / "est-secret").unlink()
    (device.directory / "secret").write_text("hunter2")
    device.configure({"ldevid": {"est": {"secret_file": str(device.directory / "secret")}}})
    assert "hunter2" not in refused(device, 78, "secret-unreadable")


@pytest.mark.parametrize("odd", ["no spaces", "x" * 65, "{serial", "a/b"])
def test_an_id_that_is_not_legal(make_device: MakeDevice, odd: str) -> None:
    device = make_device(id=odd)
    refused(device, 78, "device-id-invalid")
    assert untouched(device)


@pytest.mark.parametrize("tcti", ["swtpm:path=/nonexistent", "nonsense:x", "device:/dev/null"])
def test_no_tpm_or_a_wrong_tcti(make_device: MakeDevice, tcti: str) -> None:
    device = make_device()
    device.configure({"tpm": {"tcti": tcti, "wait": "0s"}})
    refused(device, 69, "tpm-unavailable")
    status = device.agent("status")
    assert (status.returncode, status.stdout.count("[tpm-unavailable]")) == (4, 2)


def test_a_tpm_that_comes_late_is_waited_for(make_device: MakeDevice) -> None:
    device = make_device()
    device.power_cut()
    device.configure({"tpm": {"wait": "20s"}})
    command = device.agent_command("provision")
    with subprocess.Popen(command, env=device.environment(), stderr=subprocess.PIPE) as agent:
        with pytest.raises(subprocess.TimeoutExpired):
            agent.wait(0.7)
        device.power_on()
        _, said = agent.communicate(timeout=60)
    assert agent.returncode == 0, said


def test_two_runs_at_once(make_device: MakeDevice) -> None:
    device = make_device()
    command = device.agent_command("provision")
    running = [
        subprocess.Popen(command, env=device.environment(), stderr=subprocess.PIPE, text=True)
        for _ in "ab"
    ]
    said = [each.communicate(timeout=60)[1] for each in running]
    assert sorted(each.returncode for each in running) == [0, 75], said
    assert any("[busy]" in each for each in said)


def test_a_clock_before_our_time(make_device: MakeDevice) -> None:
    """The CA certificate that we are to use is of tomorrow: today is not today. But beside one of
    today, that of tomorrow is only there in good time."""
    device = make_device()
    ca = device.etc / "owner-ca.pem"
    today = ca.read_bytes()
    root = pki.root("Tomorrow")
    tomorrow = root.issue(root.key.public_key(), "Tomorrow", starts=timedelta(days=1), ca=True)
    ca.write_bytes(pki.pem(tomorrow))
    said = refused(device, 75, "clock-implausible")
    assert str(ca) in said
    assert untouched(device)
    ca.write_bytes(today + pki.pem(tomorrow))
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr


def test_a_ca_whose_clock_is_ahead_of_ours(make_device: MakeDevice) -> None:
    """Its certificates are taken, and the next run does not stumble over them."""
    device = make_device()
    assert device.agent("provision").returncode == 0
    ca = device.etc / "owner-ca.pem"
    root = pki.root("Soon")
    soon = root.issue(root.key.public_key(), "Soon", starts=timedelta(minutes=5), ca=True)
    ca.write_bytes(ca.read_bytes() + pki.pem(soon))
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr


def test_a_usage_error_is_one_line(make_device: MakeDevice) -> None:
    for wrong in ([], ["provison"], ["status", "--xml"]):
        done = make_device().run([str(AGENT), *wrong])
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1


# --- IoT Edge ---


def with_iotedge(device: Device, script: str) -> Path:
    """Another `iotedge`, and what was in config.toml before."""
    iotedge = device.bin / "iotedge"
    iotedge.unlink()
    iotedge.write_text(f"#!/bin/sh\n{script}\n")
    iotedge.chmod(0o755)
    return device.aziot / "config.toml"


def test_iotedge_is_missing(make_device: MakeDevice) -> None:
    device = make_device()
    (device.bin / "iotedge").unlink()
    refused(device, 78, "iotedge-missing")


def test_iotedge_fails_and_is_quoted_and_its_file_is_whole(make_device: MakeDevice) -> None:
    device = make_device()
    config = with_iotedge(
        device, f"grep pin-value {device.aziot}/config.toml >&2; echo Ouch; exit 3"
    )
    said = refused(device, 75, "iotedge-failed")
    assert "ended with status 3" in said
    assert "Ouch" in said
    pin = config.read_text().split("pin-value=")[1].split('"')[0]
    assert pin not in said
    assert "id_scope" in config.read_text()


def test_iotedge_hangs(make_device: MakeDevice) -> None:
    device = make_device()
    device.configure({"aziot": {"timeout": "1s"}})
    with_iotedge(device, "exec sleep 60")
    assert "did not finish within 1 seconds" in refused(device, 75, "iotedge-failed")


def test_iotedge_lies(make_device: MakeDevice) -> None:
    """Success is not assumed: nobody answers at the identity service's socket."""
    device = make_device()
    device.configure({"aziot": {"timeout": "1s"}})
    with_iotedge(device, "exit 0")
    refused(device, 75, "not-provisioned")
    status = device.agent("status")
    assert status.returncode == 3
    assert re.search(r"registration +waiting .*\[not-provisioned\]", status.stdout)
    assert "not yet provisioned; it is tried again." in status.stdout


def test_dps_does_not_know_the_ca(make_device: MakeDevice, world: World) -> None:
    device = make_device(id="device-unknown")
    device.configure({"dps": {"id_scope": "0ne0000WRONG"}, "aziot": {"timeout": "3s"}})
    refused(device, 75, "iotedge-failed")


def test_a_config_toml_that_is_no_toml_is_left_alone(make_device: MakeDevice) -> None:
    device = make_device()
    broken = device.aziot / "config.toml"
    broken.write_text("[[[")
    broken.chmod(0o600)
    refused(device, 78, "aziot-config-invalid")
    assert broken.read_text() == "[[["


def test_the_token_of_somebody_else_is_left_alone(make_device: MakeDevice) -> None:
    device = make_device()
    device.pkcs11.mkdir(mode=0o700)
    database = device.pkcs11 / "tpm2_pkcs11.sqlite3"
    database.write_bytes(b"not a database at all")
    done = device.agent("provision")
    assert done.returncode in (69, 78), done.stderr
    assert database.read_bytes() == b"not a database at all"


def test_an_interrupted_tpm_is_a_clear_error(make_device: MakeDevice) -> None:
    """The TPM's power fails for good while we run: no traceback, and the next run goes on."""
    device = make_device()
    device.configure({"tpm": {"wait": "0s"}})
    device.power_cut()
    refused(device, 69, "tpm-unavailable")
    device.power_on()
    assert device.agent("provision").returncode == 0
    assert swtpm.tcti(device.tpm) == device.tcti
