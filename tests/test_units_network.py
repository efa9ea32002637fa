"""The units of the two sides: services with a TPM and no network, one with a network and no TPM."""

from pathlib import Path

import pytest

from agent import network
from tests.lab import units

SERVICE, SOCKET = (units.read(units.OURS / unit) for unit in (units.WORKER, units.NETWORK))
ONE = units.WORKER.replace("@", "@1")
COMMON = units.read(units.COMMON)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return units.tree(tmp_path_factory.mktemp("units") / "root")


def test_systemd_has_nothing_to_complain_of_and_its_exposure_is_at_most_one_and_a_half(
    root: Path,
) -> None:
    done = units.verify(root, ONE, units.NETWORK)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    done = units.exposure(root, ONE, at_most=15)
    assert done.returncode == 0, done.stdout


def test_a_boot_starts_its_socket_with_the_first_boot_and_nobody_has_to_enable_it(
    root: Path,
) -> None:
    boot = units.transaction(root)
    assert units.NETWORK in boot[units.FIRSTBOOT]["Wants"]
    assert units.NETWORK in boot[units.FIRSTBOOT]["After"]
    assert not any(key.startswith("Install.") for key in {*SOCKET, *SERVICE})


def test_services_with_the_tpm_have_no_network_and_know_whom_to_ask() -> None:
    place = SOCKET["Socket.ListenStream"][0]
    assert COMMON["Service.Environment"] == [f"{network.PLACE}={place}"]
    assert COMMON["Service.PrivateNetwork"] == ["yes"]
    assert COMMON["Service.RestrictAddressFamilies"] == ["AF_UNIX"]
    assert COMMON["Service.IPAddressDeny"] == ["any"]
    assert "Service.IPAddressAllow" not in COMMON
    for service in units.OURS.glob("tpm2cloud-*.service"):
        own = units.read(service)
        assert not {"Service.PrivateNetwork", "Service.RestrictAddressFamilies"} & own.keys()


def test_only_root_can_ask_and_each_asks_a_process_of_its_own() -> None:
    assert SOCKET["Socket.SocketMode"] == ["0600"]
    assert SOCKET["Socket.Accept"] == ["yes"]
    assert SERVICE["Service.StandardInput"] == ["socket"]
    assert SERVICE["Service.DynamicUser"] == ["yes"]


def test_at_a_shutdown_telemetry_can_still_talk_to_its_hub() -> None:
    """What starts earlier is stopped later (systemd.unit(5), Before=)."""
    assert SERVICE["Unit.Before"] == ["tpm2cloud-telemetry.service"]


def test_what_is_for_all_services_of_ours_is_not_for_that_one() -> None:
    """A drop-in of an administrator's, such as another TPM device, is neither: systemd.unit(5) cuts
    names at dashes."""
    assert "-" not in units.WORKER
    given = {"LoadCredential", "StateDirectory", "BindPaths", "DeviceAllow", "Environment"}
    assert not {f"Service.{name}" for name in given} & SERVICE.keys()


def test_it_sees_no_device_no_file_and_no_socket_of_ours() -> None:
    assert SERVICE["Service.PrivateDevices"] == ["yes"]
    assert SERVICE["Service.CapabilityBoundingSet"] == []
    hidden = {each.removeprefix("-") for each in units.words(SERVICE, "Service.InaccessiblePaths")}
    writable = units.words(units.ours(units.FIRSTBOOT), "Service.ReadWritePaths")
    kept = ["/var/lib/tpm2cloud", "/etc/tpm2cloud", "/etc/credstore", "/run/credentials"]
    for place in (*kept, *(each.removeprefix("-") for each in writable)):
        assert any(Path(place).is_relative_to(each) for each in hidden), place


def test_it_is_the_module_that_the_package_has() -> None:
    [command] = SERVICE["Service.ExecStart"]
    python, isolated, _, module = command.split()
    assert (python, isolated) == (f"/{units.PYTHON}", "-I")
    assert units.TOP.joinpath(*module.split(".")).with_suffix(".py").exists()
