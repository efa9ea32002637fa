"""The stand-ins for IoT Edge's packages: what is in them, and that their services work together as
processes of their own, with nothing but sockets between them."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import manager
from tests.lab import aziot
from tests.lab.aziot.installed import Installed, contents
from tests.lab.device import SYSTEM_PATH, Device, Wish
from tests.lab.world import World


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return aziot.build(tmp_path_factory.mktemp("packages"))


def test_the_packages_have_the_real_paths_and_all_is_root_s(packages: tuple[Path, Path]) -> None:
    identity_service, edge = map(contents, packages)
    program, link, unit = "-rwxr-xr-x root/root", "lrwxrwxrwx root/root", "-rw-r--r-- root/root"
    assert identity_service["/usr/libexec/aziot-identity-service/aziotd"] == program
    for service in aziot.SERVICES:
        assert identity_service[f"/usr/libexec/aziot-identity-service/aziot-{service}"] == link
        assert identity_service[f"/lib/systemd/system/aziot-{service}.service"] == unit
        assert identity_service[f"/lib/systemd/system/aziot-{service}.socket"] == unit
        assert f"/etc/aziot/{service}/config.d/" in identity_service
        assert f"/var/lib/aziot/{service}/" in identity_service
    assert edge["/usr/bin/iotedge"] == edge["/usr/libexec/aziot/aziot-edged"] == link
    assert edge["/lib/systemd/system/aziot-edged.workload.socket"] == unit
    for found in (identity_service, edge):
        assert {row.split()[1] for row in found.values()} == {"root/root"}
        assert "/etc/aziot/config.toml" not in found
        assert not [path for path in found if path.endswith("00-super.toml")]


@pytest.fixture
def device(world: World, tmp_path: Path) -> Iterator[Device]:
    with Device(world, tmp_path / "device", Wish()) as device:
        yield device


@pytest.fixture
def bus(device: Device, tmp_path: Path) -> Iterator[dict[str, str]]:
    with manager.running(tmp_path / "bus", device.tcti) as environment:
        yield environment


@pytest.fixture
def installed(device: Device, bus: dict[str, str], tmp_path: Path) -> Iterator[Installed]:
    store = {"TPM2_PKCS11_STORE": str(device.pkcs11)}
    with Installed(tmp_path / "root", bus | store) as installed:
        installed.trust(device.world.tls.trust)
        yield installed


def test_a_service_without_configuration_fails_at_once_and_says_so(installed: Installed) -> None:
    for service in aziot.SERVICES:
        done = subprocess.run(
            [installed.program(service)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "could not read config: there is none in" in done.stderr
        assert installed.events(service, "failed")


def test_the_services_provision_a_device_and_only_keyd_has_keys(
    device: Device, bus: dict[str, str], installed: Installed
) -> None:
    here = {"directory": str(installed.etc), "identity_socket": str(installed.socket("identityd"))}
    device.configure({"tpm": {"tcti": manager.TCTI}, "aziot": here})
    environment = device.environment() | bus | {"PATH": f"{installed.bin}:{SYSTEM_PATH}"}
    done = subprocess.run(
        device.agent_command("provision"),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + installed.said()

    used = {event["object"] for event in installed.events("keyd", "signed")}
    assert used == {"ldevid", "est-id", "device-id"}
    issued = [event["cert"] for event in installed.events("certd", "issued")]
    assert issued == ["est-id", "device-id"]
    assert installed.events("identityd", "provisioned")[-1]["device"] == device.wish.id
    for service in ("certd", "identityd"):
        assert not installed.events(service, "signed")
    started = [installed.events(s, "started") for s in ("keyd", "certd", "identityd")]
    assert len({event["pid"] for [event] in started}) == 3  # each once, by its socket
    assert not installed.events("tpmd", "started")
