"""`tpm2cloud check`: a trial at DPS and at the hub, by which nobody is registered."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.check import dps, hub
from agent.check.run import Found
from tests.lab import process
from tests.lab.checked import bad, look
from tests.lab.device import Device, Wish
from tests.lab.pki import root
from tests.lab.world import World

KNOWS = "dps-knows"
NOBODY = f"https://localhost:{process.free_port()}"


@pytest.fixture(scope="module")
def with_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("with-hub") / "world", hub=True) as world:
        world.dps.behave(retry_after=0, polls=0)
        yield world


@pytest.fixture(autouse=True)
def well(with_hub: World) -> Iterator[None]:
    yield
    with_hub.dps.behave(retry_after=0, polls=0)


class Devices:
    """Those of this module, each made once and with what a provisioning gives it."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world, self._directory = world, directory
        self._made: dict[str, Device] = {}

    def get(self, attestation: str, target: str = "device") -> Device:
        name = f"{attestation}-{target}"
        if name not in self._made:
            kinds: dict[str, Any] = {"attestation": attestation, "target": target}
            asked = Wish(id=name, issued_by="static", **kinds)
            device = Device(self.world, self._directory / name, asked)
            self._made[name] = device.__enter__()
            if attestation == "tpm":
                device.enrol()
            done = device.agent("provision")
            assert done.returncode == 0, done.stderr
        self._made[name].configure({})
        return self._made[name]

    def close(self) -> None:
        for device in self._made.values():
            device.__exit__()


@pytest.fixture(scope="module")
def devices(with_hub: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devices]:
    devices = Devices(with_hub, tmp_path_factory.mktemp("devices"))
    yield devices
    devices.close()


@pytest.fixture(scope="module")
def edge(with_hub: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """With IoT Edge, which has a certificate of its own; nothing of it is provisioned."""
    with Device(with_hub, tmp_path_factory.mktemp("edge") / "device", Wish()) as device:
        yield device


def looked(device: Device) -> dict[str, Found]:
    """And nobody was registered by it, nor got a hub."""
    before = len(device.world.dps.assigned(device.wish.id)), device.world.dps.devices()
    found = look(device, dps)
    asked = device.world.dps.requests()[-1:]
    assert [each["step"] for each in asked if each.get("step") == "register"] == []
    assert (len(device.world.dps.assigned(device.wish.id)), device.world.dps.devices()) == before
    return found


def code(found: Mapping[str, Found]) -> str | None:
    """Of what DPS knows, the connection being fine."""
    assert set(bad(found)) <= {KNOWS}
    return found[KNOWS].code


# --- by TPM --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["device", "edge"])
def test_dps_tells_a_tpm_what_came_of_its_registration(devices: Devices, target: str) -> None:
    seen = looked(devices.get("tpm", target))
    assert code(seen) is None
    assert f"lets '{devices.get('tpm', target).wish.id}' in: device" in seen[KNOWS].detail


def test_it_has_no_challenge_for_one_that_is_not_enrolled(devices: Devices) -> None:
    device = devices.get("tpm")
    device.configure({"device": {"id": "somebody-else"}})
    assert code(looked(device)) == "dps-not-enrolled"


def test_nor_if_another_tpm_is_enrolled_by_that_name(devices: Devices) -> None:
    device = devices.get("tpm")
    own = device.endorsement_key()
    device.world.dps.enrolment(device.wish.id, ek=own[:-1] + bytes([own[-1] ^ 1]))
    try:
        assert code(looked(device)) == "dps-bad-request"
    finally:
        device.world.dps.enrolment(device.wish.id, ek=own)


def test_keys_that_are_not_made_yet_are_not_made_for_it(with_hub: World, tmp_path: Path) -> None:
    wish = Wish(id="new", attestation="tpm", target="device")
    with Device(with_hub, tmp_path / "device", wish) as device:
        assert "not made yet" in looked(device)[KNOWS].detail


# --- by certificate ------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["device", "edge"])
def test_dps_tells_a_certificate_what_came_of_its_registration(
    devices: Devices, target: str
) -> None:
    device = devices.get("x509", target)
    seen = looked(device)
    assert code(seen) is None
    assert f"device '{device.wish.id}' at hub '{device.world.hub.host}'" in seen[KNOWS].detail


def test_or_that_there_was_none_yet(with_hub: World, tmp_path: Path) -> None:
    """Whether it is enrolled is only told by one."""
    wish = Wish(id="not-registered", target="device")
    with Device(with_hub, tmp_path / "device", wish) as device:
        device.configure({"dps": {"endpoint": NOBODY}})
        assert device.agent("provision").returncode == 75
        device.configure({})
        seen = looked(device)
    assert code(seen) is None
    assert "tells of no registration yet" in seen[KNOWS].detail


def test_an_ldevid_for_another_name_is_not_shown(devices: Devices) -> None:
    """It does not work, so it will be another one that DPS sees."""
    device = devices.get("x509")
    device.configure({"device": {"id": "another"}})
    assert "no LDevID to be shown yet" in looked(device)[KNOWS].detail


@pytest.mark.parametrize("attestation", ["tpm", "x509"])
def test_an_enrolment_that_is_disabled(devices: Devices, attestation: str) -> None:
    device = devices.get(attestation)
    device.world.dps.behave(disabled=[device.wish.id])
    assert code(looked(device)) == "dps-disabled"


def test_a_registration_that_failed_may_do_better_now(devices: Devices) -> None:
    """What it failed of is told, too, by the run that it was."""
    device = devices.get("x509")
    device.world.dps.behave(failing=[device.wish.id], failure=400209)
    seen = looked(device)
    assert code(seen) is None
    assert "errorCode 400209" in seen[KNOWS].detail


def test_a_ca_that_is_not_enrolled(with_hub: World, tmp_path: Path) -> None:
    """DPS knows the owner's and the operator's."""
    wish = Wish(id="of-another-ca", target="device")
    with Device(with_hub, tmp_path / "device", wish) as device:
        ca = root("Local CA").save(tmp_path / "ca")
        local = {"certificate": str(ca.chain), "key": str(ca.key)}
        device.configure({"ldevid": {"est": None, "ca": local}})
        assert device.agent("provision").returncode == 76
        assert code(looked(device)) == "dps-unauthorized"


# --- by a certificate that is IoT Edge's ---------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("429", "dps-throttled"), ("503", "dps-trouble"), ("html", "captive-portal"), ("404", None)],
)
def test_what_dps_tells_a_stranger(edge: Device, kind: str, expected: str | None) -> None:
    assert code(looked(edge)) is None
    edge.world.dps.behave(odd={"operation": kind})
    assert code(looked(edge)) == expected


