"""What time it is at least, whatever the clock of this device says.

A device may wake up in 1970, or with the time at which it was switched off; what sets its clock
comes later, and is nobody who could prove anything. So time is known from below only, by a ladder:

1. When this software was released; when the certificate in use, and the oldest CA of each trust
   file, were issued (agent/steps/preflight.py). A clock behind these is wrong: nobody is asked.
2. What a server says (`Date`; RFC 9110, 6.6.1) whose chain of certificates was verified, and when
   the newest of that chain was issued. Nobody is believed for longer than his chain is valid: what
   counts is the earlier of his `Date` and its end. If it is more than a day after our time, the
   clock here is behind: that reply is the last of the run, and comes before anything is issued.
3. What was said so in earlier runs (clock.json in the state directory). A server whose chain ends
   before that is refused, though the clock here may say that it is valid: who holds a key that
   has expired, and can set our clock back, gains nothing.

None of this sets a clock, and none is an upper bound: that a server says less than our clock is no
reason to refuse it, and a time that only our own clock ever showed is not kept.

Servers can be wrong, too. One that is ahead of us keeps a run from going on as long as it is; that
is not kept. For a wrong time to be kept, our clock must have been ahead at the same time; so a
clock behind what was kept is no reason not to ask. Any server whose chain outlasts that time may
take it back: what the last one said is what is kept. The one who said it is always among these,
for he was believed up to the end of his own chain at most. Only where nobody is left who could, a
person must remove the file; that is what the remedy says.
"""

import email.utils
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from agent.errors import ClockImplausible
from agent.state import read_json, write_json

BEHIND = timedelta(days=1)  # for less than that, certificates' dates and tokens have margins


@dataclass(frozen=True)
class Bound:
    """It is `at` or later (UTC), as `by` has said: HOST or HOST:PORT."""

    at: datetime
    by: str


@dataclass(frozen=True)
class Vouched:
    """When the newest certificate of a verified chain was issued, and when the first of them ends,
    the anchor among them; UTC."""

    since: datetime
    until: datetime


class Times:
    """What servers say of the time, kept in `file` (JSON). `keep`: else it is only read. `said`:
    what the last one said, believed as far as his chain goes; None if he said nothing."""

    def __init__(self, file: Path, *, keep: bool = True) -> None:
        self._file, self._keep = file, keep
        self.said: datetime | None = None

    @property
    def floor(self) -> Bound | None:
        """What was kept; None if that is missing or damaged. Raises NoPermission."""
        kept = read_json(self._file) or {}
        at, by = kept.get("at"), kept.get("by")
        if not isinstance(at, str) or not isinstance(by, str) or kept.get("sum") != _sum(at, by):
            return None
        try:
            return Bound(datetime.fromisoformat(at).astimezone(UTC), by)
        except (ValueError, OverflowError):
            return None

    def hear(
        self, host: str, headers: Mapping[str, str], vouched: Vouched, *, brings: bool = False
    ) -> None:
        """A reply of `host`, whose chain was verified. `brings`: something was made for us that we
        must not lose, though the clock was set wrong while it was made; what it is good for is seen
        when it is used. Raises ClockImplausible, and what writing a file does."""
        now, date = datetime.now(UTC), http_date(headers.get("Date", ""))
        said = self.said = min(date, vouched.until) if date else None
        if said and now + BEHIND < said and not brings:
            raise ClockImplausible(
                f"cannot trust the clock: it says {now:%Y-%m-%d %H:%M}Z, and {host}, whose "
                f"certificate is valid, says {date:%Y-%m-%d %H:%M}Z",
                host=host,
            )
        if self._keep:
            self._heard(host, said, min(max(vouched.since, said or vouched.since), now))

    def _heard(self, host: str, said: datetime | None, at: datetime) -> None:
        """Once a day is enough, for flash memory."""
        before = self.floor
        later = before is None or at > before.at + BEHIND
        taken_back = before is not None and said is not None and said + BEHIND < before.at
        if later or taken_back:
            self.put(Bound(at, host))

    def put(self, bound: Bound) -> None:
        """For the runs to come."""
        at = bound.at.isoformat(timespec="seconds")
        write_json(self._file, {"at": at, "by": bound.by, "sum": _sum(at, bound.by)})


def _sum(at: str, by: str) -> str:
    """So that a damaged file is none: a digit more in the year, and no server would be good."""
    return sha256(f"{at}\n{by}".encode()).hexdigest()[:16]


def http_date(text: str) -> datetime | None:
    """An HTTP-date in any of the three forms of RFC 9110, 5.6.7 (all are UTC)."""
    try:
        return email.utils.parsedate_to_datetime(text).replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
