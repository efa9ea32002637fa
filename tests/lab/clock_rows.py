"""What is wrong with which clock, in which scene, and what follows of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from agent import RELEASED
from tests.lab import clock_odds, clocks
from tests.lab.clock_odds import Jump, before_dps, before_est
from tests.lab.clock_points import Point
from tests.lab.clocks import DAY, YEAR, Scene

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
At = Callable[[datetime], datetime]
BIT = datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC)  # 2**31 seconds since 1970
CENTURY = datetime(2050, 1, 1, tzinfo=UTC)  # where UTCTime ends (RFC 5280, 4.1.2.5)
WELL, BEHIND, DATES, SINCE = "well", "clock-implausible", "tls-dates", "tls-expired-since"
DPS = "dps-clock"


def fixed(at: datetime) -> At:
    return lambda right: at


def off(by: timedelta) -> At:
    return lambda right: right + by


RIGHT = off(timedelta())
CLOCKS: dict[str, At] = {
    "1970": fixed(datetime(1970, 1, 1, tzinfo=UTC)),
    "before the build date": fixed(RELEASED - DAY),
    "a year behind": off(-YEAR),
    "2 days behind": off(-2 * DAY),
    "half a day behind": off(-12 * HOUR),
    "right": RIGHT,
    "half a day ahead": off(12 * HOUR),
    "30 days ahead": off(30 * DAY),
    "a year ahead": off(YEAR),
    "2038, before 2**31": fixed(BIT - 9 * SECOND),
    "2038, after 2**31": fixed(BIT + SECOND),
    "2049": fixed(CENTURY - 30 * SECOND),
    "2050": fixed(CENTURY + SECOND),
}
EARLY = dict.fromkeys(list(CLOCKS)[:4], BEHIND)
LATE = dict.fromkeys(list(CLOCKS)[9:], DATES)  # no server's certificate lasts so long
LATEST = LATE | dict.fromkeys(list(CLOCKS)[11:], "idevid-expired")
TOKEN = {"half a day behind": DPS, "30 days ahead": DPS, "a year ahead": DPS}
# What is issued is not valid by such a clock. By the first of them, nor is what the device has.
ISSUED = {"half a day behind": BEHIND, "a year ahead": BEHIND}
# What comes of each clock, where it does not end well.
BY_CLOCK: dict[Scene, dict[str, str]] = {
    clocks.FIRST: EARLY | ISSUED | LATEST,
    clocks.FIRST_TPM: EARLY | TOKEN | LATE,
    clocks.EDGE: EARLY | ISSUED | LATEST,
    clocks.LATER_BOOT: EARLY | ISSUED | LATEST,
    clocks.HEALTH: EARLY | ISSUED | LATEST,
    clocks.TELEMETRY: EARLY | {"half a day behind": BEHIND} | LATE,
    clocks.TELEMETRY_TPM: EARLY | {"half a day behind": DPS} | LATE,
    clocks.AGAIN_TPM: EARLY | TOKEN | LATE,
}


def by_clock() -> Iterator[Point]:
    for scene, codes in BY_CLOCK.items():
        for name, at in CLOCKS.items():
            code = codes.get(name, WELL)
            spends = int(scene.issues > 0 or not scene.first) if name in ISSUED else 0
            yield Point(f"{scene.name}: the clock is {name}", scene, at, code, spends=spends)


def said(at: datetime) -> Callable[[str], str]:
    return lambda before: f"{at:%a, %d %b %Y %H:%M:%S} GMT"


DATED: dict[str, tuple[Callable[[str], str | None], str]] = {
    "says 1970": (said(datetime(1970, 1, 1, tzinfo=UTC)), WELL),
    "says 2038": (said(BIT), BEHIND),
    "says 2050": (said(CENTURY), BEHIND),
    "says 9999": (said(datetime(9999, 12, 31, tzinfo=UTC)), BEHIND),
    "says no time": (lambda before: None, WELL),
    "says nonsense": (lambda before: "yesterday", WELL),
    "says an impossible date": (lambda before: "Mon, 32 Foo 2028 25:61:61 GMT", WELL),
}


def by_date() -> Iterator[Point]:
    for name, (date, code) in DATED.items():
        at_est, at_dps = before_est(date), before_dps(date)
        yield Point(f"EST server {name}", clocks.PASSWORD, RIGHT, code, at_est)
        yield Point(f"DPS {name}", clocks.FIRST_TPM, RIGHT, code, at_dps)


@dataclass(frozen=True)
class Window:
    """When a server's certificate is valid, counted from what time it is."""

    starts: timedelta
    lasts: timedelta


