"""A fleet is kind to its servers: 100,000 devices of one image, made in the same minute, renew
spread out, in the first generation of their certificates and in those after it.

Each device looks once per hour, at a minute of its own (systemd's FixedRandomDelay, of the
machine-id), and renews at the first look at which agent.health.judge.window says so.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from functools import cache
from hashlib import sha256
from itertools import islice

import pytest

from agent import config
from agent.health.judge import window
from tests.lab.dated import DAY, START, Ca

DEVICES = 100_000
MINUTE, HOUR = 60, 3600  # seconds
DELAY = 59 * MINUTE  # RandomizedDelaySec of systemd/tpm2cloud-health.timer
SHARE, SPREAD = config.share(config.Ldevid.renew_at), config.share(config.Ldevid.spread)
CA = Ca("Devices")


@cache
def opens(days: int) -> list[float]:
    """Of each device: seconds from the begin of a certificate that lasts so many `days` to that of
    its window. Serial numbers are all that tells the devices apart."""
    leaf = CA.issue(end=START + days * DAY)
    seeds = (f"device-{n:06}".encode() for n in range(DEVICES))
    return [(window(leaf, SHARE, SPREAD, s).start - START).total_seconds() for s in seeds]


@cache
def minutes() -> list[int]:
    """Of each device: seconds from the full hour to when it looks."""
    ids = (f"machine-id {n}".encode() for n in range(DEVICES))
    return [int.from_bytes(sha256(each).digest()[:8], "big") % DELAY for each in ids]


def renewals(days: int, looks: Sequence[int]) -> Iterator[list[int]]:
    """When each device renews, in seconds, in the first generation, in the second, and so on. All
    certificates of the first begin in the same moment, at a full hour."""
    begins = [0] * DEVICES
    while True:
        due = map(sum, zip(begins, opens(days), strict=True))
        begins = [look(at, delay) for at, delay in zip(due, looks, strict=True)]
        yield begins


def look(due: float, delay: int) -> int:
    """The first look that is not before `due`."""
    return math.ceil((due - delay) / HOUR) * HOUR + delay


def generation(number: int, days: int, looks: Sequence[int]) -> list[int]:
    return next(islice(renewals(days, looks), number - 1, None))


def per(seconds: int, moments: Iterable[int]) -> Counter[int]:
    return Counter(at // seconds for at in moments)


def flat(counts: Sequence[int]) -> bool:
    """Chi-square: four standard deviations above what chance alone makes of a flat histogram."""
    mean, freedom = sum(counts) / len(counts), len(counts) - 1
    found = sum((count - mean) ** 2 for count in counts) / mean
    return found < freedom + 4 * math.sqrt(2 * freedom)


def test_where_the_window_opens_depends_on_the_lifetime_and_the_device_alone() -> None:
    """So what holds of one certificate of a device holds of its next one."""
    for start in (START, START + 77 * DAY, START + timedelta(seconds=1)):
        leaf = CA.issue(start=start, end=start + 365 * DAY)
        opened = window(leaf, SHARE, SPREAD, b"device-000007").start - start
        assert opened.total_seconds() == opens(365)[7]


# A year: 100,000 in a tenth of it, which is 1.9 a minute. A month: 23.1 a minute.
@pytest.mark.parametrize(("days", "rate"), [(365, 15), (30, 50)])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_no_minute_has_more_renewals_than_a_server_is_made_for(
    days: int, rate: int, number: int
) -> None:
    assert max(per(MINUTE, generation(number, days, minutes())).values()) <= rate


@pytest.mark.parametrize("number", [1, 2, 3])
def test_renewals_are_spread_evenly_over_the_whole_spread(number: int) -> None:
    """Each generation over a wider one: who was late once is late again."""
    moments = generation(number, 365, minutes())
    halves = per(12 * HOUR, moments)
    found = [halves[n] for n in range(min(halves), max(halves) + 1)][1:-1]
    assert flat(found)
    assert abs(len(found) - number * SPREAD * 365 * 2) <= 2


def test_no_minute_of_the_hour_is_preferred() -> None:
    moments = generation(1, 365, minutes())
    assert flat([per(1, (at % HOUR // MINUTE for at in moments))[n] for n in range(59)])


def test_devices_that_all_look_in_the_same_minute_are_spread_by_the_hour() -> None:
    """An image with a machine-id in it (tpm2cloud lint-image finds that) is no catastrophe."""
    moments = generation(1, 365, [0] * DEVICES)
    hours = per(HOUR, moments)
    mean = DEVICES / (SPREAD * 365 * 24)
    assert max(hours.values()) < 1.5 * mean
    assert flat([hours[n] for n in range(min(hours), max(hours) + 1)][1:-1])


def test_every_device_renews_within_an_hour_of_its_time() -> None:
    moments = generation(1, 365, minutes())
    waits = [at - due for at, due in zip(moments, opens(365), strict=True)]
    assert min(waits) >= 0
    assert max(waits) < HOUR


def test_without_a_spread_all_would_come_in_one_hour() -> None:
    """What the figures above are worth."""
    leaf = CA.issue(end=START + 365 * DAY)
    due = (window(leaf, SHARE, 0, b"any").start - START).total_seconds()
    moments = [look(due, delay) for delay in minutes()]
    assert max(per(MINUTE, moments).values()) > DEVICES / 60
    assert not flat(list(per(12 * HOUR, [*moments, *generation(1, 365, minutes())]).values()))
