"""The companion is cut off at what it does about certificates, and then run again.

Scenes of the life of a device: its LDevID is renewed, with its own key or a new one; its CA is
succeeded; it expires, or everything does, in a drawer; IoT Edge is stuck, and is restarted, or
loses a certificate. In each, the companion is killed at one effect after the other (as in
test_crash), and every third time the power fails instead.

Before anything else can run, the LDevID that is in use must be whole, and for a key that is there:
the old one or the new one, at every instant. Then the companion finishes what it began.
"""

import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from tests.conftest import Tell
from tests.lab import aftermath, crash, in_use
from tests.lab.crash import Place
from tests.lab.finished import End, differences, end, failed_tries
from tests.lab.scenes import ENDS, SCENES, Home, Scene
from tests.test_crash import power_fails

PLAYED = [scene for scene in SCENES.values() if scene.after]
TLS = threading.Lock()  # for the few handshakes of this very process


@dataclass(frozen=True)
class Played:
    """A scene that nobody disturbed: what the companion did, how it ended, and how many
    certificates were issued."""

    places: list[Place]
    end: End
    issued: list[int]


class Stage:
    """A device in a world of its own, for one worker."""

    def __init__(self, directory: Path) -> None:
        self.home, self._trace = Home(directory), directory / "trace"

    @property
    def _command(self) -> list[str]:
        return self.home.device.agent_command("health")

    def play(self, scene: Scene, *, traced: bool) -> Played:
        self.home.prepare(scene)
        before, places = self.home.issued(), list[Place]()
        with self.home.alive(scene.name) as device:
            if traced:
                places = crash.places(device, self._trace, self._command, ENDS)
            aftermath.content(device)
            found = self._end(scene)
        return Played(places, found, self._issued_since(before, scene))

    def _issued_since(self, before: list[int], scene: Scene) -> list[int]:
        new = [now - then for now, then in zip(self.home.issued(), before, strict=True)]
        return new[:1] if scene.busy else new

    def _end(self, scene: Scene) -> End:
        found = end(self.home.device)
        ours = [key for key in found.keys if key[0].startswith("ldevid")]
        return replace(found, keys=ours) if scene.busy else found

    def survives(self, scene: Scene, well: Played, place: Place, *, power: bool) -> bool:
        """Whether it was cut off just there."""
        before = self.home.issued()
        with self.home.alive(scene.name) as device:
            tries = failed_tries(device)
            what = crash.kill_at(device, place, self._trace, self._command, ENDS)
            if power:
                device.power_cut()
                crash.kill_programs(device)
                self._in_use(scene)
                tries += power_fails(device)
            else:
                self._in_use(scene, logs_in=place.nth % 3 == 0)
            aftermath.content(device)
            assert differences(self._end(scene), well.end) == []
            assert failed_tries(device) <= tries
            self._in_use(scene)
        issued = zip(self._issued_since(before, scene), well.issued, strict=True)
        extra = [found - needed for found, needed in issued]
        assert set(extra) <= {0, 1}, f"certificates issued beyond what is needed: {extra}"
        return what == place.what

    def _in_use(self, scene: Scene, *, logs_in: bool = False) -> None:
        pair, now = in_use.consistent(self.home.device), self.home.clock.now()
        leaf = pair.chain[0]
        valid = leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc
        assert valid or scene.expired
        if logs_in and valid:
            with TLS:
                in_use.logs_in(self.home.device, pair)


class Stages:
    """As many as there are workers; each scene is played undisturbed on all of them."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages
        self._together(lambda stage: stage.home.make())
        self._common: list[Place] = []

    def _together(self, what: Callable[[Stage], Any]) -> list[Any]:
        with ThreadPoolExecutor(len(self._stages)) as workers:
            return list(workers.map(what, self._stages))

    def survive(self, scene: Scene) -> str:
        """All that went wrong is told together."""
        first = self._stages[0]
        found: list[Played] = self._together(lambda each: each.play(scene, traced=each is first))
        places = own(found[0].places, self._common)
        places = places if scene.whole else sampled(places)[:: scene.every]
        self._common = self._common or found[0].places
        free: SimpleQueue[tuple[Stage, Played]] = SimpleQueue()
        for each in zip(self._stages, found, strict=True):
            free.put(each)

        def survives(at: tuple[int, Place]) -> tuple[bool, str]:
            (stage, well), (n, place) = free.get(), at
            try:
                return stage.survives(scene, well, place, power=n % 3 == 0), ""
            except Exception:  # told by the test, with all others
                said = crash.iotedge_said(stage.home.device.directory)
                return False, f"--- {place}, number {n}:\n{traceback.format_exc()}\n{said}"
            finally:
                free.put((stage, well))

        with ThreadPoolExecutor(len(self._stages)) as workers:
            ended = list(workers.map(survives, enumerate(places)))
        failed = [told for _, told in ended if told]
        assert not failed, f"{len(failed)} of {len(places)}:\n" + "\n".join(failed)
        cuts, there = len(range(0, len(places), 3)), sum(just for just, _ in ended)
        kills = f"{len(places) - cuts} kills and {cuts} power cuts"
        return f"{scene.name}: {kills}, {there} just where they should be: all survived"


# --- where ---


def own(places: list[Place], common: list[Place]) -> list[Place]:
    """Without what is the same, at the beginning and at the end after the last program, in a scene
    that was played already."""

    def same(pair: tuple[Place, Place]) -> bool:
        return (pair[0].call, pair[0].what) == (pair[1].call, pair[1].what)

    ends = [place.call == "vfork" for place in places[::-1]].index(True)
    before = len(list(takewhile(same, zip(places, common, strict=False))))
    after = len(list(takewhile(same, zip(places[::-1][:ends], common[::-1], strict=False))))
    return places[before : len(places) - after]


def sampled(places: list[Place]) -> list[Place]:
    """All that puts a file into its place or takes it away, changes the token or the TPM, or has to
    do with programs. The more places, the less of the rest: one of the steps to a new file, to some
    of them; and some of what cannot differ much: messages, waiting, syncing, and the token's
    journal, which test_pkcs11_crash is about."""
    every, every_file = 1 + len(places) // 20, 1 + len(places) // 60
    minor = [place for place in places if is_minor(place)]
    left_out = {place for n, place in enumerate(minor) if n % every}
    steps = [place for place in places if place.what.endswith(".new")]
    for n, file in enumerate(dict.fromkeys(place.what for place in steps)):
        of = [place for place in steps if place.what == file]
        left_out |= {*of} - ({of[n // every_file % len(of)]} if n % every_file == 0 else set())
    return [place for place in places if place not in left_out]


def is_minor(place: Place) -> bool:
    of_journal = place.call == "pwrite64" and place.what.endswith("-journal")
    return place.waits or of_journal or "sync" in place.call or place.what in ("message", "")


# --- the tests ---


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    with ExitStack() as stack:
        base = tmp_path_factory.mktemp("lives")
        made = [Stage(base / name) for name in ("one", "two")]
        for stage in made:
            stack.enter_context(stage.home.world)
        yield Stages(made)


@pytest.mark.parametrize("scene", PLAYED, ids=lambda scene: scene.name)
def test_cut_off_anywhere_a_device_has_an_ldevid_and_finishes_what_it_began(
    stages: Stages, scene: Scene, tell: Tell
) -> None:
    tell(stages.survive(scene))
