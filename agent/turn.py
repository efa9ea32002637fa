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
from dataclasses import asdict, dataclass, field, replace
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
LAST = 2.0**33  # seconds; no machine is up for so long
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: its multiples are spread most evenly (Knuth)
_NUMBER = re.compile(r"(.*?)([0-9]*)", re.DOTALL)


@dataclass(frozen=True)
class Turn:
    """What is kept. `since`: the uptime, of the boot `boot_id`, at which the device began to wait
    for its first registration; what it waited in boots before that is taken off, so it may be less
    than 0. `seen`: the uptime at which this was looked at last. `until`: that at which a pause
    ends; `not_before`: the same by the wall clock. `failures`: in a row. `why`: what the last one
    said. If that was a refusal, `code` is its, and `fields` are those of its remedy."""

    boot_id: str = ""
    since: float = 0.0
    seen: float = 0.0
    until: float = 0.0
    failures: int = 0
    not_before: datetime | None = None
    why: str = ""
    code: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        kept = Backoff(self.failures, self.not_before).as_json()
        del kept["heard"]
        return {**asdict(self), **kept}

    @staticmethod
    def of(kept: Mapping[str, Any]) -> "Turn":
        """What is damaged is as if never known."""
        pause = Backoff.of(kept)
        try:
            boot_id, why, code = (str(kept[name]) for name in ("boot_id", "why", "code"))
            since, seen, until = (float(kept[name]) for name in ("since", "seen", "until"))
            fields = {str(name): str(text) for name, text in kept["fields"].items()}
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            return Turn()
        if not (-LAST < since < LAST and 0 <= seen < LAST and 0 <= until < LAST):  # NaN is none
            return Turn()
        failures, not_before = pause.failures, pause.not_before
        return Turn(boot_id, since, seen, until, failures, not_before, why[:WHY], code, fields)


def window(fleet: int, requests: int) -> float:
    """Seconds over which the first requests of this many devices are spread."""
    return fleet * requests * 60 / PER_MINUTE * MARGIN


def place(who: str) -> float:
    """In the window: 0 to 1, less than 1; always the same of the same registration id."""
    found = _NUMBER.fullmatch(who)
    head, number = found.groups() if found else (who, "")
    step = int(number[-18:] or "0") * _GOLDEN % 2**64
    return (jitter(head.encode()) + step / 2**64) % 1.0


def arrived(turn: Turn, window: float, now: Moment, wall: datetime) -> Turn:
    """It wants to register. While it is off, time stands still: it has waited as long, and its
    pause has as much left, as when it was last seen in the boot before. So a fleet that is switched
    off as one comes back as spread as it was; and who is never on for long comes to its turn, too.
    """
    if turn.boot_id == now.boot_id and turn.seen <= now.uptime:
        return replace(turn, seen=now.uptime)
    if not turn.boot_id:
        return replace(turn, boot_id=now.boot_id, since=now.uptime, seen=now.uptime)
    rest = _rest(turn, window, wall)
    return replace(
        turn,
        boot_id=now.boot_id,
        since=now.uptime - max(0.0, turn.seen - turn.since),
        seen=now.uptime,
        until=now.uptime + rest if rest else 0.0,
    )


def _rest(turn: Turn, window: float, wall: datetime) -> float:
    """Seconds that are left of a pause, in another boot. Of a fleet so small that it cannot be too
    many, the wall clock may end it; one that was turned back does not make it longer."""
    rest = max(0.0, turn.until - turn.seen)
    if window <= NEAR and turn.not_before is not None:
        return min(rest, max(0.0, (turn.not_before - wall).total_seconds()))
    return rest


def left(turn: Turn, who: str, window: float, now: Moment) -> float:
    """Seconds until it may ask, 0 if it may. `turn`: as it `arrived`. `window`: 0 for a device that
    is in no herd. A pause after a failure is as spread as the turns are, and comes in their place.
    """
    if turn.failures:
        return pause_left(turn, now)
    return max(0.0, turn.since + window * place(who) - now.uptime)


def pause_left(turn: Turn, now: Moment) -> float:
    """Seconds of the pause after a failure; nobody's clock ends it."""
    return max(0.0, turn.until - now.uptime)


@dataclass(frozen=True)
class Failure:
    """DPS answered, but not with a hub. `told`: seconds, by Retry-After. `code`, `fields`: of a
    refusal. `slow`: it will be said again until a person does something."""

    why: str = ""
    told: int | None = None
    code: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    slow: bool = False


def failed(
    turn: Turn, failure: Failure, who: str, window: float, now: Moment, wall: datetime
) -> Turn:
    """All that failed together come back as spread as they would after a power cut. `turn`: as it
    `arrived`."""
    failures = turn.failures + 1
    doubled = min(FIRST * 2 ** min(failures - 1, 10), LONGEST)
    least = max(doubled, SLOW if failure.slow else 0.0, float(failure.told or 0))
    own = jitter(f"{who}\n{failures}".encode())
    pause = min(least + own * max(least / 2, window), CREDIBLE.total_seconds())
    return replace(
        turn,
        seen=now.uptime,
        until=now.uptime + pause,
        failures=failures,
        not_before=wall.astimezone(UTC) + timedelta(seconds=pause),
        why=failure.why[:WHY],
        code=failure.code,
        fields=failure.fields,
    )
