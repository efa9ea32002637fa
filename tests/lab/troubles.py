"""How certificates of a device come to be in states that they should not be in, as in the field.

Each is a function of the `Place` where it happens; some are made for a certificate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography.x509 import Certificate

from agent import x509
from tests.lab import edge, pki, states
from tests.lab.clock import Clock
from tests.lab.device import Device
from tests.lab.renewing import RenewingEst
from tests.lab.shelf import starts
from tests.lab.tools import Tools

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
OURS, THEIRS = 90 * DAY, 30 * DAY  # how long certificates live: the LDevID; IoT Edge's
SETTINGS = {
    "ldevid": {"spread": "1%"},
    "health": {"patience": "10min"},
    "aziot": {"timeout": "6s"},
}


@dataclass(frozen=True)
class Place:
    device: Device
    clock: Clock

    @property
    def operations(self) -> RenewingEst:
        return self.device.world.operations_server

    @property
    def ldevid(self) -> Path:
        return self.device.state / "ldevid.pem"

    def file(self, cert: str) -> Path:
        [path] = edge.certificates(self.device, cert)
        return path

    def passes(self, time: timedelta, *renewed: str) -> None:
        """Time, and in it IoT Edge renews these."""
        before = {cert: len(edge.events(self.device, "renewed", cert=cert)) for cert in renewed}
        self.clock.advance(time)
        for cert, count in before.items():
            edge.awaited(self.device, "renewed", count + 1, cert=cert)

    def reboots(self) -> None:
        """IoT Edge's part of it."""
        units = ["aziot-certd", "aziot-identityd"]
        assert self.device.run(["systemctl", "restart", *units]).returncode == 0


Happens = Callable[[Place], object]


def months_pass(place: Place) -> None:
    place.passes(65 * DAY, "est-id", "device-id")


def nobody_looks_for_weeks(place: Place) -> None:
    for _ in range(3):
        place.passes(26 * DAY, "est-id", "device-id")


def it_lies_in_a_drawer(place: Place) -> None:
    place.device.run(["iotedge", "system", "stop"])
    place.clock.advance(100 * DAY)
    starts(place.device)


def the_disk_is_full_of_errors(cert: str) -> Happens:
    def happens(place: Place) -> None:
        path = place.ldevid if cert == "ldevid" else place.file(cert)
        path.write_bytes(path.read_bytes()[:300])
        place.reboots()

    return happens


def it_is_lost(cert: str) -> Happens:
    def happens(place: Place) -> None:
        (place.ldevid if cert == "ldevid" else place.file(cert)).unlink()

    return happens


def somebody_copies_another_devices_certificate(place: Place) -> None:
    owner = place.device.world.owner
    other = owner.issue(pki.new_key().public_key(), place.device.wish.id, lasts=OURS)
    place.ldevid.write_bytes(pki.pem(other, *owner.chain))


def somebody_evicts_its_key(place: Place) -> None:
    in_the_tpm(lambda tools: states.evict(tools, states.LDEVID))(place)


def a_stranger_issues_it(place: Place) -> None:
    [own, *_] = x509.parse(place.ldevid.read_bytes())
    stranger = pki.authority("A stranger")
    other = stranger.issue(own.public_key(), place.device.wish.id, lasts=OURS)
    place.ldevid.write_bytes(pki.pem(other, *stranger.chain))


def the_owner_is_another_one(place: Place) -> None:
    new = pki.authority("Another owner")
    (place.device.etc / "owner-ca.pem").write_bytes(pki.pem(new.root))


def hangs(cert: str, time: timedelta, *renewed: str, later: timedelta = timedelta()) -> Happens:
    """Its renewal, until its service starts anew."""

    def happens(place: Place) -> None:
        edge.broken(place.device, renewals={cert: "stuck"})
        place.passes(time, *renewed)
        place.clock.advance(later)

    return happens


def gives_up(cert: str) -> Happens:
    """Its service; and nobody asks for the other one, which would bring it back."""

    def happens(place: Place) -> None:
        others: dict[str, edge.Mode] = dict.fromkeys({"est-id", "device-id"} - {cert}, "never")
        edge.broken(place.device, renewals={**others, cert: "fatal"})
        place.clock.advance(24 * DAY + HOUR)
        edge.awaited(place.device, "renewal-failed", cert=cert, fatal=True)
        edge.broken(place.device, renewals=others)

    return happens


def there_is_an_edge_ca_and(happens: Happens) -> Happens:
    def first(place: Place) -> None:
        place.device.configure({**SETTINGS, "edge_ca": {"issued_by": "est"}})
        done = place.device.agent("provision")
        assert done.returncode == 0, done.stderr
        edge.until(lambda: edge.certificates(place.device, "aziot-edged-ca"))
        happens(place)

    first.__qualname__ = happens.__qualname__
    return first


def the_power_goes_at_its_renewal(cert: str) -> Happens:
    """After it was written, before its key was moved."""

    def happens(place: Place) -> None:
        edge.broken(place.device, tear=[cert])
        place.clock.advance(24 * DAY + HOUR)
        edge.awaited(place.device, "stopped", why=f"the power goes while {cert} is renewed")
        edge.broken(place.device)
        starts(place.device)

    return happens


def its_ca_lives_in_the_future(place: Place) -> None:
    edge.broken(place.device, renewals={"device-id": "never"})
    place.operations.behave("not-yet", "simpleenroll")
    place.operations.lifetime(2 * DAY)
    place.passes(24 * DAY + HOUR, "est-id")
    place.operations.behave()
    place.operations.lifetime(THEIRS)


def its_server_is_away(place: Place) -> None:
    place.operations.behave("busy")
    place.clock.advance(24 * DAY + HOUR)
    for cert in ("est-id", "device-id"):
        edge.awaited(place.device, "renewal-failed", cert=cert)
    place.operations.behave()


def in_the_tpm(make: Callable[[Tools], object]) -> Happens:
    def happens(place: Place) -> None:
        directory = place.device.directory / "tools"
        directory.mkdir()
        make(Tools(place.device.tcti, directory))

    happens.__qualname__ = "its maker's part is gone"
    return happens


def somebody_puts(name: str, *certificates: Certificate) -> Happens:
    def happens(place: Place) -> None:
        (place.device.etc / name).write_bytes(pki.pem(*certificates) or b"something else")

    return happens
