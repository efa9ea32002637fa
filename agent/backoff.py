"""How long nobody is asked again after it has failed: longer each time, and never in step with the
other devices of a fleet."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

FIRST, LONGEST, LONGEST_OVERDUE = timedelta(hours=1), timedelta(days=1), timedelta(hours=6)
NEVER_MIND, SHORTEST, TRIES = timedelta.max, timedelta(minutes=5), 8
SPREAD = 0.1  # of a pause, more or less: a fleet that was refused does not come back as one
CREDIBLE = timedelta(days=8)  # servers are taken at their word for a week


@dataclass(frozen=True)
class Backoff:
    """How often it failed in a row, and before when it is not tried again. `heard`: somebody had
    answered; to ask who was not there is no burden to anybody."""

    failures: int = 0
    not_before: datetime | None = None
    heard: bool = True

    def waits(self, now: datetime) -> bool:
        """A clock that was turned back does not make us wait for ever."""
        return self.not_before is not None and now < self.not_before <= now + CREDIBLE

    def as_json(self) -> dict[str, Any]:
        until = self.not_before
        at = until.timestamp() if until else None
        return {"failures": self.failures, "not_before": at, "heard": self.heard}

    @staticmethod
    def of(kept: Mapping[str, Any]) -> "Backoff":
        """What is damaged is as if never known."""
        try:
            failures, until = int(kept.get("failures", 0)), kept.get("not_before")
            at = None if until is None else datetime.fromtimestamp(float(until), UTC)
            return Backoff(max(failures, 0), at, kept.get("heard") is not False)
        except (TypeError, ValueError, OverflowError, OSError):
            return Backoff()


def pause(failures: int, seed: str, overdue: bool, left: timedelta = NEVER_MIND) -> timedelta:
    """After so many failures in a row (1, 2, ...): from an hour, doubled each time, to a day, or to
    6 hours if it is overdue; 10 % more or less, always the same for the same device and number.
    `left`: to the end of the certificate; if that is near, there are some tries before it."""
    longest = (LONGEST_OVERDUE if overdue else LONGEST) / (1 + SPREAD)
    if left > timedelta():
        longest = min(longest, max(left / TRIES, SHORTEST))
    doubled = FIRST * (1 << min(max(failures, 1) - 1, 10))
    own = 1 - SPREAD + 2 * SPREAD * jitter(f"{seed}\n{failures}".encode())
    return min(doubled, longest) * own


def jitter(seed: bytes) -> float:
    """0 to 1, less than 1: always the same of the same seed, evenly spread over many (SHA-256)."""
    return (int.from_bytes(sha256(seed).digest()[:8], "big") >> 11) / (1 << 53)
