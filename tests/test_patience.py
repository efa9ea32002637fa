"""A device that was provisioned is asked who it is, and not made to forget it for being slow."""

import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import MakeDevice
from tests.lab.device import Device
from tests.lab.provisioning import HUB
from tests.test_aziot_identity import DEVICE, DPS, NOT_FOUND, Service
from tests.test_bad_input import refused
from tests.test_provision import provisioned


def service(device: Device) -> int:
    """The process that plays IoT Edge's services."""
    return int((device.edge / "service.lock").read_text())


def registrations(device: Device) -> int:
    """How often it asked the provisioning service, and so forgot who it was."""
    return sum(line["method"] == "PUT" for line in device.world.dps.requests())


@contextmanager
def running(device: Device, until: str) -> Iterator[subprocess.Popen[str]]:
    """`provision`, once it told systemd this."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"{device.directory}/notify")
        systemd.settimeout(60)
        environment = device.environment() | {"NOTIFY_SOCKET": f"{device.directory}/notify"}
        command = device.agent_command("provision")
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as run:
            while until not in systemd.recv(4096).decode():
                pass
            yield run


def test_a_slow_start_of_the_identity_service_is_waited_for(make_device: MakeDevice) -> None:
    """As at a boot of a slow board: its socket takes connections, nobody answers yet."""
    device = provisioned(make_device())
    before, slow = registrations(device), service(device)
    os.kill(slow, signal.SIGSTOP)
    with running(device, "STATUS=registration: at work") as run:
        os.kill(slow, signal.SIGCONT)
        assert "registration" in run.communicate(timeout=60)[1]
    assert run.returncode == 0
    assert (registrations(device), service(device)) == (before, slow)


def test_services_that_are_down_are_restarted_and_the_device_is_still_who_it_was(
    make_device: MakeDevice,
) -> None:
    device = provisioned(make_device())
    before, dead = registrations(device), service(device)
    with os.fdopen(os.pidfd_open(dead)) as ended:
        os.kill(dead, signal.SIGKILL)
        select.select([ended], [], [])
    provisioned(device)
    assert registrations(device) == before
    assert service(device) != dead


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Service]:
    """An identity service that answers as a test wants."""
    with Service(tmp_path / "odd.sock") as server:
        server.replies["/identities/provisioning"] = (200, DPS)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.free.set()
        server.shutdown()
        thread.join()


def verbs(device: Device, service: Service) -> str:
    """What `iotedge` is asked to do on a provisioned device with this identity service."""
    device.run(["iotedge", "system", "stop"])
    device.configure({"aziot": {"identity_socket": str(service.path), "timeout": "1s"}})
    (device.bin / "iotedge").unlink()
    (device.bin / "iotedge").write_text(f'#!/bin/sh\necho "$@" >>{device.directory}/verbs\n')
    (device.bin / "iotedge").chmod(0o755)
    refused(device, 75, "not-provisioned")
    return (device.directory / "verbs").read_text()


def test_one_that_never_answers_is_restarted_but_never_made_to_forget(
    make_device: MakeDevice, odd: Service
) -> None:
    odd.free.clear()
    assert verbs(provisioned(make_device()), odd) == "config apply\n"


def test_nor_is_one_that_does_not_get_at_its_key(make_device: MakeDevice, odd: Service) -> None:
    odd.replies["/identities/device"] = (404, {"message": "Key client error"})
    assert verbs(provisioned(make_device()), odd) == "config apply\n"


@pytest.mark.parametrize("answer", [NOT_FOUND, (200, DEVICE)], ids=["nobody", "somebody else"])
def test_one_that_is_nobody_or_somebody_else_is_reprovisioned(
    make_device: MakeDevice, odd: Service, answer: object
) -> None:
    odd.replies["/identities/device"] = answer
    assert verbs(provisioned(make_device()), odd) == "config apply\nsystem reprovision\n"


def test_a_hub_that_cannot_be_reached_is_named_and_nothing_is_restarted_for_it(
    make_device: MakeDevice,
) -> None:
    """The real service registers first, then asks the hub for its modules, and answers 404 if that
    fails; by then it knows who it is."""
    device = make_device()
    real = (device.bin / "iotedge").readlink()
    (device.bin / "real").symlink_to(real)
    (device.bin / "iotedge").unlink()
    log = device.directory / "verbs"
    script = f"""#!/bin/sh
        echo "$@" >>{log}
        {device.bin}/real "$@" || exit
        [ "$1" = config ] || {{ echo 'Failed to reprovision: 404 Not Found'; exit 1; }}
    """
    (device.bin / "iotedge").write_text(script)
    (device.bin / "iotedge").chmod(0o755)
    for _ in range(2):
        said = refused(device, 75, "hub-not-reached")
        assert f"Can {HUB} be reached" in said
    assert log.read_text().split("\n")[:3] == ["config apply", *["system reprovision"] * 2]
    (device.bin / "iotedge").write_text(script.replace("exit 1", "exit 0"))
    provisioned(device)
    assert log.read_text().count("config apply") == 1
