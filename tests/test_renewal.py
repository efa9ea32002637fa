"""The LDevID is renewed by the companion: proven before it is used, and whatever a server does, the
one in use stays in place and works."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from cryptography import x509

from agent.state import State
from tests.conftest import MakeDevice
from tests.lab import edge, pki
from tests.lab.clock import Clock
from tests.lab.device import Device
from tests.lab.nginx import Request as Logged
from tests.lab.renewals import Held, Told, agree, renew
from tests.lab.renewing import Kind
from tests.lab.world import World
from tests.test_patience import service
from tests.test_provision import ldevid, provisioned

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("renewal") / "world"
    with World(directory, clock=clock, renewing=True) as world:
        yield world


@pytest.fixture(autouse=True)
def well_behaved(world: World) -> Iterator[None]:
    yield
    world.owner_server.behave()
    world.owner_server.lifetime(90 * DAY)
    world.dps.behave(retry_after=0)


@pytest.fixture(scope="module")
def kept(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """With an LDevID for years; whoever uses it leaves it as it was."""
    world.owner_server.lifetime(1000 * DAY)
    with Device(world, tmp_path_factory.mktemp("kept") / "device") as device:
        yield provisioned(device)


def asked(world: World) -> list[Logged]:
    return world.requests(world.owner_est)


def operations(requests: list[Logged]) -> list[str]:
    return [each.uri.rpartition("/")[2] for each in requests]


def forgotten(device: Device) -> int:
    """How often IoT Edge was made to forget who it is: at the first boot it has to be."""
    return len(edge.events(device, "api", path="/identities/device/reprovision"))


# --- it is renewed ---


@pytest.mark.parametrize("key", ["ecc256", "rsa2048"])
def test_it_renews_itself_and_proves_itself_and_iot_edge_does_not_notice(
    make_device: MakeDevice, clock: Clock, world: World, key: pki.Kind
) -> None:
    device = provisioned(make_device(key=key))
    before, process = agree(device), service(device)
    clock.advance(70 * DAY)
    start = len(asked(world))

    assert (told := renew(device)).what == "renewed", told

    requests, after = asked(world)[start:], agree(device)
    assert operations(requests) == ["cacerts", "simplereenroll", "cacerts"]
    assert [int(each.serial, 16) for each in requests] == [*[before.serial] * 2, after.serial]
    assert (after.key, after.slot) == (before.key, before.slot)
    old, new = (x509.load_pem_x509_certificate(each.chain) for each in (before, after))
    assert new.subject.public_bytes() == old.subject.public_bytes()
    assert new.not_valid_after_utc - old.not_valid_after_utc > 69 * DAY
    assert service(device) == process
    assert forgotten(device) == 1
    assert device.agent("status").returncode == 0
    assert not list(device.state.glob("*next*"))


def test_with_a_password_it_is_asked_for_besides(make_device: MakeDevice, world: World) -> None:
    device = provisioned(make_device(auth="basic"))
    world.owner_server.lifetime(100 * DAY)
    assert (told := renew(device)).what == "renewed", told
    assert agree(device)


def test_a_local_ca_issues_anew(make_device: MakeDevice, clock: Clock) -> None:
    device = make_device()
    owner = device.world.owner.save(device.directory / "owner")
    ca = {"certificate": str(owner.chain), "key": str(owner.key)}
    device.configure({"ldevid": {"est": None, "ca": ca}})
    before = ldevid(provisioned(device))
    clock.advance(DAY)
    told = renew(device)
    assert (told.what, "there is no server" in told.words) == ("renewed", True)
    assert ldevid(device).not_valid_after_utc > before.not_valid_after_utc
    assert agree(device)
    clock.jump(-DAY / 2)  # it was ahead when that was issued, which tells nothing of the time
    device.agent("health")
    assert ldevid(device).not_valid_before_utc < clock.now()
    clock.jump(DAY / 2)


def test_a_static_ldevid_is_registered_anew_for_the_hub_knows_the_very_certificate(
    make_device: MakeDevice, clock: Clock, world: World
) -> None:
    """And IoT Edge forgets first who it is, which is nothing to do while DPS is away."""
    device = provisioned(make_device(issued_by="static", id="static-0001"))
    clock.advance(DAY)
    before = ldevid(device)
    world.dps.behave(throttle=1000)
    told = renew(device)
    assert (told.what, told.code) == ("waiting", "dps-throttled")
    assert (ldevid(device), forgotten(device)) == (before, 1)
    world.dps.behave(retry_after=0)
    start = len(world.issued(world.owner_est))
    assert (told := renew(device)).what == "renewed", told
    assert len(world.issued(world.owner_est)) == start
    serial = int(world.dps.assigned("static-0001")[-1]["serial"], 16)
    assert serial == agree(device).serial
    assert renew(device, due=False).what == "nothing"


# --- with a new key ---


def test_a_new_key_is_at_work_before_the_old_one_goes(
    make_device: MakeDevice, clock: Clock, world: World
) -> None:
    device = provisioned(make_device())
    device.configure({"ldevid": {"rekey": True}})
    held = agree(device)
    for slot in ("ldevid-2", "ldevid"):
        clock.advance(70 * DAY)
        start = len(asked(world))
        assert (told := renew(device)).what == "renewed", told
        new = agree(device)
        assert (new.slot, new.key != held.key) == (slot, True)
        assert operations(asked(world)[start:])[:3] == ["cacerts", "simplereenroll", "cacerts"]
        assert labels(device) >= {"ldevid", "ldevid-2"}

        assert renew(device, due=False).what == "completed"
        assert agree(device) == new
        assert labels(device) == {"device-id", "est-id", slot}  # IoT Edge's own keys stay
        assert {path.stem for path in device.state.glob("ldevid*.pem")} == {slot, f"{slot}-key"}
        assert renew(device, due=False).what == "nothing"
        (device.state / "ldevid.json").write_text("")  # which slot it is, is lost
        assert agree(provisioned(device)) == new
        assert labels(device) == {"device-id", "est-id", slot}
        held = new
    assert forgotten(device) == 1
    begins_anew(device, world)


def labels(device: Device) -> set[str]:
    from agent import pkcs11

    token = pkcs11.look(device.pkcs11, "edge")
    assert token is not None
    return {key.label for key in token.keys}


def begins_anew(device: Device, world: World) -> None:
    """All that IoT Edge had of its own is gone: it logs in with the LDevID then, by PKCS#11."""
    device.run(["iotedge", "system", "stop"])
    for path in (device.edge / "certd/certs").iterdir():
        path.unlink()
    start = len(world.issued(world.operations_est))
    assert device.run(["iotedge", "system", "restart"]).returncode == 0
    provisioned(device)
    by_ldevid = world.issued(world.operations_est)[start]
    assert int(by_ldevid.serial, 16) == agree(device).serial


