"""A device without IoT Edge cut off at what it does to get its place at a hub, or to keep it.

Before anything else can run, what was in use is so still, or what is to come has taken its place;
no file holds a key in the clear, and in the TPM is nothing that is not ours. Then the next runs end
as if nothing had happened; DPS may be asked once more than needed.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.lab import crash, instant
from tests.lab.crash import Place
from tests.lab.cuts import Cut
from tests.lab.device import Device
from tests.lab.instant import Bounds, Snapshot
from tests.lab.registered import End
from tests.lab.registering import Scene, Stage, later
from tests.lab.world import World

ENDS = (0, 3)


@dataclass(frozen=True)
class Played:
    """Undisturbed: how it ended, what DPS and the CA were asked for, what may be in between."""

    end: End
    asked: Counter[str]
    bounds: Bounds


class Registration:
    """A stage, the scene that was `made` there, and what happened when nobody disturbed it. A
    Moment is so long after its login at the hub began, of which a thread is in charge."""

    def __init__(self, stage: Stage, trace: Path) -> None:
        self._stage, self._trace = stage, trace
        self.places = list[Place]()

    def make(self, scene: Scene) -> None:
        self._scene = scene
        self._stage.make(scene)

    def play(self, *, traced: bool) -> None:
        stage, scene = self._stage, self._scene
        with stage.alive(scene) as device:
            fresh = Snapshot.of(device)
            before, command = stage.asked(), stage.command(scene.command)
            if traced:
                self.places = crash.places(device, self._trace, command, ENDS)
            end = stage.recovers(scene, stage.consistent(old_works=scene.old_works, signs=True))
            bounds = Bounds.of(fresh, Snapshot.of(device))
            self._well = Played(end, stage.asked() - before, bounds)

    def survives(self, cut: Cut) -> bool:
        stage, scene, well = self._stage, self._scene, self._well
        with stage.alive(scene) as device:
            before = stage.asked()
            just = self._cut_off(device, cut)
            kept = stage.consistent(old_works=scene.old_works, signs=cut.power)
            instant.right(device, well.bounds, tries=0)
            found = vars(stage.recovers(scene, kept))
            for name, value in vars(well.end).items():
                assert found[name] == value, name
            instant.right(device, well.bounds, tries=0)
            extra = stage.asked() - before - well.asked
            assert not extra or max(extra.values()) <= 1, f"asked beyond what is needed: {extra}"
        return just

    def _cut_off(self, device: Device, cut: Cut) -> bool:
        command = self._stage.command(self._scene.command)
        if isinstance(cut.at, Place):
            just = crash.kill_at(device, cut.at, self._trace, command, ENDS) == cut.at.what
        else:
            just = crash.kill_login(device, command, cut.at.seconds)
        if cut.power:
            device.power_cut()
            device.power_on()
        return just

    def said(self) -> str:
        return ""


def play(actors: Sequence[Registration], world: World, scene: Scene) -> list[Place]:
    """On all of them; and where the agent can be cut off."""
    first, *others = actors
    first.make(scene)
    with ThreadPoolExecutor(len(actors)) as workers:
        list(workers.map(lambda each: each.make(scene), others))
        later(world, scene)
        list(workers.map(lambda each: each.play(traced=each is first), actors))
    return first.places
