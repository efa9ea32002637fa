"""An LDevID that cannot be renewed: whatever the server does, the one in use stays in place and
works, and the server is asked again after pauses."""

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest

from agent.state import State
from tests.lab.clock import Clock
from tests.lab.device import Device
from tests.lab.renewals import Told, agree, asked, operations, renew, waits
from tests.lab.renewing import Kind
from tests.lab.world import World
from tests.test_provision import provisioned

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@pytest.fixture(scope="module")
def kept(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """With an LDevID for years; whoever uses it leaves it as it was."""
    world.owner_server.lifetime(1000 * DAY)
    with Device(world, tmp_path_factory.mktemp("kept") / "device") as device:
        provisioned(device)
        world.owner_server.lifetime(90 * DAY)
        yield device


# --- it is refused ---


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


@pytest.mark.parametrize("left", [b"", b"\0" * 100, "itself"], ids=["empty", "damaged", "same"])
def test_what_is_of_no_use_is_removed(kept: Device, world: World, left: bytes | str) -> None:
    held, state, start = agree(kept), State(kept.state), len(asked(world))
    state.ldevid_next.write_bytes(held.chain if isinstance(left, str) else left)
    assert renew(kept, due=False).what == "completed"
    assert len(asked(world)) == start
    assert not state.ldevid_next.exists()
    assert agree(kept) == held


# --- pauses ---


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
