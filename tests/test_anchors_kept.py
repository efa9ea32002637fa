"""Whom a device trusts because a CA has named its successor: what is kept, and how far believed."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from agent import anchors, config, events
from tests.lab import pki
from tests.lab.rollover import DAY, NOW, YEAR, Ca, Place, offer, root


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


# --- what is kept ---


def test_an_accepted_anchor_counts_beside_the_configured_ones(
    place: Place, old: Ca, new: Ca
) -> None:
    assert place.learn(*offer(old, new)) == [new.own]
    assert place.trusted() == [old.own, new.own]
    assert place.file("est-ca.pem").read_bytes() == pki.pem(old.own)
    assert place.learn(*offer(old, new)) == []


def test_others_find_it_in_a_file_of_its_own_that_they_may_read(
    place: Place, old: Ca, new: Ca
) -> None:
    """IoT Edge's certificate service is another user, and would trust all that is in there."""
    assert anchors.files(place.operational, NOW) == (place.operational.configured,)
    place.learn(*offer(old, new))
    kept = place.file("anchors/operational.pem")
    assert anchors.files(place.operational, NOW) == (place.operational.configured, kept)
    assert kept.read_bytes() == pki.pem(new.own)
    assert kept.stat().st_mode & 0o777 == 0o644
    assert kept.parent.stat().st_mode & 0o777 == 0o755


