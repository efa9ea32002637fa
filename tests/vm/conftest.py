"""Fixtures: a fleet, machines of it, and one that has been through its first two boots."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.lab import aziot
from tests.lab.process import TOP, run
from tests.lab.world import World
from tests.vm.first import Watched, watch
from tests.vm.fleet import Fleet, keep
from tests.vm.machine import Machine

Settings = Mapping[str, Any]
Flash = Callable[..., Machine]
Twin = Callable[[Machine], Machine]


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ours, as its documented command builds it, and the stand-ins for IoT Edge's."""
    return [ours(), *aziot.build(tmp_path_factory.mktemp("aziot"))]


def ours(suffix: str = "") -> Path:
    """Our package; with a suffix to its version, the next one."""
    run(TOP / "debian" / "build", *(["--suffix", suffix] if suffix else []))
    [found] = [
        deb
        for deb in TOP.glob(f"dist/tpm2cloud_*{suffix}_amd64.deb")
        if suffix or "+" not in deb.name
    ]
    return found


@pytest.fixture(scope="session")
def watched(fleet: Fleet) -> Watched:
    """SN-0001 after its first two boots, off."""
    return watch(fleet)


@pytest.fixture(scope="session")
def fleet(
    world: World, packages: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """Its disks, of 400 MB each, do not outlive the run."""
    directory = tmp_path_factory.mktemp("fleet")
    yield Fleet(world, directory, packages)
    shutil.rmtree(directory)


@pytest.fixture
def flash(fleet: Fleet, request: pytest.FixtureRequest) -> Iterator[Flash]:
    """`flash(serial, changes, ...)`, as Fleet.flash: a machine that just came from the line, off.
    What it said is kept in .lab/vm, under the name of the test."""
    with ExitStack() as stack:
        made: list[Machine] = []

        def flashed(serial: str, changes: Settings | None = None, **more: Any) -> Machine:
            machine = fleet.flash(_short(request, len(made)), serial, changes, **more)
            made.append(machine)
            stack.callback(shutil.rmtree, machine.directory)
            stack.callback(keep, machine, _name(request, len(made)))
            stack.callback(machine.power_cut)
            return machine

        yield flashed


@pytest.fixture
def twin(fleet: Fleet, request: pytest.FixtureRequest) -> Iterator[Twin]:
    """`twin(machine)`: one in the same state."""
    with ExitStack() as stack:
        made: list[Machine] = []

        def copied(machine: Machine) -> Machine:
            copy = fleet.twin(machine, f"{_short(request, len(made))}t")
            made.append(copy)
            stack.callback(shutil.rmtree, copy.directory)
            stack.callback(keep, copy, f"{_name(request, len(made))}-twin")
            stack.callback(copy.power_cut)
            return copy

        yield copied


def _name(request: pytest.FixtureRequest, number: int) -> str:
    name = str(request.node.name).removeprefix("test_").replace("[", "-").replace("]", "")
    return name if number == 1 else f"{name}-{number}"


def _short(request: pytest.FixtureRequest, number: int) -> str:
    """For paths of Unix sockets, which must be short."""
    return f"{abs(hash(request.node.nodeid)) % 10**6}-{number}"
