"""What state a certificate is in: every state, at its very edges, and the worst that is true."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509 import Certificate
from cryptography.x509.oid import ExtensionOID

from agent.health.judge import CONDITIONS, US, Found, Window, judge, window, window_of_certd
from tests.lab import pki
from tests.lab.dated import DAY, END, FOREVER, KEY, START, Ca

SECOND, TICK = timedelta(seconds=1), timedelta(microseconds=1)
OTHER_KEY = pki.new_key()
SEED = b"device-4"


CA, STRANGER = Ca("Devices"), Ca("Strangers")
LEAF = CA.issue()
WINDOW = Window(START + 70 * DAY, START + 85 * DAY, END, "70 % of its lifetime")


def found(*chain: Certificate, **more: Any) -> Found:
    """A certificate with its key, issued by who may, and renewed by this companion."""
    usual = Found(
        name="ldevid",
        what="logs in at the owner's servers",
        path=Path("/var/lib/tpm2cloud/ldevid.pem"),
        chain=chain or (LEAF,),
        key=KEY.public_key(),
        has_key=True,
        window=WINDOW,
        roots=[CA.certificate],
    )
    return replace(usual, **more)


def state(it: Found, now: datetime) -> str:
    return judge(it, now).state


def damaged(old: bytes, new: bytes) -> Certificate:
    der = pki.der(LEAF)
    assert old in der
    return x509.load_der_x509_certificate(der.replace(old, new))


# --- the states, and their edges -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (START - timedelta(minutes=10) - TICK, "not yet valid"),
        (START - timedelta(minutes=10), "fresh"),  # a CA's clock may be ahead of ours
        (START, "fresh"),
        (WINDOW.start - TICK, "fresh"),
        (WINDOW.start, "due"),
        (WINDOW.late - TICK, "due"),
        (WINDOW.late, "overdue"),
        (END, "overdue"),  # RFC 5280: valid through notAfter
        (END + TICK, "expired"),
    ],
)
def test_a_life_from_before_its_beginning_to_its_end(now: datetime, expected: str) -> None:
    assert state(found(), now) == expected


def test_the_worst_that_is_true_comes_first() -> None:
    """Everything that can be wrong is, and is put right, the worst first."""
    bad = found(has_key=False, roots=[STRANGER.certificate], stopped="no longer auto-renewed")
    early, late = START - DAY, WINDOW.late
    own_key = replace(bad, has_key=True)
    trusted = replace(own_key, roots=[CA.certificate])
    steps = [
        state(replace(bad, chain=()), early),
        state(replace(bad, chain=None), early),
        state(bad, early),
        state(own_key, early),
        state(own_key, END + DAY),
        state(own_key, late),
        state(trusted, late),
        state(replace(trusted, stopped=""), late),
        state(replace(trusted, stopped=""), WINDOW.start),
        state(replace(trusted, stopped=""), START),
    ]
    assert tuple(steps) == CONDITIONS


def test_a_key_that_is_another_is_a_mismatch_and_one_nobody_looked_at_is_none() -> None:
    assert state(found(key=OTHER_KEY.public_key()), START) == "key mismatch"
    assert state(found(key=pki.new_key("rsa2048").public_key()), START) == "key mismatch"
    assert state(found(key=None), START) == "fresh"
    assert state(found(key=None, has_key=False), START) == "key mismatch"


NONSENSE = x509.UnrecognizedExtension(ExtensionOID.BASIC_CONSTRAINTS, b"\x04\x01x")
P256, UNKNOWN = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030177")


@pytest.mark.parametrize("leaf", [CA.issue(extra=NONSENSE), damaged(P256, UNKNOWN)])
def test_what_can_be_read_but_makes_no_sense_is_unreadable(leaf: Certificate) -> None:
    told = judge(found(leaf), START)
    assert told.state == "unreadable"
    assert told.why.startswith("the certificate in '/var/lib/tpm2cloud/ldevid.pem' makes no sense")
    assert (told.not_before, told.not_after, told.threshold) == (None, None, None)


def test_a_kind_of_key_that_nobody_asks_for_is_nobodys_concern() -> None:
    assert state(found(damaged(P256, UNKNOWN), key=None, roots=None), START) == "fresh"


@pytest.mark.parametrize("now", [START - DAY, START, START + DAY, END, END + DAY])
def test_what_ends_before_it_begins_never_was_and_never_will_be_valid(now: datetime) -> None:
    dates = b"260101000000Z", b"260411000000Z"
    swapped = damaged(b"\x17\r".join(dates), b"\x17\r".join(reversed(dates)))
    assert state(found(swapped), now) == "expired"
    assert judge(found(swapped), now).why.startswith("it never is valid: from 2026-04-11 00:00Z")
    assert state(found(CA.issue(end=START)), now) == "expired"


# --- who issued it -------------------------------------------------------------------------------


@pytest.mark.parametrize("roots", [[], [STRANGER.certificate]])
def test_an_issuer_that_nobody_trusts(roots: Sequence[Certificate]) -> None:
    told = judge(found(roots=roots), START + DAY)
    assert told.state == "untrusted issuer"
    assert "trust" in told.why


def test_no_roots_no_question() -> None:
    assert state(found(roots=None), START) == "fresh"


def test_the_chain_in_the_file_leads_to_the_root() -> None:
    below = Ca("Plant 1", CA)
    leaf = below.issue()
    assert state(found(leaf, below.certificate), START) == "fresh"
    assert state(found(leaf), START) == "untrusted issuer"
    assert state(found(leaf, STRANGER.certificate), START) == "untrusted issuer"


def test_a_ca_that_expired_takes_along_what_it_issued() -> None:
    below = Ca("Plant 1", CA, until=START + DAY)
    chain = below.issue(), below.certificate
    assert state(found(*chain), START + DAY) == "fresh"
    told = judge(found(*chain), START + DAY + SECOND)
    assert told.state == "untrusted issuer"
    assert "not valid at validation time" in told.why


def test_a_ca_for_modules_is_judged_like_any_certificate() -> None:
    edge = CA.issue(ca=True)
    assert state(found(edge), START) == "fresh"
    assert state(found(edge, roots=[STRANGER.certificate]), START) == "untrusted issuer"


def test_a_certificate_from_a_clock_ahead_is_trusted_as_of_its_first_moment() -> None:
    assert state(found(), START - timedelta(minutes=9)) == "fresh"


# --- who renews it, when, and what is said -------------------------------------------------------


def test_nobody_renews_what_has_no_window() -> None:
    forever = CA.issue(end=FOREVER)
    told = judge(found(forever, window=None), START + 3000 * 365 * DAY)
    assert (told.state, told.threshold, told.by) == ("fresh", None, "")
    assert told.why == "valid without end"
    assert told.next == "nothing renews it: it has no end"
    told = judge(found(window=None), END)
    assert (told.state, told.why) == ("fresh", "valid until 2026-04-11 00:00Z")
    assert told.next == "nothing renews it: a person has to, before its end"


@pytest.mark.parametrize("now", [START, WINDOW.start, WINDOW.late])
def test_a_service_that_gave_up_is_told_in_its_own_words(now: datetime) -> None:
    words = "cert est-id will no longer be auto-renewed"
    told = judge(found(window=replace(WINDOW, by="aziot-certd"), stopped=words), now)
    assert told.state == "no longer auto-renewed"
    assert told.why == f"aziot-certd says: {words}"
    assert told.next.startswith("this companion steps in for aziot-certd")


STATES: dict[str, tuple[dict[str, Any], datetime]] = {
    "unreadable": ({"chain": ()}, START),
    "missing": ({"chain": None}, START),
    "key mismatch": ({"has_key": False}, START),
    "not yet valid": ({}, START - DAY),
    "expired": ({}, END + DAY),
    "untrusted issuer": ({"roots": []}, START),
    "no longer auto-renewed": ({"stopped": "it is over"}, START),
    "overdue": ({}, WINDOW.late),
    "due": ({}, WINDOW.start),
    "fresh": ({}, START),
}


@pytest.mark.parametrize("expected", CONDITIONS)
@pytest.mark.parametrize("by", [US, "aziot-certd", ""])
def test_each_state_has_a_reason_and_a_future(expected: str, by: str) -> None:
    more, now = STATES[expected]
    told = judge(replace(found(), window=replace(WINDOW, by=by), **more), now)
    assert told.state == expected
    assert told.why
    if expected != "not yet valid":
        assert (
            told.next.startswith("nothing renews it: a person has to")
            if not by
            else by in told.next
        )
    assert by == told.by


@pytest.mark.parametrize("expected", sorted(set(CONDITIONS) - {"due", "overdue", "fresh"}))
def test_what_a_device_works_without_needs_nobody(expected: str) -> None:
    more, now = STATES[expected]
    told = judge(replace(found(), window=None, needed=False, **more), now)
    assert not told.needed
    assert told.next.startswith("nothing: ")


def test_what_a_service_gets_when_it_wants_it_is_missed_by_nobody() -> None:
    told = judge(found(chain=None, window=None, needed=False, by="aziot-certd"), START)
    assert (told.state, told.next) == ("missing", "got by aziot-certd when it is wanted")


def test_who_gets_a_lost_certificate_anew_is_told_without_a_window() -> None:
    told = judge(found(chain=None, window=None, by=US), START)
    assert told.next == "got anew, as ldevid.recover allows, by this companion"
    assert told.why == "there is no '/var/lib/tpm2cloud/ldevid.pem'"


def test_dates_thresholds_and_who_made_them_are_in_the_words() -> None:
    its = window(LEAF, 0.7, 0.1, SEED)
    told = judge(found(window=its), its.start)
    since = "2026-03-16 02:48Z: 70 % of its lifetime and 4.1 % for this device"
    assert told.why == f"due since {since}"
    assert told.next == "renewed by this companion"
    assert (told.not_before, told.not_after, told.threshold) == (START, END, its.start)
    told = judge(found(window=its), START)
    assert told.why == f"valid until 2026-04-11 00:00Z; due from {since}"
    assert told.next == "renewed by this companion from 2026-03-16 02:48Z on"
    told = judge(found(window=its), its.late)
    assert told.why.startswith(f"due since {since}; late since 2026-03-29 01:24Z; valid until ")
    its = window_of_certd(LEAF, "30day", "1day")
    assert judge(found(window=its), START).why.endswith(
        "from 2026-03-12 00:00Z: 30 days before its end"
    )


# --- time zones ----------------------------------------------------------------------------------


def test_a_moment_is_a_moment_wherever_it_is_told() -> None:
    east = timezone(timedelta(hours=14))
    assert judge(found(), WINDOW.start.astimezone(east)) == judge(found(), WINDOW.start)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(TypeError):
        judge(found(), START.replace(tzinfo=None))


def test_where_no_way_is_allowed_to_get_it_back_a_person_is_named() -> None:
    more, now = STATES["expired"]
    lost = replace(found(), window=WINDOW, **more)
    assert judge(replace(lost, by=US), now).next.startswith("got anew, as ldevid.recover allows")
    assert judge(lost, now).next.endswith("a person has to get a new one")
