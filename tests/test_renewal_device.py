"""Without IoT Edge DPS and the hub see the LDevID: a renewed one takes its place only when both
have taken it. Each story is the life of one device, in the time of the lab."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.state import State
from agent.steps import assigned
from tests.lab.clock import Clock
from tests.lab.device import Device, Wish
from tests.lab.world import World

DUE = timedelta(days=75)  # of 90


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """Registered by its LDevID, which is due."""
    clock = Clock(tmp_path / "clock")
    with ExitStack() as stack:
        at = tmp_path / "world"
        world = stack.enter_context(World(at, clock=clock, renewing=True, hub=True))
        world.dps.behave(polls=0, retry_after=0)
        wish = Wish(id="years", target="device")
        made = stack.enter_context(Device(world, tmp_path / "device", wish))
        done = made.agent("provision")
        assert done.returncode == 0, done.stderr
        clock.advance(DUE)
        yield made


def asked(device: Device) -> list[str]:
    return [each["step"] for each in device.world.dps.requests("years")]


def shown(device: Device) -> str | None:
    """The LDevID in use."""
    return assigned.certificate(State(device.state).ldevid_cert)


def known(device: Device) -> Any:
    """The one that the hub has been told of."""
    return device.world.dps.devices()["years"]["thumbprint"]


def sends(device: Device) -> None:
    done = device.agent("telemetry", "--count", "1")
    assert done.returncode == 0, done.stderr


def issued(device: Device) -> int:
    return len(device.world.issued(device.world.owner_est))


def test_what_dps_does_not_take_does_not_take_the_place_of_what_the_hub_knows(
    device: Device,
) -> None:
    was, world = shown(device), device.world
    world.dps.behave(polls=0, retry_after=0, odd={"register": "401"})
    done = device.agent("health")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "[dps-unauthorized]" in done.stderr
    assert (shown(device), known(device), issued(device)) == (was, was, 2)
    sends(device)
    assert device.agent("provision").returncode == 0  # a boot, meanwhile

    world.dps.behave(polls=0, retry_after=0)
    assert world.clock is not None
    world.clock.advance(timedelta(days=1))
    done = device.agent("health")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "LDevID: renewed" in done.stdout
    assert shown(device) == known(device) != was
    assert issued(device) == 2  # the one that had waited
    sends(device)
    assert asked(device)[-2:] == ["register", "operation"]
    assert asked(device).count("operation") == 2  # one registration, and one renewal


def test_a_hub_that_is_away_is_waited_for_and_that_costs_no_second_question(
    device: Device,
) -> None:
    was, world = shown(device), device.world
    world.hub.behave(close=True)
    done = device.agent("health")
    assert done.returncode == 3, done.stdout + done.stderr
    assert shown(device) == was
    world.hub.behave()
    assert world.clock is not None
    world.clock.advance(timedelta(days=1))
    done = device.agent("health")
    assert done.returncode == 0, done.stdout + done.stderr
    assert shown(device) == known(device) != was
    assert asked(device).count("operation") == 2
    sends(device)


def test_what_the_hub_refuses_is_given_up_and_dps_is_told_of_the_one_in_use_again(
    device: Device,
) -> None:
    was, world = shown(device), device.world
    world.hub.behave(refuse=5, refuse_times=4)
    done = device.agent("health")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "[hub-refused]" in done.stderr
    assert "The registration of this device was completed" in done.stdout
    assert shown(device) == was == known(device)
    assert asked(device).count("operation") == 3
    sends(device)


def test_after_a_year_in_a_drawer_it_is_registered_anew_with_what_it_got_back(
    device: Device,
) -> None:
    was, clock = shown(device), device.world.clock
    assert clock is not None
    clock.advance(timedelta(days=300))
    done = device.agent("health")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "LDevID: recovered" in done.stdout
    assert shown(device) == known(device) != was
    assert asked(device) == ["register", "operation"] * 2
    sends(device)
