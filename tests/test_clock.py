"""What time it is at least: by what servers say whose certificates are valid, and what is kept."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.clock import BEHIND, Bound, Times, Vouched, http_date
from agent.errors import ClockImplausible, TlsExpiredSince
from agent.http import Https
from tests.lab import pki
from tests.lab.hostile import Hostile, http, whole

DAY = timedelta(days=1)
HOST = "est.example"


@pytest.fixture
def times(tmp_path: Path) -> Times:
    return Times(tmp_path / "clock.json")


def now() -> datetime:
    return datetime.now(UTC)


def vouched(since: timedelta = -30 * DAY, until: timedelta = 400 * DAY) -> Vouched:
    return Vouched(now() + since, now() + until)


def dated(at: datetime) -> dict[str, str]:
    return {"Date": f"{at:%a, %d %b %Y %H:%M:%S} GMT"}


def near(bound: Bound | None, at: datetime) -> bool:
    return bound is not None and abs(bound.at - at) < timedelta(hours=1)


def test_nothing_is_known_before_a_server_has_said_anything(times: Times) -> None:
    assert times.floor is None


def test_what_a_server_says_is_kept_with_who_said_it(times: Times, tmp_path: Path) -> None:
    times.hear(HOST, dated(now()), vouched())
    kept = Times(tmp_path / "clock.json").floor
    assert near(kept, now())
    assert kept is not None
    assert kept.by == HOST


@pytest.mark.parametrize("ahead", [2 * DAY, 365 * DAY])
def test_a_clock_that_is_behind_a_server_is_wrong_and_nothing_is_kept(
    times: Times, ahead: timedelta
) -> None:
    with pytest.raises(ClockImplausible, match=rf"{now():%Y-%m-%d}.*{HOST}.*{now() + ahead:%Y-%m}"):
        times.hear(HOST, dated(now() + ahead), vouched())
    assert times.floor is None


def test_less_than_a_day_is_forgiven_and_never_more_is_kept_than_our_clock_says(
    times: Times,
) -> None:
    times.hear(HOST, dated(now() + BEHIND - timedelta(hours=1)), vouched())
    assert near(times.floor, now())


def test_nobody_is_believed_for_longer_than_his_certificates_are_valid(times: Times) -> None:
    times.hear(HOST, dated(now() + 3650 * DAY), vouched(until=timedelta(hours=5)))
    assert near(times.floor, now())


def test_a_server_that_is_behind_is_no_reason_to_doubt_our_clock(times: Times) -> None:
    times.hear(HOST, dated(now() - 3650 * DAY), vouched())
    assert near(times.floor, now() - 30 * DAY)  # when its certificate was issued


@pytest.mark.parametrize("headers", [{}, {"Date": ""}, {"Date": "soon"}, {"Date": "1 Jan 99999"}])
def test_without_a_date_that_makes_sense_its_certificate_tells(
    times: Times, headers: dict[str, str]
) -> None:
    times.hear(HOST, headers, vouched())
    assert near(times.floor, now() - 30 * DAY)
    times.hear(HOST, dated(now()), vouched())
    times.hear("another.example", headers, vouched())
    assert near(times.floor, now())


def test_a_wrong_time_is_taken_back_by_the_next_who_says_better(times: Times) -> None:
    times.put(Bound(now() + 200 * DAY, "wrong.example"))
    times.hear(HOST, dated(now()), vouched())
    assert near(times.floor, now())


def test_it_is_written_once_a_day_at_most(times: Times, tmp_path: Path) -> None:
    times.hear(HOST, dated(now()), vouched())
    before = (tmp_path / "clock.json").stat()
    times.hear(HOST, dated(now() + timedelta(hours=3)), vouched())
    assert (tmp_path / "clock.json").stat() == before


def test_who_only_looks_keeps_nothing(tmp_path: Path) -> None:
    Times(tmp_path / "clock.json", keep=False).hear(HOST, dated(now()), vouched())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"at": "2', '"at": "3'),
        lambda text: text.replace('"at": "2', '"at": "x'),
        lambda text: "[" * 100000,
        lambda text: '{"at": 7, "by": null}',
    ],
)
def test_a_damaged_file_is_none(times: Times, tmp_path: Path, damage: object) -> None:
    times.hear(HOST, dated(now()), vouched())
    file = tmp_path / "clock.json"
    file.write_text(damage(file.read_text()))  # type: ignore[operator]
    assert times.floor is None
    times.hear(HOST, dated(now()), vouched())
    assert near(times.floor, now())


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",  # RFC 9110, 5.6.7: this is to be sent
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ],
)
def test_all_forms_of_a_date_are_read(text: str) -> None:
    assert http_date(text) == datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)


# --- over TLS ---


@pytest.fixture
def short(tmp_path: Path) -> pki.Tls:
    """A server whose certificate is valid for ten more days."""
    return pki.authority("TLS CA").server(tmp_path / "tls", lasts=10 * DAY)


def asked(tls: pki.Tls, times: Times, at: datetime) -> None:
    """At a server that says that it is `at`."""
    with Hostile(tls, {"it": whole(http(200, b"ok", **dated(at)))}) as server:  # noqa: SIM117
        with Https(tls.trust, times=times) as https:
            https.request("GET", f"{server.url}/it")


def test_what_a_server_says_is_learnt_of_each_of_its_replies(short: pki.Tls, times: Times) -> None:
    asked(short, times, now())
    assert near(times.floor, now())
    with pytest.raises(ClockImplausible, match=r"and localhost:\d+, whose certificate is valid"):
        asked(short, times, now() + 5 * DAY)


def test_a_chain_that_has_ended_by_what_was_said_is_refused_whatever_the_clock_says(
    short: pki.Tls, times: Times
) -> None:
    times.put(Bound(now() + 11 * DAY, HOST))
    with pytest.raises(TlsExpiredSince, match=rf"but {HOST} has said that it is") as caught:
        asked(short, times, now())
    assert f"it was {HOST} that said a wrong time: rm /var/lib" in caught.value.remedy
    assert near(times.floor, now() + 11 * DAY)


def test_who_is_valid_even_then_may_take_it_back(short: pki.Tls, times: Times) -> None:
    times.put(Bound(now() + 9 * DAY, HOST))
    asked(short, times, now())
    assert near(times.floor, now())