EXPIRED = Window(-60 * DAY, 30 * DAY)
TO_COME = Window(30 * DAY, 90 * DAY)
# By the name of the clock: what becomes of a server with an expired certificate, and of one whose
# certificate is not valid yet.
WINDOWS: dict[str, tuple[At, str, str]] = {
    "1970": (CLOCKS["1970"], BEHIND, BEHIND),
    "45 days behind": (off(-45 * DAY), BEHIND, DATES),
    "90 days behind": (off(-90 * DAY), DATES, DATES),
    "right": (RIGHT, DATES, DATES),
    "40 days ahead": (off(40 * DAY), DATES, WELL),
    "2038": (CLOCKS["2038, after 2**31"], DATES, DATES),
    "2046": (fixed(datetime(2046, 1, 1, tzinfo=UTC)), DATES, DATES),
}


def by_window() -> Iterator[Point]:
    for name, (at, expired, to_come) in WINDOWS.items():
        both = {"has expired": (EXPIRED, expired), "is not valid yet": (TO_COME, to_come)}
        for how, (window, code) in both.items():
            at_est, at_dps = before_est(**vars(window)), before_dps(**vars(window))
            what = f"certificate {how}, and the clock is {name}"
            yield Point(f"EST server's {what}", clocks.PASSWORD, at, code, at_est)
            code = DPS if code == WELL else code  # the token is not for as long as that
            yield Point(f"DPS' {what}", clocks.FIRST_TPM, at, code, at_dps)


# A clock that is set in the midst of something: from when what of it follows.
JUMPS: dict[str, tuple[timedelta, str]] = {
    "40 days ahead": (40 * DAY, WELL),
    "10 years ahead": (10 * YEAR, DATES),
    "to 2050": (22 * YEAR, DATES),
    "10 days back": (-10 * DAY, BEHIND),
    "a year back": (-YEAR, DATES),
    "to the 1990s": (-35 * YEAR, DATES),
}
IN_A_REQUEST: dict[str, tuple[timedelta, str, int]] = {
    "40 days ahead": (40 * DAY, WELL, 0),
    "a year ahead": (YEAR, BEHIND, 1),
    "10 years ahead": (10 * YEAR, BEHIND, 1),
    "10 days back": (-10 * DAY, BEHIND, 1),
    "to the 1990s": (-35 * YEAR, BEHIND, 1),
}
IN_A_POLL: dict[str, tuple[timedelta, str]] = {
    "40 days ahead": (40 * DAY, WELL),
    "10 years ahead": (10 * YEAR, DATES),  # the hub's certificate
    "10 days back": (-10 * DAY, BEHIND),
    "to the 1990s": (-35 * YEAR, BEHIND),
}
TOLD: dict[str, tuple[At, str, int]] = {
    "was not": (RIGHT, WELL, 0),
    "was set 30 days ahead": (off(30 * DAY), WELL, 0),
    "was set a year ahead": (off(YEAR), BEHIND, 1),
    "was set half an hour back": (off(-HOUR / 2), BEHIND, 1),
    "was set 10 days back": (off(-10 * DAY), BEHIND, 0),
    "was set to 1970": (CLOCKS["1970"], BEHIND, 0),
}