def test_the_journal_says_whom_we_trust_from_now_on(
    place: Place, old: Ca, new: Ca, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        place.learn(*offer(old, new))
        place.learn(*offer(old, new))
    told = [vars(each) for each in caplog.records]
    assert [each["event"] for each in told] == [events.ANCHOR_ACCEPTED] * 2  # one for each file
    fields = {each["fields"]["setting"]: each["fields"] for each in told}
    assert fields.keys() == {"ldevid.est.trust", "operational.trust"}
    assert fields["operational.trust"]["subject"] == "CN=Root 2"
    assert fields["operational.trust"]["by"] == "CN=Root 1"
    assert fields["operational.trust"]["fingerprint"] == pki.fingerprint(new.own)


def test_who_issues_and_who_vouches_for_the_server_may_be_different(
    place: Place, old: Ca, new: Ca
) -> None:
    issuing = root("Issuing root")
    place.file("issuer.pem").write_bytes(pki.pem(issuing.own))
    est = config.LdevidEst(
        url=place.url, trust=place.file("est-ca.pem"), issuer=place.file("issuer.pem")
    )
    conf = config.Config(dps=config.Dps(id_scope="0ne"), ldevid=config.Ldevid(est=est))
    anchors.learn(conf, place.state, offer(old, new), NOW)
    assert new.own in anchors.effective(anchors.tls(est, place.state), NOW)
    assert anchors.effective(anchors.issuance(est, place.state), NOW) == [issuing.own]


def test_the_new_root_outlives_the_old_one(place: Place, old: Ca, new: Ca) -> None:
    place.learn(*offer(old, new))
    later = NOW + 2 * YEAR
    assert later > old.own.not_valid_after_utc
    assert place.trusted(later) == [old.own, new.own]
    assert anchors.lines(place.est, later) == [new.own]
    third = root("Root 3", ends=NOW + 30 * YEAR)
    by_new = new.vouches(third, ends=NOW + 5 * YEAR)
    assert place.learn(third.own, by_new, now=later) == [third.own]
    assert third.own in place.trusted(NOW + 20 * YEAR)


def test_an_accepted_anchor_that_expired_is_dropped_but_not_what_came_after_it(
    place: Place, old: Ca, new: Ca
) -> None:
    place.learn(*offer(old, new))
    third = root("Root 3", ends=NOW + 30 * YEAR)
    place.learn(third.own, new.vouches(third))
    later = NOW + 20 * YEAR
    assert place.trusted(later) == [old.own, third.own]
    anchors.settle(place.operational, later)
    assert place.file("anchors/operational.pem").read_bytes() == pki.pem(third.own)
    anchors.settle(place.operational, NOW)  # the clock was wrong
    assert place.file("anchors/operational.pem").read_bytes() == pki.pem(new.own, third.own)


def test_another_file_of_the_administrators_ends_what_followed_from_the_first(
    place: Place, old: Ca, new: Ca
) -> None:
    place.learn(*offer(old, new))
    other = root("Another")
    place.configure(other.own)
    assert place.trusted() == [other.own]
    assert anchors.files(place.operational, NOW) == (place.operational.configured,)
    assert not anchors.settled(place.operational, NOW)
    anchors.settle(place.operational, NOW)
    assert not place.file("anchors/operational.pem").exists()
    place.configure(old.own)
    assert place.trusted() == [old.own, new.own]


def test_what_she_configures_herself_need_not_be_kept(place: Place, old: Ca, new: Ca) -> None:
    place.learn(*offer(old, new))
    place.configure(new.own)
    assert place.trusted() == [new.own]
    assert anchors.files(place.operational, NOW) == (place.operational.configured,)


def test_a_file_that_cannot_be_read_is_told_and_the_others_learn(
    place: Place, old: Ca, new: Ca, caplog: pytest.LogCaptureFixture
) -> None:
    place.file("operational-ca.pem").write_text("no certificate")
    assert place.learn(*offer(old, new)) == [new.own]
    assert "operational.trust: cannot read the CA file" in caplog.text
    looked = {name: found for name, _, found in anchors.in_force(place.conf, place.state)}
    assert looked == {"ldevid.est.trust": [new.own], "operational.trust": []}
    place.file("operational-ca.pem").unlink()
    assert anchors.in_force(place.conf, place.state)[1][2] is None


def test_a_ca_that_makes_new_roots_all_the_time_does_not_fill_the_disk(
    place: Place, old: Ca, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(3):
        roots = [root(f"Root {n} {i}") for i in range(12)]
        place.learn(*[c for r in roots for c in (r.own, old.vouches(r))])
    assert len(place.trusted()) == 1 + anchors.MOST
    assert f"more than {anchors.MOST}" in caplog.text


def test_who_names_many_does_not_keep_the_true_successor_out(place: Place, old: Ca) -> None:
    one, true = root("Root 2"), root("Root 3", ends=NOW + 30 * YEAR)
    place.learn(one.own, old.vouches(one))
    for _ in "123":
        junk = [root(f"Junk {i}") for i in range(12)]
        place.learn(*[c for j in junk for c in (j.own, one.vouches(j))])
    assert place.learn(true.own, old.vouches(true)) == [true.own]
    assert {true.own, one.own} <= {*place.trusted()}
    assert len(place.trusted()) == 1 + anchors.MOST


def test_the_expired_make_room(place: Place, old: Ca) -> None:
    past = [root(f"Root {n}", ends=NOW + YEAR / 2) for n in range(anchors.MOST)]
    for some in (past[:16], past[16:]):
        place.learn(*[c for r in some for c in (r.own, old.vouches(r))])
    new = root("Root 99")
    later = NOW + 200 * DAY
    assert place.learn(new.own, old.vouches(new), now=later) == [new.own]
    assert place.trusted(later) == [old.own, new.own]


# --- what others put there ---


def test_a_stray_certificate_is_not_trusted_and_goes_away(place: Place, new: Ca) -> None:
    place.file("anchors").mkdir()
    stray = place.file("anchors/operational.pem")
    stray.write_bytes(pki.pem(new.own))
    assert anchors.effective(place.operational, NOW) == anchors.effective(place.est, NOW)
    assert anchors.files(place.operational, NOW) == (place.operational.configured,)
    anchors.settle(place.operational, NOW)
    assert not stray.exists()


def _of_another(kept: dict[str, Any], evil: Ca) -> None:
    kept["accepted"][0]["anchor"] = pki.pem(evil.own).decode()


def _by_itself(kept: dict[str, Any], evil: Ca) -> None:
    kept["accepted"][0]["anchor"] = pki.pem(evil.own).decode()
    kept["accepted"][0]["path"] = [pki.pem(evil.own).decode()] * 2


def _long_ago(kept: dict[str, Any], _: Ca) -> None:
    kept["accepted"][0]["at"] = "1999-01-01T00:00:00+00:00"


def _without_a_zone(kept: dict[str, Any], _: Ca) -> None:
    kept["accepted"][0]["at"] = "2026-01-01T00:00:00"


def _of_another_shape(kept: dict[str, Any], _: Ca) -> None:
    kept["accepted"] = [None, 1, {}, {"at": 1, "anchor": [], "path": "x"}, *[[]] * 99]


def _of_no_shape(kept: dict[str, Any], _: Ca) -> None:
    kept["accepted"] = "all"


@pytest.mark.parametrize(
    "change",
    [_of_another, _by_itself, _long_ago, _without_a_zone, _of_another_shape, _of_no_shape],
    ids=lambda change: change.__name__.strip("_").replace("_", " "),
)
def test_proofs_that_were_tampered_with_prove_nothing(
    place: Place, old: Ca, new: Ca, change: Any
) -> None:
    place.learn(*offer(old, new))
    file = place.file("anchors/est-tls.json")
    kept = json.loads(file.read_bytes())
    change(kept, root("Root 2"))
    file.write_text(json.dumps(kept))
    assert place.trusted() == [old.own]
    assert place.learn(*offer(old, new)) == [new.own]  # and it is offered again


def test_a_damaged_file_of_proofs_is_as_none(place: Place, old: Ca, new: Ca) -> None:
    place.learn(*offer(old, new))
    place.file("anchors/est-tls.json").write_bytes(b"\0\xff")
    assert place.trusted() == [old.own]
