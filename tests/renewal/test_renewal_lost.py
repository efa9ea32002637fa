"""An LDevID that does not work any more, or soon will not, is got back: by the login of the first
boot, or by the EK, as far as these are allowed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from agent.state import State
from tests.conftest import MakeDevice
from tests.lab.clock import Clock
from tests.lab.device import Device
from tests.lab.renewals import Held, agree, asked, operations, renew, waits
from tests.lab.world import World
from tests.test_provision import provisioned

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def test_who_may_not_renew_gets_another_by_the_login_of_the_first_boot_when_it_is_late(
    make_device: MakeDevice, world: World
) -> None:
    device = provisioned(make_device())
    held = agree(device)
    world.owner_server.lifetime(100 * DAY)
    world.owner_server.behave("refuse", "simplereenroll")
    assert renew(device).code == "est-forbidden"
    assert agree(device) == held
    told = renew(device, overdue=True)
    assert (told.what, "got anew by a login" in told.words) == ("recovered", True)
    assert agree(device).serial != held.serial


@contextmanager
def expired(device: Device, clock: Clock) -> Iterator[Held]:
    """In a drawer for so long that the LDevID is not valid any more."""
    held = agree(provisioned(device))
    device.run(["iotedge", "system", "stop"])
    clock.advance(100 * DAY)
    yield held


@pytest.mark.parametrize("way", ["login", "ek"])
def test_an_expired_one_is_got_back_by_the_ways_that_are_allowed(
    make_device: MakeDevice, clock: Clock, world: World, way: str
) -> None:
    device = make_device()
    with expired(device, clock) as held:
        device.configure({"ldevid": {"recover": [way]}})
        told, last = renew(device, overdue=True), asked(world)[-1]
    assert told.what == "recovered", told
    assert last.uri.endswith("simpleenroll" if way == "login" else "tpmenroll")
    after = agree(device)
    assert (after.key, after.serial != held.serial) == (held.key, True)


def test_a_boot_gets_it_back_too_and_the_ek_helps_where_the_login_does_not(
    make_device: MakeDevice, clock: Clock, world: World
) -> None:
    """But neither is asked in a pause that the companion keeps: a service that fails is started
    again in seconds."""
    device = make_device()
    with expired(device, clock):
        device.configure({"ldevid": {"recover": ["login", "ek"]}})
        world.owner_server.behave("refuse", "simpleenroll")
        with without_roots(device):
            told = renew(device)
        assert (told.what, told.code) == ("refused", "est-forbidden")
        assert "besides that, by 'ek'" in told.words
        State(device.state).health.write_text(json.dumps({"tpm": "well", "backoff": told.backoff}))
        start = len(asked(world))
        assert "[ldevid-waits]" in device.agent("provision").stderr
        assert len(asked(world)) == start

        clock.advance(2 * HOUR)
        provisioned(device)
    assert operations(world.issued(world.owner_est))[-1] == "tpmenroll"
    assert agree(device)
    known = json.loads(State(device.state).health.read_text())
    assert (known["tpm"], known["backoff"]["failures"]) == ("well", 0)


@contextmanager
def without_roots(device: Device) -> Iterator[None]:
    """Of the makers of TPMs."""
    roots, away = device.etc / "tpm-roots.d", device.etc / "away"
    roots.rename(away)
    roots.mkdir()
    yield
    roots.rmdir()
    away.rename(roots)


def test_if_no_way_is_allowed_a_person_is_asked_for(
    make_device: MakeDevice, clock: Clock, world: World
) -> None:
    """The first one is got by the login all the same, and no word of a server makes us wait for
    the end."""
    device = make_device()
    device.configure({"ldevid": {"recover": []}})
    assert agree(provisioned(device))
    clock.advance(87 * DAY)
    world.owner_server.behave("busy", retry_after=7 * 86400)
    assert DAY < waits(renew(device), clock) <= 1.5 * DAY
    pending = json.loads((device.state / "enrolment.json").read_text())
    assert pending["until"] - clock.now().timestamp() <= 1.5 * 86400
    with expired(device, clock):
        start, told = len(asked(world)), renew(device)
        assert (told.what, told.status, told.code) == ("raised", 78, "ldevid-expired")
        boot = device.agent("provision")
        assert (boot.returncode, "[ldevid-expired]" in boot.stderr) == (78, True)
        assert "Set ldevid.recover to" in boot.stderr
        assert len(asked(world)) == start


def test_it_expires_while_a_new_one_waits_to_be_proven(
    make_device: MakeDevice, clock: Clock, world: World
) -> None:
    device = provisioned(make_device())
    before, state = agree(device), State(device.state)
    world.owner_server.lifetime(200 * DAY)
    renew(device)
    new = agree(device)
    state.ldevid_next.write_bytes(new.chain)
    state.ldevid_cert.write_bytes(before.chain)
    device.run(["iotedge", "system", "stop"])
    clock.advance(100 * DAY)
    with world.without_est():
        told = renew(device, overdue=True)
    assert (told.what, "does not work any more" in told.words) == ("renewed", True)
    assert agree(device) == new