def by_jump() -> Iterator[Point]:
    for name, (by, code) in JUMPS.items():
        odd = before_est(jump=Jump("handshake", by))
        what = "in the midst of a handshake with"
        yield Point(f"the clock jumps {name} {what} EST", clocks.PASSWORD, RIGHT, code, odd)
        odd, code = before_dps(jump=Jump("handshake", by)), DPS if code == WELL else code
        yield Point(f"the clock jumps {name} {what} DPS", clocks.FIRST_TPM, RIGHT, code, odd)
    for name, (by, code, spends) in IN_A_REQUEST.items():
        odd, what = before_est(jump=Jump("simpleenroll", by)), f"the clock jumps {name} while the"
        yield Point(f"{what} CA issues", clocks.PASSWORD, RIGHT, code, odd, spends)
    for name, (by, code) in IN_A_POLL.items():
        odd, what = before_dps(jump=Jump("operations", by)), f"the clock jumps {name} while"
        yield Point(f"{what} DPS is polled", clocks.FIRST_TPM, RIGHT, code, odd)
    for name, (at, code, spends) in TOLD.items():
        what = f"EST said 202, and when it is time, the clock {name}"
        before = clock_odds.told_to_come_back
        yield Point(what, clocks.FIRST, at, code, spends=spends, before=before)


NO_RTC: dict[str, At] = {
    "1970": CLOCKS["1970"],
    "the time of its image": CLOCKS["before the build date"],
    "a year ago": CLOCKS["a year behind"],
}


def without_rtc() -> Iterator[Point]:
    for name, at in NO_RTC.items():
        for scene in (clocks.FIRST, clocks.FIRST_TPM, clocks.EDGE):
            what = f"{scene.name}: no battery, each of four boots begins in {name}"
            yield Point(what, scene, at, BEHIND, before=clock_odds.boots(3, at))


DAMAGE: dict[str, Callable[[str], str]] = {
    "is empty": lambda text: "",
    "is cut off": lambda text: text[:-20],
    "has another digit": lambda text: text.replace("20", "29"),
    "is nonsense": lambda text: "soon",
    "is a list": lambda text: "[]",
    "is null": lambda text: '{"at": null, "by": null, "sum": null}',
}
SHORT, LONG = Window(-30 * DAY, 130 * DAY), Window(-30 * DAY, 2 * YEAR)
# What was kept, counted from now; what the clock says; the server's certificate; what follows.
KEPT: dict[str, tuple[timedelta, At, Window, str]] = {
    "a day ago, and the clock is 45 days behind": (-DAY, off(-45 * DAY), EXPIRED, SINCE),
    "a day ago, and the clock is right": (-DAY, RIGHT, SHORT, WELL),
    "a day ago, and the clock is 10 days behind": (-DAY, off(-10 * DAY), SHORT, BEHIND),
    "200 days ahead, and the server is valid then": (200 * DAY, RIGHT, LONG, WELL),
    "200 days ahead, and the server is not valid then": (200 * DAY, RIGHT, SHORT, SINCE),
    "in 2049, and no server is valid then": (20 * YEAR, RIGHT, LONG, SINCE),
}


def by_file() -> Iterator[Point]:
    for name, how in DAMAGE.items():
        before = clock_odds.damaged(how)
        yield Point(f"what was kept of the time {name}", clocks.FIRST, RIGHT, WELL, before=before)
    for name, (by, at, window, code) in KEPT.items():
        more: dict[str, Any] = {"before": clock_odds.kept(by)}
        if by > YEAR:
            more["mend"] = clock_odds.forgotten
        at_est, at_dps = before_est(**vars(window)), before_dps(**vars(window))
        what = f"what was kept is of {name}"
        yield Point(f"EST: {what}", clocks.PASSWORD, at, code, at_est, **more)
        yield Point(f"DPS: {what}", clocks.FIRST_TPM, at, code, at_dps, **more)


def renewals() -> Iterator[Point]:
    """When it is time for the companion to renew the LDevID."""
    codes = EARLY | ISSUED | LATEST
    for name, at in CLOCKS.items():
        what, spends = f"{clocks.RENEWAL.name}: the clock is {name}", int(name in ISSUED)
        yield Point(what, clocks.RENEWAL, at, codes.get(name, WELL), spends=spends)


POINTS = [*by_clock(), *by_date(), *by_window(), *by_jump(), *without_rtc(), *by_file()]
RENEWALS = [*renewals()]
