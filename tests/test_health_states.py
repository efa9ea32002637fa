"""Each state that a certificate can be in, brought about as in the field: recognised by a look, and
then healed by the companion alone, or explained."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent import aziot_identity
from tests.lab import edge, pki, states
from tests.lab.clock import Clock
from tests.lab.device import Device
from tests.lab.process import PATIENCE
from tests.lab.shelf import Shelf, starts
from tests.lab.troubles import (
    OURS,
    SETTINGS,
    THEIRS,
    Happens,
    Place,
    a_stranger_issues_it,
    gives_up,
    hangs,
    in_the_tpm,
    it_is_lost,
    it_lies_in_a_drawer,
    its_ca_lives_in_the_future,
    its_server_is_away,
    months_pass,
    nobody_looks_for_weeks,
    somebody_copies_another_devices_certificate,
    somebody_evicts_its_key,
    somebody_puts,
    the_disk_is_full_of_errors,
    the_owner_is_another_one,
    the_power_goes_at_its_renewal,
    there_is_an_edge_ca_and,
)
from tests.lab.world import World

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("states") / "w", clock=clock, renewing=True) as world:
        world.owner_server.lifetime(OURS)
        world.operations_server.lifetime(THEIRS)
        yield world


@pytest.fixture(scope="module")
def shelf(world: World, clock: Clock, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    with Device(world, tmp_path_factory.mktemp("states") / "device") as device:
        device.configure(SETTINGS)
        done = device.agent("provision")
        assert done.returncode == 0, done.stderr
        return Shelf(device, clock)


@pytest.fixture
def device(shelf: Shelf, world: World) -> Iterator[Device]:
    with shelf.taken() as device:
        starts(device)
        known = aziot_identity.answer(device.socket, PATIENCE)
        assert isinstance(known, aziot_identity.Provisioning), known
        yield device
    world.operations_server.behave()


# --- what the companion says of it, and does ---


@dataclass(frozen=True)
class Case:
    """`why`, `then`: how what is said of it goes. `runs`: after so many runs of the companion, with
    an hour between them, it is well at the latest; 0: it is none of its matter, but of time, and
    well `later`. `person`: none of time's, either; or the companion tries, and `code` says why it
    cannot."""

    cert: str
    state: str
    happens: Happens
    why: str
    then: str
    runs: int = 1
    later: timedelta = timedelta()
    person: bool = False
    code: str = ""

    def __str__(self) -> str:
        how = self.happens.__qualname__.partition(".")[0].replace("_", " ")
        return f"{self.cert} {self.state}: {how}"


CERTD, IDENTITYD, EDGED, EDGE_CA = "aziot-certd", "aziot-identityd", "aziot-edged", "aziot-edged-ca"
STEPS_IN = "this companion steps in for {}, as often as health.interventions allows"
BACK = "got anew, as ldevid.recover allows, by this companion"
NOBODY = "nothing renews it: a person has to "
SPOILT = "no certificate in .* can be read"


def ours() -> Iterator[Case]:
    yield Case("ldevid", "due", months_pass, "due since 20.*70 %", "renewed by this companion")
    yield Case("ldevid", "overdue", nobody_looks_for_weeks, "late since", "tried again by this")
    yield Case("ldevid", "expired", it_lies_in_a_drawer, "since 20", BACK)
    yield Case("ldevid", "unreadable", the_disk_is_full_of_errors("ldevid"), SPOILT, BACK)
    yield Case("ldevid", "missing", it_is_lost("ldevid"), "there is no '", BACK)
    other = somebody_copies_another_devices_certificate
    yield Case("ldevid", "key mismatch", other, "not the one that", BACK)
    yield Case("ldevid", "key mismatch", somebody_evicts_its_key, "not where it should be", BACK)
    yield Case("ldevid", "untrusted issuer", a_stranger_issues_it, "A stranger", BACK)
    code = "issued-by-another-ca"
    sold = the_owner_is_another_one
    yield Case("ldevid", "untrusted issuer", sold, "Owner CA", BACK, person=True, code=code)


def theirs(cert: str, unit: str, other: str) -> Iterator[Case]:
    steps_in = STEPS_IN.format(unit)
    away, by = its_server_is_away, f"renewed by {unit}"
    yield Case(cert, "due", away, "due since 20.*80 %", by, runs=0, later=2 * DAY)
    late = hangs(cert, 26 * DAY + 12 * HOUR, other)
    yield Case(cert, "overdue", late, "late since", steps_in, 2)
    expires = hangs(cert, 25 * DAY, other, later=6 * DAY)
    yield Case(cert, "expired", expires, "since 20", steps_in, 3)
    words = f"{unit} says: Tried to renew {cert}, but .* no longer be auto-renewed"
    yield Case(cert, "no longer auto-renewed", gives_up(cert), words, steps_in, 3)
    torn = the_power_goes_at_its_renewal(cert)
    yield Case(cert, "key mismatch", torn, "not the one that", steps_in, 4)
    yield Case(cert, "unreadable", the_disk_is_full_of_errors(cert), SPOILT, steps_in, 3)


def only_of_one() -> Iterator[Case]:
    lost, steps_in = it_is_lost("device-id"), STEPS_IN.format(IDENTITYD)
    yield Case("device-id", "missing", lost, "there is no '", steps_in, 4)
    lost, words = it_is_lost("est-id"), "nothing: this device works without it"
    yield Case("est-id", "missing", lost, "there is no '", words)
    words = "nothing: it becomes valid by itself, if the clock of this device is right"
    future = its_ca_lives_in_the_future
    yield Case("est-id", "not yet valid", future, "valid from 20", words, 0, later=2 * DAY)
    edge_ca, steps_in = there_is_an_edge_ca_and(gives_up(EDGE_CA)), STEPS_IN.format(EDGED)
    yield Case(EDGE_CA, "no longer auto-renewed", edge_ca, "says: Tried to", steps_in, 3)


def nobodys() -> Iterator[Case]:
    """What was there before us, and what the owner put there."""
    no_key, gone = (
        in_the_tpm(states.idevid_without_key),
        in_the_tpm(states.idevid_without_certificate),
    )
    for cert, state, happens, why, then in (
        ("idevid", "key mismatch", no_key, "not where it should be", "find its key"),
        ("idevid", "missing", gone, "there is no '", "put it there"),
        (
            "ldevid.est.trust",
            "unreadable",
            somebody_puts("est-ca.pem"),
            SPOILT,
            "put it there anew",
        ),
        (
            "operational.trust",
            "expired",
            somebody_puts("operational-ca.pem", OLD),
            "since",
            "get a",
        ),
    ):
        yield Case(cert, state, happens, why, NOBODY + then, person=True)


UNMISSED = {"est-id": "missing"}  # until it is wanted
OLD = pki.root("A CA of long ago", starts=-10 * pki.YEAR, lasts=9 * pki.YEAR).root
CASES = [
    *ours(),
    *theirs("est-id", CERTD, "device-id"),
    *theirs("device-id", IDENTITYD, "est-id"),
    *only_of_one(),
    *nobodys(),
]


def look(device: Device, *arguments: str) -> dict[str, Any]:
    done = device.agent("health", "--json", *arguments)
    assert done.returncode in (0, 3, 4), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "code": done.returncode}


def of(report: dict[str, Any], cert: str) -> dict[str, Any]:
    return next(each for each in report["certificates"] if each["name"] == cert)


def kept(device: Device) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in device.state.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_state_is_recognised_and_healed_or_explained(
    device: Device, clock: Clock, case: Case
) -> None:
    place = Place(device, clock)
    case.happens(place)
    before = kept(device)
    report = look(device, "--dry-run")
    seen = of(report, case.cert)
    assert seen["state"] == case.state, report
    assert re.search(case.why, seen["why"]), seen["why"]
    assert seen["next"].startswith(case.then), seen["next"]
    assert (report["code"] == 4, kept(device)) == (case.person and not case.code, before)

    clock.advance(case.later)
    well = False
    for _ in range(case.runs):
        report = look(device)
        if well := of(report, case.cert)["state"] in ("fresh", UNMISSED.get(case.cert)):
            break
        clock.advance(HOUR)
    assert well == (case.runs > 0 and not case.person), report
    if case.person:
        problem = report["problem"] or {"code": ""}
        assert (report["code"], problem["code"]) == (4, case.code), report
        return
    edge.broken(device)  # what is broken besides, so that only this is
    edge.until(lambda: look(device, "--dry-run")["code"] == 0)
    assert device.agent("status").returncode == 0


def test_a_clock_that_was_set_back_makes_nothing_expire_and_nothing_due(
    device: Device, clock: Clock
) -> None:
    """Not even judged: 75, and it is tried again."""
    before = kept(device)
    clock.jump(-30 * DAY)
    for arguments in ((), ("--dry-run",)):
        done = device.agent("health", *arguments)
        assert (done.returncode, "[clock-implausible]" in done.stderr) == (75, True)
    assert kept(device) == before
    clock.jump(30 * DAY)
    assert look(device)["code"] == 0
