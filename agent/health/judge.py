"""What state a certificate is in, by what was found of it; pure: no clock, no file, no network.

Times are aware UTC datetimes: a naive `now` is refused by datetime itself (TypeError). States, the
worst first; a certificate is in the first one that is true of it:

    unreadable              there is a file, but no certificate in it that makes sense
    missing                 there is no file
    key mismatch            its key is not there, or the key that is there is another
    not yet valid           and will be; 10 minutes are forgiven: a CA's clock may be ahead of ours
    expired                 or it never is valid: it ends before it begins
    untrusted issuer        no chain to who is trusted to issue it, or a CA in it has expired
    no longer auto-renewed  who should renew it has given up, as it says itself
    overdue                 it should have been renewed long ago
    due                     its time to be renewed has come
    fresh
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509 import Certificate

from agent import x509
from agent.backoff import jitter

Condition = Literal[
    "unreadable",
    "missing",
    "key mismatch",
    "not yet valid",
    "expired",
    "untrusted issuer",
    "no longer auto-renewed",
    "overdue",
    "due",
    "fresh",
]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
US = "this companion"
NO_END = 9999  # the year of a notAfter that means none (RFC 5280, 4.1.2.5)

_POLICY = re.compile("([0-9]+)(%|min|day)")
_UNITS = {"min": timedelta(minutes=1), "day": timedelta(days=1)}


@dataclass(frozen=True)
class Window:
    """A certificate is to be renewed from `start` on, and should have been at `late`; at `end` it
    expires. `words`: what made `start` what it is. `by`: who renews it."""

    start: datetime
    late: datetime
    end: datetime
    words: str
    by: str = US


@dataclass(frozen=True)
class Found:
    """What there is of a certificate.

    `name`: as the user calls it; `what`: what it is good for. `chain`: leaf first; None: there is
    no file; empty: nothing in it can be read. `key`: the public key that is there for it; None: not
    looked at. `has_key`: False if there is none where it should be. `window`: None: nobody renews
    it, or it cannot be told when. `roots`: who is trusted to issue it; None: not to be checked.
    `stopped`: the words in which who should renew it said that it no longer does. `needed`: False
    if this device works without it, or it is got when it is wanted. `by`: who gets it anew if there
    is no window; '': nobody. `fixed`: DPS knows this one alone, so renew_at is "never".
    """

    name: str
    what: str
    path: Path
    chain: Sequence[Certificate] | None
    key: CertificatePublicKeyTypes | None
    has_key: bool
    window: Window | None
    roots: Sequence[Certificate] | None
    stopped: str = ""
    needed: bool = True
    by: str = ""
    fixed: bool = False

    @property
    def renewer(self) -> str:
        """'' if nobody renews it."""
        return self.window.by if self.window else self.by


@dataclass(frozen=True)
class Judged:
    """`threshold`: from when on it is renewed. `why`: what makes the state, with dates; `next`:
    what will happen. `needed` and `by` as of `Found`."""

    name: str
    what: str
    state: Condition
    not_before: datetime | None
    not_after: datetime | None
    threshold: datetime | None
    why: str
    next: str
    needed: bool = True
    by: str = ""


# --- when it is renewed ---


def window(certificate: Certificate, share: float, spread: float, seed: bytes) -> Window:
    """The LDevID's: from `share` of its lifetime on, and up to `spread` of it later, as the `seed`
    of this device says; late is halfway from there to the end."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    own = spread * jitter(seed)
    begin = min(start + max(end - start, timedelta()) * min(share + own, 1), end)
    words = f"{_percent(share)} of its lifetime and {_percent(own)} for this device"
    return Window(begin, begin + (end - begin) / 2, end, words)


