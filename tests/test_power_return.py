"""The power is back, and 100,000 devices boot as one: DPS never gets more than it takes, and all
are registered in hardly more time than it needs for so many."""

import random
from collections.abc import Callable

import pytest

from agent.turn import PER_MINUTE
from tests.conftest import Tell
from tests.lab.fleet import Fleet, Return, Service, by_chance, serial_numbers

FLEET, FEWER = 100_000, 20_000
POLLS = 5  # per 10 seconds and device
Boot = Callable[[random.Random], float]


def apart(chance: random.Random) -> float:
    return chance.uniform(20, 60)


def together(chance: random.Random) -> float:
    return 30.0


def returns(
    attestation: str,
    service: Service,
    boot: Boot = apart,
    *,
    count: int = FLEET,
    fleet: int = 0,
    counting: bool = True,
) -> Return:
    chance = random.Random(1)  # noqa: S311
    names = list(serial_numbers(count) if counting else by_chance(count, chance))
    devices = Fleet(names, attestation, fleet or count, service, chance)
    return devices.returns(lambda: boot(chance))


def best(count: int, requests: int) -> float:
    """Seconds in which DPS can take so many at all."""
    return count * requests * 60 / PER_MINUTE


@pytest.mark.parametrize(
    ("attestation", "requests", "boot"),
    [("x509", 1, apart), ("x509", 1, together), ("tpm", 2, apart)],
)
def test_never_more_than_dps_takes_and_done_within_15_percent_of_the_best_possible(
    attestation: str, requests: int, boot: Boot, tell: Tell
) -> None:
    found = returns(attestation, Service(), boot)
    over = found.finished / best(FLEET, requests) - 1
    tell(
        f"{attestation}, {boot.__name__}: at most {found.busiest} registrations in a minute, "
        f"{found.polls} polls in 10 s; all after {found.finished / 60:.1f} min, {over:.1%} more "
        "than the best possible"
    )
    assert len(found.service.asked) == FLEET * requests
    assert found.busiest <= PER_MINUTE
    assert found.polls <= POLLS
    assert over <= 0.15


@pytest.mark.parametrize(("attestation", "requests"), [("x509", 1), ("tpm", 2)])
def test_names_made_of_eks_are_spread_by_chance_and_some_may_have_to_come_twice(
    attestation: str, requests: int, tell: Tell
) -> None:
    """Each minute is to get 881 of 1,000, and chance adds to that: by TPM, where a device asks
    twice at a time, some minutes get more than DPS takes. Who is too many is told so (429), and
    comes back at any time in a window as long as the first."""
    found = returns(attestation, Service(limit=PER_MINUTE), counting=False)
    least = best(FLEET, requests)
    late = sum(device.polls[0] > 1.15 * least for device in found.devices)
    tell(
        f"{attestation}, names by chance, {FLEET} devices: at most {found.busiest} registrations "
        f"in a minute; {found.service.refused} times 429; {late} devices are in later than 15% "
        f"after the {least / 60:.0f} min that it takes at best, the last one after "
        f"{found.finished / 60:.0f} min"
    )
    assert found.busiest < 1.1 * PER_MINUTE
    assert found.polls <= POLLS
    assert late <= found.service.refused < FLEET / 1000
    assert found.finished <= 2.5 * least


@pytest.mark.parametrize("silent", [False, True], ids=["busy", "silent"])
def test_dps_is_away_for_the_first_hour_and_still_all_come_in(silent: bool, tell: Tell) -> None:
    """Who was told so (503) comes back spread. Whom nobody told anything tries on, for it may be
    its own network: these come as one, and most are then told to come later (429)."""
    service = Service(limit=PER_MINUTE, away=(0, 3600), silent=silent)
    found = returns("x509", service, count=FEWER)
    least = (3600 + best(FEWER, 1)) / 60
    tell(
        f"DPS away for an hour ({'silent' if silent else '503'}), {FEWER} devices: all after "
        f"{found.finished / 60:.0f} min, {least:.0f} min at best; {service.refused} times 429 or "
        "503"
    )
    assert all(device.polls for device in found.devices)
    assert found.finished <= 3600 + 4 * 3600


def test_a_fleet_that_is_said_to_be_ten_times_smaller_than_it_is_comes_in_too(tell: Tell) -> None:
    """Longer pauses after each 429 make room."""
    service = Service(limit=PER_MINUTE)
    found = returns("x509", service, count=FEWER, fleet=FEWER // 10)
    tell(
        f"dps.fleet ten times too small, {FEWER} devices: all after {found.finished / 60:.0f} min, "
        f"{best(FEWER, 1) / 60:.0f} min at best; {service.refused} times 429"
    )
    assert all(device.polls for device in found.devices)
    assert found.finished <= 4 * 3600
