"""renew_at = "never": DPS knows one certificate, by an individual enrolment. Nobody renews it, that
is said, and so is what a person has to do at its end."""

import json
import tomllib
from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.conftest import MakeDevice
from tests.lab import edge
from tests.lab.clock import Clock
from tests.lab.device import Device
from tests.lab.world import World
from tests.test_bad_input import refused
from tests.test_provision import ldevid, provisioned

DAY = timedelta(days=1)
NEVER = {"renew_at": "never"}
INDIVIDUAL = {"enrolment": "individual"}


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[World]:
    """Its devices' certificates are for 90 days."""
    directory = tmp_path_factory.mktemp("never") / "world"
    with World(directory, clock=clock, renewing=True) as world:
        yield world


def health(device: Device, name: str) -> tuple[dict[str, str], str | None]:
    """What the companion says of a certificate, and the code of its problem."""
    told = json.loads(device.agent("health", "--json").stdout)
    [seen] = [each for each in told["certificates"] if each["name"] == name]
    return seen, (told["problem"] or {}).get("code")


def test_the_ldevid_stays_to_its_end_and_then_a_person_has_to_see_to_it(
    make_device: MakeDevice, world: World, clock: Clock
) -> None:
    device = make_device(id="static", issued_by="static")
    device.configure({"ldevid": NEVER, "dps": INDIVIDUAL})
    provisioned(device)
    world.dps.enrol_certificate("static", first := ldevid(device))

    clock.advance(89 * DAY)
    seen, problem = health(device, "ldevid")
    assert (seen["state"], problem) == ("fresh", None)
    assert "renew_at is 'never'" in seen["next"]
    assert "enrolment" in seen["next"]
    asked = len(world.requests(world.owner_est))

    clock.advance(2 * DAY)
    seen, problem = health(device, "ldevid")
    assert (seen["state"], problem) == ("expired", "ldevid-not-renewed")
    assert str(device.state / "ldevid.pem") in seen["next"]
    assert "enrolment" in refused(device, 78, "ldevid-not-renewed")
    assert ldevid(device) == first
    assert len(world.requests(world.owner_est)) == asked

    (device.state / "ldevid.pem").unlink()
    settings = device.bin / "iotedge-lab.toml"  # it answers, though it cannot begin
    settings.write_text(f'startup_failure = "answer"\n{settings.read_text()}')
    assert device.agent("provision").returncode == 75  # DPS does not know it yet
    assert ldevid(device) != first
    world.dps.enrol_certificate("static", ldevid(device))
    provisioned(device)


def test_an_operational_certificate_is_left_alone_by_iot_edge_and_by_us(
    make_device: MakeDevice, clock: Clock
) -> None:
    device = make_device(id="issued")
    device.configure({"operational": NEVER, "dps": INDIVIDUAL})
    provisioned(device)
    said = tomllib.loads((device.aziot / "config.toml").read_text())
    issued = said["provisioning"]["attestation"]["identity_cert"]
    assert issued == {"method": "est", "common_name": "issued"}
    assert said["cert_issuance"]["est"]["identity_auto_renew"]["threshold"] == "80%"
    [first] = edge.certificate(device, "device-id")[:1]

    clock.advance(80 * DAY)  # the LDevID and est-id are due, and renewed
    edge.awaited(device, "renewed", cert="est-id")
    seen, problem = health(device, "device-id")
    assert (seen["state"], problem) == ("fresh", None)
    assert "renew_at is 'never'" in seen["next"]

    clock.advance(11 * DAY)
    seen, _ = health(device, "device-id")
    assert (seen["state"], "enrolment" in seen["next"]) == ("expired", True)
    assert edge.certificate(device, "device-id")[:1] == [first]
    assert not edge.events(device, "renewed", cert="device-id")


@pytest.mark.parametrize(("of", "issued_by"), [("operational", "est"), ("ldevid", "static")])
def test_what_dps_knows_alone_must_not_be_renewed(
    make_device: MakeDevice, of: str, issued_by: str
) -> None:
    """Whoever would be locked out months later is told now."""
    device = make_device(id="told", issued_by=issued_by)
    device.configure({"dps": INDIVIDUAL})
    assert f"{of}.renew_at: must be 'never'" in refused(device, 78, "config-invalid")
    device.configure({"dps": INDIVIDUAL, of: NEVER})
    assert device.agent("config").returncode == 0