def window_of_certd(
    certificate: Certificate, threshold: str, retry: str, by: str = "aziot-certd"
) -> Window:
    """As cert-renewal of iot-identity-service has it: `threshold` "80%" of the lifetime, or "90day"
    or "30min" before the end; `retry` likewise. Late is after a second retry. Raises ValueError."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    life = max(end - start, timedelta())
    if threshold.endswith("%"):
        begin, words = start + _span(threshold, life), "of its lifetime"
    else:
        begin, words = end - min(_span(threshold, life), life), "before its end"
    begin = min(begin, end)
    patience = min(2 * max(_span(retry, life), timedelta(seconds=1)), end - begin)
    return Window(begin, begin + patience, end, f"{_in_words(threshold)} {words}", by)


def _span(policy: str, life: timedelta) -> timedelta:
    number, unit = _parsed(policy)
    return life * number / 100 if unit == "%" else _UNITS[unit] * min(number, 10**7)


def _in_words(policy: str) -> str:
    number, unit = _parsed(policy)
    return f"{number} {unit}{'s' if unit != '%' and number > 1 else ''}"


def _parsed(policy: str) -> tuple[int, str]:
    found = _POLICY.fullmatch(policy)
    if not found or int(found[1]) < 1 or (found[2] == "%" and int(found[1]) > 99):
        raise ValueError(f"'1%' to '99%', '<n>min' or '<n>day' is meant, not {policy!r}")
    return int(found[1]), found[2]


def _percent(share: float) -> str:
    return f"{round(100 * share, 1):g} %"


# --- what state it is in ---


def judge(found: Found, now: datetime) -> Judged:
    """The first of the states that is true, and what comes of it."""
    state, why = _state(found, now)
    leaf = found.chain[0] if found.chain and state != "unreadable" else None
    return Judged(
        name=found.name,
        what=found.what,
        state=state,
        not_before=leaf.not_valid_before_utc if leaf else None,
        not_after=leaf.not_valid_after_utc if leaf else None,
        threshold=found.window.start if leaf and found.window else None,
        why=why,
        next=_next(found, state),
        needed=found.needed,
        by=found.renewer,
    )


def _state(found: Found, now: datetime) -> tuple[Condition, str]:
    if found.chain is None:
        return "missing", f"there is no '{found.path}'"
    if not found.chain:
        return "unreadable", f"there is no certificate in '{found.path}' that can be read"
    leaf = found.chain[0]
    try:
        _ = leaf.subject, leaf.issuer, leaf.extensions
        odd = of_key(found, leaf)
    except x509.NONSENSE as e:
        return "unreadable", f"the certificate in '{found.path}' makes no sense: {e}"
    return odd or _of_dates(leaf, now) or _of_issuer(found, leaf, now) or _of_renewal(found, now)


def of_key(found: Found, leaf: Certificate) -> tuple[Condition, str] | None:
    """None: they belong together, as far as can be told."""
    if not found.has_key:
        return "key mismatch", "its key is not where it should be"
    if found.key is not None and x509.spki(found.key) != x509.spki(leaf.public_key()):
        return "key mismatch", "the key that is there is not the one that it was issued for"
    return None


def _of_dates(leaf: Certificate, now: datetime) -> tuple[Condition, str] | None:
    """RFC 5280, 4.1.2.5: both ends belong to it."""
    start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if start >= end:
        return "expired", f"it never is valid: from {_at(start)} until {_at(end)}"
    if start > now + x509.SKEW:
        return "not yet valid", f"valid from {_at(start)}"
    if end < now:
        return "expired", f"since {_at(end)}"
    return None


def _of_issuer(found: Found, leaf: Certificate, now: datetime) -> tuple[Condition, str] | None:
    if found.roots is None:
        return None
    try:
        at = max(now, leaf.not_valid_before_utc)
        x509.chain(leaf, found.roots, (found.chain or [])[1:], at)
    except (x509.Untrusted, *x509.NONSENSE) as e:
        return "untrusted issuer", str(e)
    return None


def _of_renewal(found: Found, now: datetime) -> tuple[Condition, str]:
    """Of a certificate that is good today."""
    window = found.window
    if found.stopped:
        return "no longer auto-renewed", f"{found.renewer or 'a service'} says: {found.stopped}"
    if window is None:
        return "fresh", _until(found)
    since = f"{_at(window.start)}: {window.words}"
    if now >= window.late:
        return "overdue", f"due since {since}; late since {_at(window.late)}; {_until(found)}"
    if now >= window.start:
        return "due", f"due since {since}"
    return "fresh", f"{_until(found)}; due from {since}"


def _until(found: Found) -> str:
    end = found.chain[0].not_valid_after_utc if found.chain else None
    return "valid without end" if end is None or end.year == NO_END else f"valid until {_at(end)}"


# --- and what comes of it ---

_ENROLMENT = "a new certificate needs the enrolment at DPS to be changed"
_NOBODY: dict[Condition, str] = {
    "missing": "a person has to put it there",
    "unreadable": "a person has to put it there anew",
    "key mismatch": "a person has to find its key, or a certificate for the key that is there",
    "expired": "a person has to get a new one",
    "untrusted issuer": "a person has to see who issued it, and whom the configuration trusts",
}


def _next(found: Found, state: Condition) -> str:
    if state == "not yet valid":
        return "nothing: it becomes valid by itself, if the clock of this device is right"
    if not found.renewer:
        return _unrenewed(found, state)
    if state == "fresh" and found.window:
        return f"renewed by {found.renewer} from {_at(found.window.start)} on"
    if state in ("fresh", "due"):
        return f"renewed by {found.renewer}"
    if state == "missing" and not found.needed:
        return f"got by {found.renewer} when it is wanted"
    if found.renewer == US:
        return _by_us(found, state)
    return f"{US} steps in for {found.renewer}, as often as health.interventions allows"


def _by_us(found: Found, state: Condition) -> str:
    if state == "overdue":
        return f"tried again by {US}"
    if found.by:
        return f"got anew, as ldevid.recover allows, by {US}"
    person = _NOBODY.get(state, "a person has to")
    return f"not got back by {US}, for ldevid.recover is empty: {person}"


def _unrenewed(found: Found, state: Condition) -> str:
    if found.fixed:
        more = "" if state == "fresh" else f"; one is got when '{found.path}' is removed"
        return f"nothing renews it (renew_at is 'never'): {_ENROLMENT}{more}"
    if not found.needed and state != "fresh":
        return "nothing: this device works without it"
    end = found.chain[0].not_valid_after_utc if found.chain else None
    if state == "fresh" and end is not None and end.year == NO_END:
        return "nothing renews it: it has no end"
    return f"nothing renews it: {_NOBODY.get(state, 'a person has to, before its end')}"


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}Z"
