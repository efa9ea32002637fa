"""The agent is cut off at every single one of its effects, and then run again.

Two things happen to a first boot:

- the agent alone is killed, and is run again at once, while IoT Edge may still be at work. At every
  effect, and that is every system call with which it changes a file, speaks to a server, sends the
  TPM a command that does not only read, starts or ends a program;
- the power goes: the agent, `iotedge` and its services, and the TPM are all gone at that moment. At
  every effect from the first call of `iotedge` on, while the TPM or a server works on a request, at
  every third of the other effects, and at moments while `iotedge` is at work. (What was written is
  not lost: whether it was synced in time no simulation shows.)

Wherever it was, the next run ends as if nothing had happened, and one more has nothing to do.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from queue import SimpleQueue

import pytest

from tests.conftest import Tell
from tests.lab import crash, pki
from tests.lab.crash import Place
from tests.lab.device import Device, Wish
from tests.lab.finished import end, failed_tries
from tests.lab.world import World

OPERATOR = """\
# Ours.
hostname = "device-0001"

[agent]
name = "edgeAgent"
type = "docker"

[agent.config]
image = "registry.example/edge-agent:1.5"
"""
LATER = 75


Cut = Callable[[Device], int]  # gives how many failed tries the TPM may count for it


def agent_is_killed(device: Device) -> int:
    """The rest goes on."""
    return 0


def power_fails(device: Device) -> int:
    """If a key with dictionary attack protection was in use, the TPM counts a power cut as a failed
    try (TPM 2.0 Library, part 1, 19.8.6). Ours have none, the key service's own have."""
    tries = int(crash.is_configured(device))
    crash.power_cut(device)
    return tries


# --- cut off, and run again ---


@dataclass(frozen=True)
class Moment:
    """So long after the agent began to call `iotedge`."""

    seconds: float


class Town:
    """A world, devices made in it one after the other, and how one is when all went well."""

    def __init__(self, world: World, directory: Path, wish: Wish, settings: str) -> None:
        self.world, self.directory, self.wish = world, directory, wish
        self._settings = settings
        before = self._issued()
        with self._device() as device:
            self.places = crash.places(device, directory / "trace")
            self.undisturbed = end(device)
        self._needed = self._issued_since(before)

    @contextmanager
    def _device(self) -> Iterator[Device]:
        """Fresh from the factory; `settings` is what its owner left in IoT Edge's config.toml."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir()
        device = Device(self.world, self.directory / "device", self.wish)
        if self._settings:
            pki.write_private(device.aziot / "config.toml", self._settings.encode())
        try:
            with device:
                yield device
        finally:
            crash.kill_programs(device)

    def _issued(self) -> list[int]:
        world = self.world
        return [len(world.issued(site)) for site in (world.owner_est, world.operations_est)]

    def _issued_since(self, before: list[int]) -> list[int]:
        return [now - then for now, then in zip(self._issued(), before, strict=True)]

    def survives(self, place: Place | Moment, cut: Cut) -> None:
        before = self._issued()
        with self._device() as device:
            if isinstance(place, Place):
                crash.kill_at(device, place, self.directory / "trace")
            else:
                crash.kill_amid(device, "aziot-config", place.seconds)
            tries = cut(device)
            recover(device)
            assert end(device) == self.undisturbed
            assert failed_tries(device) <= tries
        issued = zip(self._issued_since(before), self._needed, strict=True)
        extra = [found - needed for found, needed in issued]
        assert set(extra) <= {0, 1}, f"certificates issued beyond what is needed: {extra}"


def recover(device: Device) -> None:
    """Run the agent until it is content, then once more; and ask it."""
    for _ in range(3):
        run = device.agent("provision")
        if run.returncode != LATER:
            break
    assert run.returncode == 0, run.stderr
    again = device.agent("provision")
    assert again.returncode == 0, again.stderr
    assert all("already done" in line for line in again.stderr.splitlines()), again.stderr
    asked = device.agent("status")
    assert asked.returncode == 0, asked.stdout + asked.stderr


class Towns:
    """As many as there are workers, for it is not written in a certificate who asked for it."""

    def __init__(self, worlds: list[World], base: Path, wish: Wish, settings: str = "") -> None:
        self._free: SimpleQueue[Town] = SimpleQueue()
        made = [Town(w, base / str(n), wish, settings) for n, w in enumerate(worlds)]
        self.places, self._workers = made[0].places, len(made)
        for town in made:
            self._free.put(town)

    def survive(self, cuts: Sequence[tuple[Place | Moment, Cut]]) -> None:
        """All that went wrong is told together."""
        with ThreadPoolExecutor(self._workers) as workers:
            failed = [told for told in workers.map(self._survives, cuts) if told]
        assert not failed, f"{len(failed)} of {len(cuts)}:\n" + "\n".join(failed)

    def _survives(self, at: tuple[Place | Moment, Cut]) -> str:
        town, (place, cut) = self._free.get(), at
        try:
            town.survives(place, cut)
        except Exception as e:  # told by the test, with all others
            edge = crash.iotedge_said(town.directory / "device")
            said = f"{type(e).__name__}: {e}\n{getattr(e, 'stderr', '')}\n{edge}"
            return f"--- {place}, {cut.__name__}: {said}"
        finally:
            self._free.put(town)
        return ""


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[World]]:
    with ExitStack() as stack:
        base = tmp_path_factory.mktemp("worlds")
        yield [stack.enter_context(World(base / name)) for name in ("one", "two")]


@pytest.fixture(scope="module")
def towns(worlds: list[World], tmp_path_factory: pytest.TempPathFactory) -> Towns:
    return Towns(worlds, tmp_path_factory.mktemp("c"), Wish())


def test_killed_at_any_effect_the_first_boot_is_finished_by_the_next_run(
    towns: Towns, tell: Tell
) -> None:
    effects = [place for place in towns.places if not place.waits]
    assert len(effects) > 70
    towns.survive([(place, agent_is_killed) for place in effects])
    tell(f"{len(effects)} kill points of a first boot, all there are: every one survived")


def test_when_the_power_fails_the_first_boot_is_finished_after_the_next_start(
    towns: Towns, tell: Tell
) -> None:
    effects = [place for place in towns.places if not place.waits]
    waiting = [place for place in towns.places if place.waits]
    edge = next(n for n, place in enumerate(effects) if place.call == "vfork")
    moments = [Moment(n * 0.05) for n in range(1, 12)]
    places: list[Place | Moment] = [*effects[:edge:3], *effects[edge:], *waiting, *moments]
    towns.survive([(place, power_fails) for place in places])
    tell(f"{len(places)} power cuts of a first boot: every one survived")


@pytest.mark.parametrize(
    "wish",
    [
        Wish(auth="basic", operational_auth="basic"),
        Wish(auth="secret", issued_by="static", key="rsa2048"),
    ],
    ids=lambda wish: f"{wish.auth}-{wish.issued_by}-{wish.key}",
)
def test_so_it_is_in_other_configurations_and_with_settings_of_the_owner(
    worlds: list[World],
    tmp_path_factory: pytest.TempPathFactory,
    wish: Wish,
    tell: Tell,
) -> None:
    """A sample, and all that is about the owner's settings."""
    towns = Towns(worlds, tmp_path_factory.mktemp("c"), wish, OPERATOR)
    places = [p for n, p in enumerate(towns.places) if "before-tpm" in p.what or n % 20 == 0]
    towns.survive(list(zip(places, cycle([power_fails, agent_is_killed]), strict=False)))
    tell(f"{len(places)} kills and power cuts, {wish.auth} and {wish.issued_by}: all survived")
