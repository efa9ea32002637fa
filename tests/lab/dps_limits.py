"""How much the service takes: published for the Device Provisioning Service, counted always.

Registrations of all devices, per minute; polls of one device, per ten seconds. Windows slide, and
the clock is that of the machine since it started: nobody sets it. (With a lab's clock it is that
one's, and a day that passes at once passes here, too.)
"""

import time
from collections import defaultdict, deque

REGISTRATIONS, MINUTE = 1000, 60.0
POLLS, POLLING = 5, 10.0


class Window:
    """How many events there were within the last `seconds`; times must not go back."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._times: deque[float] = deque()
        self.most = 0

    def __len__(self) -> int:
        return len(self._times)

    def now(self, moment: float) -> int:
        """How many there are, this moment's not yet counted."""
        while self._times and self._times[0] <= moment - self._seconds:
            self._times.popleft()
        return len(self._times)

    def add(self, moment: float) -> int:
        """One more: how many there are with it."""
        count = self.now(moment) + 1
        self._times.append(moment)
        self.most = max(self.most, count)
        return count


class Limits:
    """Registrations and polls that were asked for, and those that were let in."""

    def __init__(self) -> None:
        self.registrations = Window(MINUTE)
        self.polls: dict[str, Window] = defaultdict(lambda: Window(POLLING))
        self._let_in = Window(MINUTE)
        self._answered: dict[str, Window] = defaultdict(lambda: Window(POLLING))

    def registration(self, moment: float | None = None) -> tuple[int, bool]:
        """How many there were in this minute, with this one; and whether it is too many."""
        moment = since_boot() if moment is None else moment
        count = self.registrations.add(moment)
        return count, not _let(self._let_in, moment, REGISTRATIONS)

    def poll(self, device: str, moment: float | None = None) -> tuple[int, bool]:
        """The same for polls of this device in ten seconds."""
        moment = since_boot() if moment is None else moment
        count = self.polls[device].add(moment)
        return count, not _let(self._answered[device], moment, POLLS)


def _let(window: Window, moment: float, limit: int) -> bool:
    """Whether there is room; what is refused takes none."""
    if window.now(moment) >= limit:
        return False
    window.add(moment)
    return True


def since_boot() -> float:
    """Seconds, whatever the wall clock is set to."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
