"""When a device of a fleet may ask DPS: a turn of its own, so that all together stay below what the
service takes; pure.

DPS takes 1,000 registrations a minute. After a power cut a whole fleet boots as one. Devices know
nothing of each other, so each waits for a time that follows from its registration id, evenly spread
over a window that is long enough for all: MARGIN times the shortest possible.

- Names that count up (serial numbers) fall on places that are as far apart as can be: no minute of
  the window gets more than its share, and a few.
- Names that do not (those made of an EK) fall on places by chance. In a fleet of 100,000 some
  minute then gets more than 1,000: by certificate with a probability of about 10 % (881 are to be
  expected in each, and the fullest of all minutes has some four standard deviations of 30 more); by
  TPM, where a device asks twice in a moment, almost always, by 1 to 5 %. Who is too many is told to
  come later, and does. Less than that takes a window of more than 115 % of the shortest.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from agent.backoff import CREDIBLE, Backoff, jitter
from agent.moment import Moment

PER_MINUTE = 1000  # registrations that DPS takes (Azure DPS quotas and limits)
MARGIN = 1.135
REQUESTS = {"x509": 1, "tpm": 2}  # of which one registration is made: a challenge, and its answer
NEAR = 90.0  # seconds that a process waits itself; for more it comes again
FIRST, SLOW, LONGEST = 60.0, 15 * 60.0, 3600.0  # seconds of pauses; SLOW: a person is needed
WHY = 500  # characters
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: its multiples are spread most evenly (Knuth)
_NUMBER = re.compile(r"(.*?)([0-9]*)", re.DOTALL)


@dataclass(frozen=True)
class Turn:
    """What is kept. `since`: the uptime, of the boot `boot_id`, at which the device first wanted to
    register; `until`: that at which a pause ends, if it began in this boot; `not_before`: the same
    by the wall clock, for the next. `failures`: in a row. `why`: what the last one said."""

    boot_id: str = ""
    since: float = 0.0
    until: float = 0.0
    failures: int = 0
    not_before: datetime | None = None
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        kept = Backoff(self.failures, self.not_before).as_json()
        del kept["heard"]
        more = {"boot_id": self.boot_id, "since": self.since, "until": self.until, "why": self.why}
        return {**more, **kept}

    @staticmethod
    def of(kept: Mapping[str, Any]) -> "Turn":
        """What is damaged is as if never known."""
        pause = Backoff.of(kept)
        try:
            boot_id, why = str(kept["boot_id"]), str(kept["why"])[:WHY]
            since, until = float(kept["since"]), float(kept["until"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return Turn()
        if not (0 <= since < 2**33 and 0 <= until < 2**33):  # NaN is neither
            return Turn()
        return Turn(boot_id, since, until, pause.failures, pause.not_before, why)


def window(fleet: int, requests: int) -> float:
    """Seconds over which the first requests of this many devices are spread."""
    return fleet * requests * 60 / PER_MINUTE * MARGIN


def place(who: str) -> float:
    """In the window: 0 to 1, less than 1; always the same of the same registration id."""
    found = _NUMBER.fullmatch(who)
    head, number = found.groups() if found else (who, "")
    step = int(number[-18:] or "0") * _GOLDEN % 2**64
    return (jitter(head.encode()) + step / 2**64) % 1.0


def arrived(turn: Turn, now: Moment) -> Turn:
    """It wants to register; its waiting begins with the first time in this boot."""
    if turn.boot_id == now.boot_id and turn.since <= now.uptime:
        return turn
    return replace(turn, boot_id=now.boot_id, since=now.uptime, until=0.0)


def left(turn: Turn, who: str, window: float, now: Moment, wall: datetime) -> float:
    """Seconds until it may ask, 0 if it may. `turn`: as it `arrived`."""
    return max(0.0, turn.since + window * place(who) - now.uptime, pause_left(turn, now, wall))


def pause_left(turn: Turn, now: Moment, wall: datetime) -> float:
    """Seconds of the pause after a failure. In the boot it began in nobody's clock ends it; later,
    one that was turned back does not make it longer (agent/backoff.py)."""
    if turn.until:
        return max(0.0, turn.until - now.uptime)
    until = turn.not_before
    if until is None or not Backoff(turn.failures, until).waits(wall):
        return 0.0
    return (until - wall).total_seconds()


def failed(
    turn: Turn,
    who: str,
    window: float,
    now: Moment,
    wall: datetime,
    *,
    told: int | None = None,
    slow: bool = False,
    why: str = "",
) -> Turn:
    """DPS answered, but not with a hub. `told`: seconds, by Retry-After. `slow`: it will say the
    same until a person does something. All that failed together come back as spread as they would
    after a power cut."""
    failures = turn.failures + 1
    doubled = min(FIRST * 2 ** min(failures - 1, 10), LONGEST)
    least = max(doubled, SLOW if slow else 0.0, float(told or 0))
    own = jitter(f"{who}\n{failures}".encode())
    pause = min(least + own * max(least / 2, window), CREDIBLE.total_seconds())
    until = wall.astimezone(UTC) + timedelta(seconds=pause)
    return replace(
        turn,
        boot_id=now.boot_id,
        until=now.uptime + pause,
        failures=failures,
        not_before=until,
        why=why[:WHY],
    )
