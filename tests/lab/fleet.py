"""A fleet after a power cut, in virtual time: when its devices ask DPS, by the functions that they
ask themselves (agent/turn.py, agent.dps.pace), and what a service with the published limits says.

Each device comes to its registration when it has booted. Where its turn is further away than a
process waits for it, it sleeps and ends (agent/nap.py), and systemd starts it again 30 seconds
later. All but the last of these starts change nothing, and are not gone through.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from agent import dps, turn
from agent.moment import Moment
from agent.turn import Failure, Turn

MORNING = datetime(2026, 3, 1, 6, tzinfo=UTC)
AGAIN = 30.0  # RestartSec= of the unit
TRIP = 0.2  # seconds of one exchange
BOOT = "the boot after the power cut"


@dataclass
class Service:
    """`limit`: registrations it takes in any minute, the next get 429; None: it only counts.
    `away`: from, to: 503; or `silent` then: nobody answers. `told`: seconds, its Retry-After."""

    limit: int | None = None
    away: tuple[float, float] = (0.0, 0.0)
    silent: bool = False
    told: int | None = 30
    asked: list[float] = field(default_factory=list)
    refused: int = 0
    _taken: deque[float] = field(default_factory=deque)

    def takes(self, now: float) -> bool | None:
        """None: it is not there."""
        if self.away[0] <= now < self.away[1]:
            return None if self.silent else self._refuses()
        self.asked.append(now)
        while self._taken and self._taken[0] <= now - 60:
            self._taken.popleft()
        if self.limit is not None and len(self._taken) >= self.limit:
            return self._refuses()
        self._taken.append(now)
        return True

    def _refuses(self) -> bool:
        self.refused += 1
        return False


@dataclass
class Device:
    name: str
    requests: int
    turn: Turn = field(default_factory=Turn)
    polls: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Return:
    """What came of it; times in seconds since the power is back."""

    service: Service
    devices: Sequence[Device]
    finished: float

    @property
    def busiest(self) -> int:
        """Registrations in the fullest of all minutes, wherever it begins."""
        return fullest(self.service.asked, 60.0)

    @property
    def polls(self) -> int:
        """Of one device in the fullest of all 10 seconds."""
        return max(fullest(each.polls, 10.0) for each in self.devices)


def fullest(times: Sequence[float], length: float) -> int:
    """The most of these (in order) that lie in a time of this length, its end included."""
    first, most = 0, 0
    for last, at in enumerate(times):
        while times[first] < at - length:
            first += 1
        most = max(most, last - first + 1)
    return most


@dataclass
class Fleet:
    """`fleet`: what dps.fleet says; `attestation`: "x509" or "tpm"."""

    names: Sequence[str]
    attestation: str
    fleet: int
    service: Service
    chance: random.Random
    _events: list[tuple[float, int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        requests = turn.REQUESTS[self.attestation]
        self.window = turn.window(self.fleet, requests)
        self.devices = [Device(name, requests) for name in self.names]

    def returns(self, boot: Callable[[], float]) -> Return:
        """The power is back; `boot`: seconds that a device takes to come up."""
        self._events = [(boot(), n, "comes") for n in range(len(self.devices))]
        heapq.heapify(self._events)
        now = 0.0
        while self._events:
            now, n, what = heapq.heappop(self._events)
            getattr(self, f"_{what}")(now, n, self.devices[n])
        return Return(self.service, self.devices, now)

    def _at(self, when: float, n: int, what: str) -> None:
        heapq.heappush(self._events, (when, n, what))

    def _comes(self, now: float, n: int, device: Device) -> None:
        """A process begins; it may have to come again."""
        here, wall = Moment(BOOT, now), MORNING + timedelta(seconds=now)
        device.turn = turn.arrived(device.turn, self.window, here, wall)
        self._at(now + turn.left(device.turn, device.name, self.window, here), n, "asks")

    def _asks(self, now: float, n: int, device: Device) -> None:
        self._registers(now, n, device, last=device.requests == 1)

    def _answers(self, now: float, n: int, device: Device) -> None:
        self._registers(now, n, device, last=True)

    def _registers(self, now: float, n: int, device: Device, *, last: bool) -> None:
        taken = self.service.takes(now)
        if taken is None:  # nobody heard: systemd's rhythm, until somebody does
            silence = self.service.away[1] - now
            self._at(now + AGAIN * math.ceil(silence / AGAIN), n, "comes")
        elif not taken:
            moment, wall = Moment(BOOT, now), MORNING + timedelta(seconds=now)
            failure = Failure(told=self.service.told)
            device.turn = turn.failed(device.turn, failure, device.name, self.window, moment, wall)
            self._at(now + AGAIN, n, "comes")
        elif not last:
            self._at(now + TRIP, n, "answers")
        else:
            self._polls(now, device)

    def _polls(self, now: float, device: Device) -> None:
        """DPS takes some seconds to assign a hub. What it says of when to come back is not always
        what it allows."""
        ready = now + TRIP + self.chance.uniform(1, 12)
        told = self.chance.choice([None, 0, 1, 3])
        while not device.polls or device.polls[-1] < ready:
            now += dps.pace(told)
            device.polls.append(now)


def serial_numbers(count: int) -> Iterator[str]:
    return (f"SN-2026-{n:07}" for n in range(count))


def by_chance(count: int, chance: random.Random) -> Iterator[str]:
    """As names made of EKs are."""
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    return ("".join(chance.choices(letters, k=16)) for _ in range(count))
