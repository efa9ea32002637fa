"""The companion cut off at what it does about certificates, in scenes of the life of a device.

Before anything else can run, the LDevID that is in use must be whole, and for a key that is there:
the old one or the new one, at every instant. Then the companion finishes what it began.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from tests.lab import aftermath, crash, in_use, instant
from tests.lab.crash import Place
from tests.lab.cut_first_boot import counted
from tests.lab.cuts import Cut
from tests.lab.device import Device
from tests.lab.finished import End, differences, end, failed_tries
from tests.lab.instant import Bounds, Snapshot
from tests.lab.scenes import ENDS, SCENES, Home, Scene

PLAYED = [scene for scene in SCENES.values() if scene.after]
TLS = threading.Lock()  # for the few handshakes of this very process


@dataclass(frozen=True)
class Well:
    """How a scene ended that nobody disturbed, how many certificates were issued, and what may be
    there in between."""

    end: End
    issued: list[int]
    bounds: Bounds


class Renewal:
    """A device in a world of its own, for one worker, and the scene that is `rehearsed` there."""

    def __init__(self, directory: Path) -> None:
        self.home, self._trace = Home(directory), directory / "trace"
        self.places = list[Place]()

    @property
    def _command(self) -> list[str]:
        return self.home.device.agent_command("health")

    def rehearse(self, scene: Scene, *, traced: bool) -> None:
        self.scene = scene
        self.home.prepare(scene)
        before = self.home.issued()
        with self.home.alive(scene.name) as device:
            fresh = Snapshot.of(device)
            if traced:
                self.places = crash.places(device, self._trace, self._command, ENDS)
            aftermath.content(device)
            bounds = Bounds.of(fresh, Snapshot.of(device))
            found = self._end(scene)
        self.well = Well(found, self._issued_since(before, scene), bounds)

    def _issued_since(self, before: list[int], scene: Scene) -> list[int]:
        new = [now - then for now, then in zip(self.home.issued(), before, strict=True)]
        return new[:1] if scene.busy else new

    def _end(self, scene: Scene) -> End:
        found = end(self.home.device)
        ours = [key for key in found.keys if key[0].startswith("ldevid")]
        return replace(found, keys=ours) if scene.busy else found

    def survives(self, cut: Cut) -> bool:
        before, scene = self.home.issued(), self.scene
        with self.home.alive(scene.name) as device:
            just, tries = self._cut_off(device, cut)
            self._at_once(tries, logs_in=not cut.power and hash(cut) % 3 == 0)
            if cut.power:
                crash.services(device)
            aftermath.content(device)
            assert not (found := differences(self._end(scene), self.well.end)), found
            instant.right(device, self.well.bounds, tries=tries)
            self._in_use()
        issued = zip(self._issued_since(before, scene), self.well.issued, strict=True)
        extra = [found - needed for found, needed in issued]
        assert set(extra) <= {0, 1}, f"certificates issued beyond what is needed: {extra}"
        return just

    def _cut_off(self, device: Device, cut: Cut) -> tuple[bool, int]:
        """Whether just there; and how many failed tries the TPM may count."""
        assert isinstance(cut.at, Place)
        tries = failed_tries(device)
        just = crash.kill_at(device, cut.at, self._trace, self._command, ENDS) == cut.at.what
        if cut.power:
            device.power_cut()
            crash.kill_programs(device)
            device.power_on()
            tries += counted(device)
        return just, tries

    def _at_once(self, tries: int, *, logs_in: bool) -> None:
        self._in_use(logs_in=logs_in)
        instant.right(self.home.device, self.well.bounds, tries=tries)

    def _in_use(self, *, logs_in: bool = False) -> None:
        pair, now = in_use.consistent(self.home.device), self.home.clock.now()
        leaf = pair.chain[0]
        valid = leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc
        assert valid or self.scene.expired
        if logs_in and valid:
            with TLS:
                in_use.logs_in(self.home.device, pair)

    def said(self) -> str:
        return crash.iotedge_said(self.home.device.directory)


def rehearse(workers: Sequence[Renewal], scene: Scene) -> list[Place]:
    """On all of them; and where the companion can be cut off."""
    first = workers[0]
    together(workers, lambda each: each.rehearse(scene, traced=each is first))
    return first.places


def together(workers: Sequence[Renewal], what: Callable[[Renewal], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(workers)) as pool:
        return list(pool.map(what, workers))


def own(places: list[Place], common: list[Place]) -> list[Place]:
    """Without what is the same, at the beginning and at the end after the last program, in a scene
    that was played already."""

    def same(pair: tuple[Place, Place]) -> bool:
        return (pair[0].call, pair[0].what) == (pair[1].call, pair[1].what)

    ends = [place.call == "vfork" for place in places[::-1]].index(True)
    before = len(list(takewhile(same, zip(places, common, strict=False))))
    after = len(list(takewhile(same, zip(places[::-1][:ends], common[::-1], strict=False))))
    return places[before : len(places) - after]
