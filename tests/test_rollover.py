"""A CA changes its key while devices are out there: who is asked for the new one, and when."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import Certificate

from agent import anchors, config
from agent.errors import TlsDates, TlsUntrusted
from agent.health import rollover
from agent.http import Https
from agent.tpm import Tpm
from tests.lab import pki
from tests.lab.hostile import Hostile, certs, http, whole
from tests.lab.rollover import DAY, NOW, YEAR, Ca, Place, offer, root

SEED = b"device-1"
NO_TPM = Tpm("device:/dev/null")


@pytest.fixture(scope="module")
def old() -> Ca:
    return root("Root 1")


@pytest.fixture(scope="module")
def new() -> Ca:
    return root("Root 2", ends=NOW + 9 * YEAR)


@pytest.fixture
def place(tmp_path: Path, old: Ca) -> Place:
    place = Place(tmp_path)
    place.configure(old.own)
    return place


# --- servers ---


@contextmanager
def below(ca: Ca, directory: Path, *cacerts: Certificate, **ways: Any) -> Iterator[Hostile]:
    """An EST server whose own certificate is of this CA."""
    tls = pki.Authority(ca.key, (ca.own,)).server(directory / "tls")
    with Hostile(tls, {"cacerts": whole(certs(*(cacerts or [ca.own]))), **ways}) as server:
        yield server


@pytest.mark.parametrize("title", ["Root 2", "Root 1"])
@pytest.mark.parametrize("ended", [False, True])
def test_a_server_below_the_new_root_is_talked_to(place: Place, *, title: str, ended: bool) -> None:
    """Whether the CA keeps its name or takes another, and whether the old root still lives."""
    old = root("Root 1", ends=NOW - DAY if ended else NOW + DAY)
    new = root(title, ends=NOW + 9 * YEAR)
    place.configure(old.own)
    with below(new, place.directory) as server:
        with Https(place.est.configured) as https, pytest.raises((TlsUntrusted, TlsDates)):
            https.request("GET", f"{server.url}/cacerts")
        place.learn(*offer(old, new), now=NOW - 2 * DAY)
        more = anchors.successors(place.est, NOW)
        with Https(place.est.configured, more=more) as https:
            assert https.request("GET", f"{server.url}/cacerts").status == 200


def follow(place: Place, asked: dict[str, float], **more: Any) -> Sequence[str]:
    return rollover.follow(NO_TPM, place.conf, place.state, asked, NOW, SEED, **more)


def test_no_server_is_asked_before_an_anchor_nears_its_end(place: Place) -> None:
    young = root("Young", starts=NOW - YEAR, ends=NOW + 9 * YEAR)
    place.configure(young.own)
    asked: dict[str, float] = {}
    assert follow(place, asked) == []
    assert asked == {}


def test_a_server_is_asked_when_an_anchor_nears_its_end(place: Place, new: Ca) -> None:
    old = root("Root 1", starts=NOW - 9 * YEAR, ends=NOW + YEAR)
    place.configure(old.own)
    with below(old, place.directory, *offer(old, new)) as server:
        here, asked = Place(place.directory, server.url), dict[str, float]()
        said = follow(here, asked)
        assert len(server.requests) == 1
        assert asked == {server.url: NOW.timestamp()}
        assert follow(here, asked) == []
    assert re.search(r"'CN=Root 1' \(.*\) ends", said[0])
    assert "'CN=Root 2' is trusted from now on (operational.trust)" in said
    assert anchors.lines(here.est, NOW) == [new.own]


def test_who_does_not_become_trusted_is_told_with_the_reason(place: Place, new: Ca) -> None:
    old = root("Root 1", starts=NOW - 9 * YEAR, ends=NOW + YEAR)
    place.configure(old.own)
    with below(old, place.directory, old.own, new.own) as server:
        said = follow(Place(place.directory, server.url), {})
    assert any("'CN=Root 2' does not become trusted" in line for line in said)


def test_a_server_that_was_not_trusted_is_asked_once_a_day(place: Place, old: Ca) -> None:
    young = root("Young", starts=NOW - YEAR, ends=NOW + 9 * YEAR)
    place.configure(young.own)
    with below(old, place.directory) as server:
        here, asked = Place(place.directory, server.url), dict[str, float]()
        said = follow(here, asked, untrusted=[server.url])
        assert len(said) == 1
        assert "cannot trust localhost" in said[0]
        assert follow(here, asked, untrusted=[server.url]) == []
        asked[server.url] -= DAY.total_seconds()
        assert len(follow(here, asked, untrusted=[server.url])) == 1


def test_where_a_server_insists_on_a_login_it_gets_one(place: Place, tpm: Tpm, new: Ca) -> None:
    old = root("Root 1", starts=NOW - 9 * YEAR, ends=NOW + YEAR)
    place.configure(old.own)
    pki.write_private(place.file("password"), b"sesame")
    ways = {"cacerts": [whole(http(401)), whole(http(401)), whole(certs(*offer(old, new)))]}
    with below(old, place.directory, **ways) as server:
        est = config.LdevidEst(
            url=server.url,
            trust=place.file("est-ca.pem"),
            auth="basic",
            username="device",
            password_file=place.file("password"),
        )
        conf = config.Config(dps=config.Dps(id_scope="0ne"), ldevid=config.Ldevid(est=est))
        rollover.follow(tpm, conf, place.state, {}, NOW, SEED)
        logins = ["authorization" in each.headers for each in server.requests]
    assert logins == [False, False, True]
    assert anchors.lines(anchors.tls(est, place.state), NOW) == [new.own]


# --- when ---


def times(anchor: Certificate, seed: bytes) -> list[datetime]:
    """All moments at which a device asks, whose server never has anything new."""
    found = list[datetime]()
    while when := rollover.next_time(anchor, found[-1] if found else None, seed):
        found.append(when)
    return found


def test_it_is_asked_more_often_the_nearer_the_end_and_never_after_it() -> None:
    anchor = root("Root", starts=NOW, ends=NOW + 10 * YEAR).own
    asked = times(anchor, SEED)
    pauses = [b - a for a, b in pairwise(asked)]
    assert asked[0] >= NOW + 7 * YEAR
    assert asked[-1] <= anchor.not_valid_after_utc
    assert pauses == sorted(pauses, reverse=True)
    assert min(pauses) >= DAY
    assert max(pauses) <= timedelta(days=33)
    assert len(asked) < 250


def test_a_fleet_with_one_root_does_not_ask_at_the_same_time() -> None:
    anchor = root("Root", starts=NOW, ends=NOW + 10 * YEAR).own
    begin = NOW + 7 * YEAR
    days = [0] * 30
    for n in range(3000):
        first = rollover.next_time(anchor, None, str(n).encode())
        assert first is not None
        days[(first - begin).days] += 1
    assert min(days) > 50
    assert max(days) < 160


def test_a_clock_that_was_ahead_does_not_keep_it_from_asking(place: Place, new: Ca) -> None:
    old = root("Root 1", starts=NOW - 9 * YEAR, ends=NOW + YEAR)
    place.configure(old.own)
    asked = {place.url: (NOW + 50 * YEAR).timestamp()}
    assert place.url in rollover.due(place.conf, place.state, asked, NOW, SEED)
    asked = {place.url: NOW.timestamp()}
    assert rollover.due(place.conf, place.state, asked, NOW, SEED) == {}
    assert rollover.due(place.conf, place.state, {}, NOW + 2 * YEAR, SEED) == {}
