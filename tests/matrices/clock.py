"""Wrong clocks, of devices and of servers: what is told meanwhile, and that nothing is lost by it.

At each point a device runs with a wrong clock (or a right one, and servers that are wrong), and
ends well or tells why it waits; nothing is spent: no certificate that is not used later, no pause
for what was the clock's fault, none of the companion's interventions. Then its clock is put right,
and the same run once more ends well.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent import RELEASED
from tests.lab import clocks
from tests.lab.clocks import DAY, YEAR, Outcome, Point, Scene, before_dps, before_est
from tests.matrices import Count, Report, Tell

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
    "2050": (CLOCKS["2050"], DATES, DATES),
}


def by_window() -> Iterator[Point]:
    for name, (at, expired, to_come) in WINDOWS.items():
        both = {"has expired": (EXPIRED, expired), "is not valid yet": (TO_COME, to_come)}
        for how, (window, code) in both.items():
            at_est, at_dps = before_est(**vars(window)), before_dps(**vars(window))
            what = f"certificate {how}, and the clock is {name}"
            yield Point(f"EST server's {what}", clocks.PASSWORD, at, code, at_est)
            yield Point(f"DPS' {what}", clocks.FIRST_TPM, at, code, at_dps)


POINTS = [*by_clock(), *by_date(), *by_window()]


def prove(base: Path, tell: Tell, only: str = "") -> Report:
    wanted = [point for point in POINTS if only in point.name]
    found: list[Outcome] = []
    with clocks.town(base / "town") as town:
        for point in wanted:
            found.append(clocks.tried(town, point))
            tell(shown(found[-1]))
    return report(found)


def shown(outcome: Outcome) -> str:
    return f"{outcome.point.name}: {outcome.code}{''.join(f'; {each}' for each in outcome.wrong)}"


def report(found: list[Outcome]) -> Report:
    kinds: dict[str, list[Outcome]] = {}
    for each in found:
        kinds.setdefault(each.point.scene.name, []).append(each)
    counts = [Count(n, len(all_), sum(not o.wrong for o in all_)) for n, all_ in kinds.items()]
    rows = [f"| {o.point.name} | {o.status} | `{o.code}` |" for o in found]
    head = ["| What is odd | Status | Code |", "|---|---:|---|"]
    failed = [shown(o) for o in found if o.wrong]
    return Report("Clocks", counts, [*head, *rows], failed)
