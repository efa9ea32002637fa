"""What can help IoT Edge where it is stuck, and what is none of its fault; and what systemctl and
journalctl may say without harm."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent import aziot, config
from agent.backoff import Backoff
from agent.config import Config
from agent.errors import EstRefused, ServerBusy, SystemctlFailed
from agent.health import question, services
from agent.health.judge import Condition, Judged
from agent.health.ladder import RUNGS, Rung
from agent.health.services import Unit
from agent.health.stuck import Stuck, stuck

NOW = datetime(2027, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
FAILS = Unit("aziot-edged", "activating", "auto-restart", "exit-code", 7, "")
MILD = ("wait", "restart")


@pytest.fixture
def conf(tmp_path: Path) -> Config:
    return Config(
        dps=config.Dps(id_scope="0ne1"),
        operational=config.Operational(url="https://est.test/"),
        pkcs11=config.Pkcs11(store=tmp_path / "none"),
        aziot=config.Aziot(directory=tmp_path, state=tmp_path / "edge"),
    )


def judged(name: str, state: Condition) -> Judged:
    return Judged(name, name, state, NOW, NOW + 30 * DAY, NOW + 24 * DAY, "why", "next")


def rungs(found: Sequence[Stuck]) -> dict[str, Sequence[Rung]]:
    return {each.name: tuple(each.trouble.rungs) for each in found}


@pytest.mark.parametrize(
    ("name", "state", "expected"),
    [
        ("device-id", "overdue", MILD),
        ("device-id", "no longer auto-renewed", MILD),
        ("est-id", "overdue", MILD),
        ("est-id", "no longer auto-renewed", MILD),
        ("est-id", "expired", ("wait", "restart", "remove")),
        ("device-id", "expired", RUNGS),
        ("device-id", "missing", ("wait", "restart", "reprovision")),
        ("device-id", "key mismatch", ("wait", "remove")),
        ("aziot-edged-ca", "expired", ("wait", "restart", "remove")),
    ],
)
def test_nothing_is_risked_that_still_works(
    conf: Config, name: str, state: Condition, expected: Sequence[Rung]
) -> None:
    """A reprovision forgets who the device is, a removal what it shows."""
    found = stuck(conf, [judged(name, state)], {}, {})
    assert rungs(found) == {name: expected}


def test_a_service_that_fails_is_restarted_and_no_more(conf: Config) -> None:
    fresh = [judged("est-id", "fresh"), judged("device-id", "fresh")]
    found = stuck(conf, fresh, {"aziot-edged": FAILS}, {})
    assert rungs(found) == {"aziot-edged": MILD}


def test_who_is_nobody_is_reprovisioned_with_a_device_id_that_is_good(conf: Config) -> None:
    good: list[Condition] = ["fresh", "due", "overdue"]
    for state in good:
        found = stuck(conf, [judged("device-id", state)], {}, {}, nobody=True)
        assert rungs(found)["registration"] == ("wait", "reprovision")
    bad: list[Condition] = ["expired", "missing", "unreadable", "key mismatch"]
    for state in bad:
        found = stuck(conf, [judged("device-id", state)], {}, {}, nobody=True)
        assert list(rungs(found)) == ["device-id"]


def test_an_identity_service_that_does_not_start_asks_by_itself(conf: Config) -> None:
    unit = Unit("aziot-identityd", "activating", "auto-restart", "exit-code", 7, "")
    found = stuck(conf, [], {"aziot-identityd": unit}, {}, nobody=True)
    assert rungs(found) == {"aziot-identityd": MILD}


# --- the question that goes before ---


def asked(error: ServerBusy | EstRefused, times: int, ends: datetime) -> list[datetime]:
    """When a server was asked within so many hours, that said this each time."""
    kept: dict[str, object] = {}
    at: list[datetime] = []
    for hour in range(times):
        now = NOW + hour * HOUR
        if question.answered(kept, now) is None:
            at.append(now)
            kept = question.failed(error, kept, "device", now, ends)
    return at


def test_a_server_that_says_no_is_asked_less_and_less_often() -> None:
    at = asked(EstRefused("no", host="est.test"), 7 * 24, NOW + 90 * DAY)
    assert at[:2] == [NOW, NOW + 2 * HOUR] or at[:2] == [NOW, NOW + HOUR]
    assert 25 <= len(at) <= 40  # every 6 hours in the end


def test_a_server_that_says_when_is_asked_then() -> None:
    busy = ServerBusy("busy", seconds=2 * 24 * 3600, host="est.test")
    assert asked(busy, 5 * 24, NOW + 90 * DAY) == [NOW, NOW + 2 * DAY, NOW + 4 * DAY]
    soon = asked(ServerBusy("busy", seconds=0, host="est.test"), 24, NOW + 90 * DAY)
    assert len(soon) <= 7  # at once is not what we believe of a server that is busy


def test_nobody_s_word_outlives_the_certificate() -> None:
    busy = ServerBusy("busy", seconds=7 * 24 * 3600, host="est.test")
    at = asked(busy, 96, NOW + 4 * DAY)
    assert at[:2] == [NOW, NOW + 2 * DAY]
    assert len(at) >= 5


def test_what_was_said_counts_until_it_is_asked_again() -> None:
    kept = question.failed(EstRefused("no", host="est.test"), {}, "device", NOW, None)
    said = question.answered(kept, NOW + timedelta(minutes=30))
    assert isinstance(said, EstRefused)
    assert str(said).startswith("no; asked again from 2027-01-01 0")


@pytest.mark.parametrize("damage", [{"code": "?"}, {"fields": 7}, {"not_before": "soon"}])
def test_what_is_damaged_is_asked_anew(damage: dict[str, object]) -> None:
    kept = question.failed(EstRefused("no", host="est.test"), {}, "device", NOW, None)
    assert question.answered({**kept, **damage}, NOW) is None
    assert Backoff.of(kept).failures == 1


# --- what other programs say ---


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


SAID = "could not load 'pkcs11:token=edge;object=device-id?pin-value={0}&x=y', nor {0}"


def test_no_pin_is_passed_on_whoever_quotes_it(path: Path) -> None:
    pin = f"{random.getrandbits(64):x}"
    said = SAID.format(pin)
    line = f"Tried to renew device-id, but {said}. device-id will no longer be auto-renewed."
    program(path / "journalctl", f'cat <<"."\n{line}\n.')
    words = services.stopped_renewals(NOW, [pin])["device-id"]
    assert pin not in words
    assert "pin-value=***&x=y', nor ***. device-id will no longer" in words
    program(path / "systemctl", f'echo "{said}" >&2; exit 1')
    for act in (services.start, lambda pins: services.restart("aziot-certd", secrets=pins)):
        with pytest.raises(SystemctlFailed) as caught:
            act([pin])
        assert pin not in str(caught.value)


@pytest.mark.parametrize("after", ["&x=y", "'", '"', " ", ";slot=1", ""])
def test_a_pin_in_a_uri_is_known_without_being_known(after: str) -> None:
    said = aziot.words(f"bad pkcs11:token=edge?pin-value=12%3634{after}".encode())
    assert said == f"bad pkcs11:token=edge?pin-value=***{after}".strip()


@pytest.mark.parametrize("restarts", ["²", "٣", "-1", "9" * 5000, "many"])
def test_nonsense_of_systemctl_is_no_number(path: Path, restarts: str) -> None:
    said = f"Id=aziot-certd.service\nLoadState=loaded\nNRestarts={restarts}"
    program(path / "systemctl", f"cat <<.\n{said}\n.")
    assert services.states(["aziot-certd"])["aziot-certd"].restarts == 0


def test_a_flood_of_words_is_not_remembered(path: Path) -> None:
    program(path / "systemctl", "head -c 3000000 /dev/zero | tr '\\0' x; exit 1")
    with pytest.raises(SystemctlFailed, match=r"cannot run 'systemctl show': '\.\.\.x{497}'"):
        services.states(["aziot-certd"])