def test_a_refused_new_key_waits_and_is_not_missed(kept: Device, world: World) -> None:
    held = agree(kept)
    kept.configure({"ldevid": {"rekey": True}})
    world.owner_server.behave("refuse")
    assert renew(kept).code == "est-forbidden"
    assert agree(kept) == held
    assert renew(kept, due=False).what == "nothing"
    kept.configure({})
    world.owner_server.behave("busy")
    assert renew(kept).code == "server-busy"
    assert agree(kept) == held
    assert not (kept.state / "ldevid-2-key.pem").exists()


# --- come back later ---


def test_come_back_later_is_kept_and_the_same_request_is_sent_again(
    make_device: MakeDevice, clock: Clock, world: World
) -> None:
    device = provisioned(make_device())
    held = agree(device)
    clock.advance(70 * DAY)
    world.owner_server.behave("pending", retry_after=86400)
    first = renew(device)
    assert (first.what, first.code) == ("waiting", "est-pending")
    assert agree(device) == held

    start, sent = len(asked(world)), kept_csr(device)
    assert renew(device, after=first) == Told("waiting", again(first), "", first.backoff)
    assert renew(device).code == "est-pending"  # even if that pause is forgotten
    assert len(asked(world)) == start

    clock.advance(DAY)
    assert renew(device, after=first).code == "est-pending"
    assert kept_csr(device) == sent
    world.owner_server.behave()
    clock.advance(DAY)
    assert renew(device, after=first).what == "renewed"
    assert agree(device).serial != held.serial
    assert not (device.state / "enrolment.json").exists()


