"""IoT Edge's stand-in renews by itself, gives up, and is restarted, as the real services are."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tests.lab import edge
from tests.lab.clock import Clock
from tests.lab.device import Device
from tests.lab.world import World

DAY = timedelta(days=1)
LIFE = 30 * DAY


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("edge") / "w", clock=clock, renewing=True) as world:
        world.operations_server.lifetime(LIFE)
        yield world


@pytest.fixture
def device(world: World, tmp_path: Path) -> Iterator[Device]:
    world.operations_server.behave()
    with Device(world, tmp_path / "device") as device:
        done = device.agent("provision")
        assert done.returncode == 0, done.stderr
        yield device


def said(device: Device, service: str, pattern: str) -> list[str]:
    """What `journalctl` finds."""
    command = ["journalctl", "--no-pager", "-q", "-u", service, "-o", "cat", "-g", pattern]
    done = device.run(command)
    assert (done.returncode == 0) == bool(done.stdout)
    return done.stdout.splitlines()


def unit(device: Device, service: str) -> dict[str, str]:
    """What `systemctl show` says."""
    properties = "Id,LoadState,ActiveState,SubState,Result,NRestarts,InvocationID"
    done = device.run(["systemctl", "show", f"{service}.service", f"--property={properties}"])
    assert done.returncode == 0, done.stderr
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def test_both_certificates_are_renewed_with_new_keys_for_as_long_as_one_likes(
    device: Device, clock: Clock, world: World
) -> None:
    for turn in range(1, 4):
        old = {cert: edge.certificate(device, cert)[0] for cert in ("est-id", "device-id")}
        clock.advance(25 * DAY)
        for cert, before in old.items():
            edge.awaited(device, "renewed", turn, cert=cert)
            new = edge.certificate(device, cert)[0]
            assert new.not_valid_before_utc - before.not_valid_before_utc > 24 * DAY
            assert new.public_key() != before.public_key()
        serial = edge.certificate(device, "device-id")[0].serial_number
        assert int(world.dps.assigned(device.wish.id)[-1]["serial"], 16) == serial
    assert (
        "Certificate device-id was renewed. Next renewal at 20"
        in said(device, "aziot-identityd", "was renewed")[-1]
    )
    assert not edge.events(device, "renewal-failed")
    assert device.run(["iotedge", "system", "reprovision"]).returncode == 0


def test_a_renewal_that_fails_is_tried_again_after_the_retry_period(
    device: Device, clock: Clock, world: World
) -> None:
    world.operations_server.behave("busy")
    clock.advance(25 * DAY)
    failed = edge.awaited(device, "renewal-failed", cert="est-id")
    assert "503 Service Unavailable" in failed["error"]
    assert (
        "Tried to renew est-id, but failed to issue new EST identity cert: "
        in said(device, "aziot-certd", "Retrying at 20")[0]
    )
    world.operations_server.behave()
    clock.advance(2 * DAY)
    edge.awaited(device, "renewed", cert="est-id")
    edge.awaited(device, "renewed", cert="device-id")


def test_an_expired_est_identity_is_renewed_by_the_ldevid(device: Device, clock: Clock) -> None:
    device.run(["iotedge", "system", "stop"])
    clock.advance(LIFE)
    assert device.run(["systemctl", "start", "aziot-edged"]).returncode == 0
    issued = edge.awaited(device, "issued", 2, cert="est-id")
    assert issued["tls_client"] == "est-bootstrap-id"


def test_a_certificate_somebody_touched_is_never_renewed_until_a_restart(
    device: Device, clock: Clock
) -> None:
    [file] = edge.certificates(device, "device-id")
    other = edge.certificate(device, "est-id")
    file.write_bytes(edge.certificates(device, "est-id")[0].read_bytes())
    clock.advance(25 * DAY)
    failed = edge.awaited(device, "renewal-failed", cert="device-id")
    assert failed["fatal"]
    words = "certificate has changed since last renewal. device-id will no longer be auto-renewed."
    assert said(device, "aziot-identityd", "no longer")[0].endswith(words)
    clock.advance(DAY)
    assert len(edge.events(device, "renewal-failed", cert="device-id")) == 1
    assert len(other) > 1


@pytest.mark.parametrize("mode", ["fatal", "stuck"])
def test_a_restart_of_its_service_alone_brings_a_lost_renewal_back(
    device: Device, clock: Clock, mode: edge.Mode
) -> None:
    edge.broken(device, renewals={"device-id": mode})
    clock.advance(25 * DAY)
    edge.awaited(device, "renewed", cert="est-id")
    if mode == "fatal":
        edge.awaited(device, "renewal-failed", cert="device-id")
        edge.broken(device)
    before = unit(device, "aziot-identityd")
    assert device.run(["systemctl", "restart", "aziot-certd"]).returncode == 0
    assert unit(device, "aziot-identityd") == before
    assert not edge.events(device, "renewed", cert="device-id")
    assert device.run(["systemctl", "restart", "aziot-identityd"]).returncode == 0
    edge.awaited(device, "renewed", cert="device-id")
    assert unit(device, "aziot-identityd")["InvocationID"] != before["InvocationID"]


def test_a_service_that_cannot_start_is_started_again_and_again(device: Device) -> None:
    edge.broken(device, crash=["aziot-identityd"])
    assert device.run(["systemctl", "restart", "aziot-identityd"]).returncode == 0
    edge.until(lambda: int(unit(device, "aziot-identityd")["NRestarts"]) >= 2)
    assert said(device, "aziot-identityd", "restart counter is at 2")
    edge.broken(device)
    edge.until(lambda: unit(device, "aziot-identityd")["ActiveState"] == "active")
    assert device.agent("status").returncode == 0


def test_power_that_goes_at_the_wrong_moment_leaves_a_certificate_for_another_key(
    device: Device, clock: Clock
) -> None:
    edge.broken(device, tear=["device-id"])
    clock.advance(25 * DAY)
    edge.awaited(device, "stopped", why="the power goes while device-id is renewed")
    edge.broken(device)
    device.run(["systemctl", "start", "aziot-edged"])
    failed = edge.awaited(device, "provisioning-failed")
    assert "does not match its private key" in failed["error"]


@pytest.mark.parametrize("issued_by", ["est", "device"])
def test_the_ca_of_the_modules_is_renewed_by_aziot_edged(
    device: Device, clock: Clock, issued_by: str
) -> None:
    device.configure({"edge_ca": {"issued_by": issued_by}})
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
    edge.until(lambda: said(device, "aziot-edged", "will be auto-renewed"))
    [old, *_] = edge.certificate(device, "aziot-edged-ca")
    assert old.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    edge.broken(device, renewals={"aziot-edged-ca": "fatal"})
    clock.advance(80 * DAY if issued_by == "device" else 25 * DAY)
    edge.awaited(device, "renewal-failed", cert="aziot-edged-ca")
    edge.broken(device)
    assert device.run(["systemctl", "restart", "aziot-edged"]).returncode == 0
    edge.awaited(device, "renewed", cert="aziot-edged-ca")
    assert edge.certificate(device, "aziot-edged-ca")[0].public_key() != old.public_key()


def test_units_that_are_not_there_are_told_as_systemd_does(device: Device) -> None:
    assert unit(device, "docker")["LoadState"] == "not-found"
    assert device.run(["systemctl", "is-active", "aziot-certd"]).stdout == "active\n"
    device.run(["iotedge", "system", "stop"])
    done = device.run(["systemctl", "is-active", "aziot-certd"])
    assert (done.returncode, done.stdout) == (3, "inactive\n")
    assert device.run(["systemctl", "restart", "docker"]).returncode != 0