def test_a_scope_that_dps_does_not_know(edge: Device) -> None:
    edge.configure({"dps": {"id_scope": "0ne00WRONG0"}})
    assert code(looked(edge)) == "dps-scope"
    edge.configure({})


# --- at the hub ----------------------------------------------------------------------------------


def test_who_may_be_sending_is_not_thrown_out_of_the_hub(devices: Devices) -> None:
    device = devices.get("tpm")
    before = len(device.world.hub.connections())
    seen = look(device, hub)
    assert bad(seen) == {}
    assert seen["hub-login"].detail.startswith("not tried")
    assert len(device.world.hub.connections()) == before


@pytest.mark.parametrize("attestation", ["tpm", "x509"])
def test_a_hub_that_is_new_to_the_device_is_tried(
    with_hub: World, tmp_path: Path, attestation: str
) -> None:
    kinds: dict[str, Any] = {"attestation": attestation, "target": "device"}
    wish = Wish(id=f"new-{attestation}", **kinds)
    with Device(with_hub, tmp_path / "device", wish) as device:
        assert look(device, hub) == {}, "nobody knows which it will be"
        with_hub.hub.behave(refuse=3)
        assert device.agent("provision").returncode == 75
        kept = device.state.joinpath("assignment.json").read_bytes()
        assert bad(look(device, hub)) == {"hub-login": "server-busy"}
        with_hub.hub.behave(refuse=5)
        assert bad(look(device, hub)) == {"hub-login": "hub-refused"}
        with_hub.hub.behave()
        seen = look(device, hub)
        assert bad(seen) == {}
        assert seen["hub-login"].detail == f"lets '{device.wish.id}' in"
        assert device.state.joinpath("assignment.json").read_bytes() == kept