def kept_csr(device: Device) -> str:
    found = json.loads((device.state / "enrolment.json").read_text())
    assert found["purpose"] == "renewal"
    return str(found["csr"])


def again(told: Told) -> str:
    return told.words.partition("; ")[2]


def test_a_first_enrolment_that_waits_is_no_renewal(kept: Device, world: World) -> None:
    """Nor the other way round."""
    held = agree(kept)
    world.owner_server.behave("pending", retry_after=86400)
    assert renew(kept).code == "est-pending"
    (kept.state / "ldevid.pem").rename(kept.state / "away.pem")
    start = len(asked(world))
    assert "[est-pending]" in kept.agent("provision").stderr
    assert operations(asked(world)[start:])[-1] == "simpleenroll"
    (kept.state / "away.pem").rename(kept.state / "ldevid.pem")
    (kept.state / "enrolment.json").unlink()
    (kept.state / "failure.json").unlink()
    assert agree(kept) == held


@pytest.mark.parametrize(("kind", "code"), [("busy", "server-busy"), ("pending", "est-pending")])
def test_who_says_when_to_come_back_is_taken_at_his_word(
    kept: Device, world: World, clock: Clock, kind: Kind, code: str
) -> None:
    held = agree(kept)
    world.owner_server.behave(kind, "simplereenroll", retry_after=12345)
    told = renew(kept)
    assert (told.what, told.code) == ("waiting", code)
    assert 12300 < waits(told, clock).total_seconds() <= 12345
    assert agree(kept) == held
    (kept.state / "enrolment.json").unlink()


def test_a_server_in_trouble_makes_the_pause_longer_and_never_shorter(
    kept: Device, world: World, clock: Clock
) -> None:
    world.owner_server.behave("busy", "simplereenroll", retry_after=1)
    assert waits(renew(kept, after=Told("", backoff={"failures": 20})), clock) > 19 * HOUR
    (kept.state / "enrolment.json").unlink()


def waits(told: Told, clock: Clock) -> timedelta:
    assert told.backoff is not None
    return timedelta(seconds=told.backoff["not_before"] - clock.now().timestamp())


# --- what goes wrong ---


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("refuse", "est-forbidden"),
        ("broken", "server-busy"),
        ("other-key", "issued-for-another-key"),
        ("other-name", "issued-with-wrong-name"),
        ("unknown-ca", "issued-by-another-ca"),
        ("expired", "issued-with-wrong-dates"),
        ("not-yet", "issued-with-wrong-dates"),
    ],
)
def test_whatever_the_server_does_the_one_in_use_stays_and_works(
    kept: Device, world: World, kind: Kind, code: str
) -> None:
    held = agree(kept)
    world.owner_server.behave(kind)
    told = renew(kept)
    assert (told.what, told.code) == ("waiting" if code == "server-busy" else "refused", code)
    assert agree(kept) == held
    assert not list(kept.state.glob("*next*"))


def test_one_that_does_not_last_longer_is_of_no_use(kept: Device, clock: Clock) -> None:
    held = agree(kept)
    told = renew(kept, overdue=True, after=Told("", backoff={"failures": 20}))
    assert (told.what, told.code) == ("refused", "renewal-brings-nothing")
    assert waits(told, clock) > 19 * HOUR  # a CA near its end issues none the longer for haste
    assert agree(kept) == held


