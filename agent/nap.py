"""A service that has failed, and knows that to try again is of no use for long, waits before it
ends: systemd starts it again 30 seconds later, and each time it looks at all that is done already.

So does one that a server has told that its clock is wrong: it would be asked every time. But when
the clock is set, it goes on at once.

It waits no longer than half of what the machine has been up. So who comes up for minutes at a time
is seen (agent/turn.py) for most of them, and whoever is ordered after the service at a boot does
not wait for long.
"""

import os
import time
from collections.abc import Callable

from agent import journal
from agent.errors import AgentError, ClockImplausible
from agent.moment import moment

LEAST, LONGEST = 30.0, 600.0  # seconds; LEAST: systemd's own pause (RestartSec=)
EARLY = 60.0  # seconds before; the next run waits the last of them itself (agent/turn.py)
SPARE = 60.0  # seconds that systemd gives us in addition
CLOCK = 360.0  # seconds until a server is asked again that says that our clock is wrong
LOOK = 5.0  # seconds from one look at it to the next
SET = 60.0  # seconds more or less: then somebody has set it


def length(seconds: float | None, uptime: float) -> float:
    """Seconds to wait, 0 if it is not worth it. `seconds`: until it may be of use; None: now."""
    wait = min((seconds or 0.0) - EARLY, LONGEST, uptime / 2)
    return wait if wait >= LEAST else 0.0


def after(error: AgentError, *, rest: Callable[[float], object] = time.sleep) -> None:
    """Under systemd alone. The caller holds nothing; SIGTERM ends it, as it does any process."""
    wrong_clock = isinstance(error, ClockImplausible) and "host" in error.fields
    wait = length(CLOCK if wrong_clock else error.seconds, moment().uptime)
    if not wait or "NOTIFY_SOCKET" not in os.environ:
        return
    journal.sync()  # a power cut may come before the unit's own
    again = time.strftime("%H:%M:%SZ", time.gmtime(time.time() + wait))
    when = "when the clock is set, or in some minutes" if wrong_clock else f"soon after {again}"
    told = f"{error} [{error.code}]; the next run is {when}"
    extended = f"EXTEND_TIMEOUT_USEC={int((wait + SPARE) * 1e6)}"
    journal.tell_systemd(f"{extended}\nSTATUS={journal.one_line(told)}")
    until_set(wait, rest) if wrong_clock else rest(wait)


def until_set(seconds: float, rest: Callable[[float], object]) -> None:
    """So long, or until the wall clock is not where it was going to be."""
    ahead = time.time() - moment().uptime
    for _ in range(int(seconds / LOOK)):
        rest(LOOK)
        if abs(time.time() - moment().uptime - ahead) > SET:
            return