def test_nobody_answers_and_the_pauses_grow(kept: Device, world: World, clock: Clock) -> None:
    held, told, pauses = agree(kept), None, list[float]()
    with world.without_est():
        for _ in range(3):
            told = renew(kept, after=told)
            assert (told.what, told.code) == ("waiting", "unreachable")
            assert told.backoff is not None
            pauses.append(told.backoff["not_before"] - clock.now().timestamp())
            clock.advance(timedelta(seconds=pauses[-1] + 1))
    hours = [round(each / 3600) for each in pauses]
    assert hours == [1, 2, 4]
    assert agree(kept) == held


def test_a_new_one_that_its_own_server_refuses_is_discarded(
    make_device: MakeDevice, world: World
) -> None:
    """The CA issues from a new intermediate already, and its server has not been told."""
    device = provisioned(make_device())
    held, server = agree(device), world.owner_server
    new = server.successor("Owner CA G2")
    (device.etc / "owner-ca.pem").write_bytes(pki.pem(world.owner.root, *new.authority.chain))
    server.lifetime(100 * DAY)
    server.issue_from(new.authority)
    try:
        told = renew(device)
    finally:
        server.issue_from(world.owner)
    assert (told.what, told.code) == ("refused", "renewed-refused")
    assert agree(device) == held
    assert not list(device.state.glob("*next*"))


def test_what_a_run_that_was_cut_off_had_got_is_proven_and_used_and_not_asked_for_again(
    make_device: MakeDevice, world: World
) -> None:
    device = provisioned(make_device())
    state, before = State(device.state), agree(device)
    world.owner_server.lifetime(100 * DAY)
    renew(device)
    new = agree(device)
    state.ldevid_next.write_bytes(new.chain)
    state.ldevid_cert.write_bytes(before.chain)

    with world.without_est():
        assert renew(device).code == "unreachable"
    assert agree(device) == before
    start = len(asked(world))
    assert (told := renew(device)).what == "renewed", told
    assert operations(asked(world)[start:]) == ["cacerts"]
    assert agree(device) == new


@pytest.mark.parametrize("left", [b"", b"\0" * 100, "itself"], ids=["empty", "damaged", "same"])
def test_what_is_of_no_use_is_removed(kept: Device, world: World, left: bytes | str) -> None:
    held, state, start = agree(kept), State(kept.state), len(asked(world))
    state.ldevid_next.write_bytes(held.chain if isinstance(left, str) else left)
    assert renew(kept, due=False).what == "completed"
    assert len(asked(world)) == start
    assert not state.ldevid_next.exists()
    assert agree(kept) == held


# --- IoT Edge is told of it ---


def test_iot_edge_is_not_restarted_each_time_if_it_does_not_take_its_configuration(
    kept: Device, clock: Clock
) -> None:
    state, program, log = State(kept.state), kept.bin / "iotedge", kept.directory / "calls"
    given = state.registration.read_bytes()
    state.ldevid_slot.write_text('{"slot": "ldevid"}')
    state.registration.write_text(json.dumps({**json.loads(given), "config": "of another"}))
    program.rename(kept.bin / "away")
    program.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexit 1\n')
    program.chmod(0o755)
    for after, calls in ((0 * HOUR, 1), (HOUR / 2, 1), (HOUR, 2), (HOUR, 2)):
        clock.advance(after)
        told = kept.agent("health")
        assert (told.returncode, "[iotedge-failed]" in told.stdout) == (3, True), told.stdout
        assert log.read_text().splitlines() == ["config apply"] * calls
    (kept.bin / "away").rename(program)
    state.registration.write_bytes(given)
    for path in (state.ldevid_slot, state.health):
        path.unlink()


# --- it does not work any more ---


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


def test_nobody_lets_us_in_but_the_one_in_use_still_works(kept: Device, world: World) -> None:
    held = agree(kept)
    world.owner_server.behave("refuse")
    kept.configure({"ldevid": {"recover": ["login", "ek"]}})
    told = renew(kept, overdue=True)
    kept.configure({})
    assert (told.what, told.code) == ("refused", "est-forbidden")
    assert "nor is another to be had" in told.words
    assert "before that, by 'login'" in told.words
    assert agree(kept) == held


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
