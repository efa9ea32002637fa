"""How a device without IoT Edge gets, or changes, its place at DPS and at a hub; and a device that
can be put back to where that begins, with what DPS and the hubs know of it.

scene = SCENES["first-tpm"]
with Stage(world, other, directory, "device-1") as stage:
    stage.make(scene)
    for _ in range(10):
        with stage.alive(scene) as device:  # ten times the same morning
            device.agent("provision")
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from tpm2_pytss.constants import TPM2_HC, TPM2_SU

from agent.state import State
from agent.steps import assigned
from agent.steps.assigned import Kept
from agent.tpm import Tpm
from tests.lab import aftermath
from tests.lab.device import Device, Wish
from tests.lab.dps_hubs import Hubs
from tests.lab.factory import Board
from tests.lab.hub import Hub
from tests.lab.registered import End, Watched
from tests.lab.world import World

HEALTH, LINE = {"ldevid": {"spread": "1%"}}, "line"
TPM, X509 = ("tpm", True), ("x509", False)
ENROLLING = threading.Lock()  # for what several stages share: the file of enrolments, boards
Command = tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """`kind`: attestation, and whether the TPM is as its maker ships it. `happens`: at DPS and the
    hubs, each time; to a device that was registered, unless `first`. `command` deals with it; where
    it was cut off, it does so when it comes `again`. `days`: later. `old_works`: at its hub, until
    DPS is asked."""

    name: str
    kind: tuple[str, bool]
    happens: Callable[["Stage"], None]
    command: Command
    first: bool = False
    old_works: bool = False
    days: int = 0

    @property
    def again(self) -> Sequence[Command]:
        return [self.command] * (3 if self.command[0] == "health" else 1)


def is_unknown(stage: "Stage") -> None:
    stage.world.dps.remove(stage.id)


def is_rotated(stage: "Stage") -> None:
    """Its key is another one at its hub, which refuses the one before."""
    stage.at(stage.world.hub, os.urandom(32))


def is_moved(stage: "Stage") -> None:
    """The operator wants it at another hub; it stays where it is until it registers."""
    stage.at(stage.world.hub, stage.key)
    stage.belongs_to(stage.other)


def is_as_it_was(stage: "Stage") -> None:
    stage.at(stage.world.hub, stage.key)


AGAIN, SEND = ("provision", "--reregister"), ("telemetry", LINE)
_SCENES = [
    Scene("first-tpm", TPM, is_unknown, ("provision",), first=True),
    Scene("moved", TPM, is_moved, AGAIN, old_works=True),
    Scene("rotated", TPM, is_rotated, SEND),
    Scene("first-x509", X509, is_unknown, ("provision",), first=True),
    Scene("renewal", X509, is_as_it_was, ("health",), days=65),
]
SCENES = {scene.name: scene for scene in _SCENES}


class Stage(Watched):
    """A device in a world that it shares with others; `other`: a hub it may be moved to."""

    def __init__(self, world: World, other: Hub, directory: Path, name: str) -> None:
        super().__init__(world, other, name)
        self._top = directory
        self._thumbprint: str | None = None
        self._agent: subprocess.Popen[str] | None = None

    # --- where it begins ---

    def make(self, scene: Scene) -> None:
        """Up to where the scene begins, but for what it is `later`."""
        shutil.rmtree(self._top, ignore_errors=True)
        self._top.mkdir()
        self.before, self.key, self._thumbprint = Kept(), None, None
        attestation, virgin = scene.kind
        self.id = f"{self.name}-{attestation}"
        board = Board(virgin=virgin) if virgin else Board(id=f"board-of-{self.name}")
        wish: dict[str, Any] = {"attestation": attestation, "board": board}
        asked = Wish(id=self.id, target="device", enrolled=False, **wish)
        with ENROLLING:
            self.device = Device(self.world, self._top / "device", asked)
        self.device.configure(HEALTH if attestation == "x509" else {})
        self.device.directory.joinpath(LINE).write_text(f"{self.id} says something\n")
        self.device.power_on()
        if attestation == "tpm":
            with ENROLLING:
                self.device.enrol()
        if not scene.first:
            done = self.device.agent("provision")
            assert done.returncode == 0, done.stderr
            self._remember()
        self._save()

    def _remember(self) -> None:
        self.before, hubs = assigned.load(State(self.device.state)), Hubs(self.world.dps.registry)
        self.key = hubs.key(self.id)
        self._thumbprint = hubs.of(self.id)[self.world.hub.host]["thumbprint"]

    def _save(self) -> None:
        """Switched off in good order."""
        with Tpm(self.device.tcti) as tpm:
            self.handles = {*tpm.handles(TPM2_HC.PERSISTENT_FIRST)}
            tpm.esys.shutdown(TPM2_SU.CLEAR)
        self.device.power_cut()
        leave = shutil.ignore_patterns("*.sock*", ".lock", "*.log")
        shutil.copytree(self.device.directory, self._top / "saved", symlinks=True, ignore=leave)

    @contextmanager
    def alive(self, scene: Scene) -> Iterator[Device]:
        """Where the scene begins, and it happens."""
        shutil.rmtree(self.device.directory)
        shutil.copytree(self._top / "saved", self.device.directory, symlinks=True)
        if scene.kind == TPM:
            self.belongs_to(self.world.hub)
        scene.happens(self)
        try:
            self.device.power_on()
            yield self.device
        finally:
            self.device.power_cut()

    def belongs_to(self, hub: Hub) -> None:
        """From when it registers the next time."""
        with ENROLLING:
            self.world.dps.move(self.id, hub.host, stays=True)

    def at(self, hub: Hub, key: bytes | None) -> None:
        Hubs(self.world.dps.registry).put(hub.host, self.id, key, self._thumbprint)

    def command(self, command: Command) -> list[str]:
        return self.device.agent_command(*self._arguments(command))

    def _arguments(self, command: Command) -> list[str]:
        return [str(self.device.directory / LINE) if it == LINE else it for it in command]

    # --- how it ends ---

    def recovers(self, scene: Scene, kept: Kept) -> End:
        """The next runs; then there is nothing left to do, and the hub hears what it says."""
        heard = len(self.heard())
        if kept.candidate is not None and scene.kind == TPM:
            before = self.asked()
            self._run([("provision",)])
            assert self.asked() == before, "what waits is proven, and DPS not asked"
            self._run([SEND, ("provision",)])
        else:
            self._run([*scene.again, SEND, ("provision",)])
        assert len(self.heard()) > heard
        return self.end()

    def _run(self, commands: Sequence[Command]) -> None:
        """None of them fails, and at the end all is done already."""
        agent = self._agent or self._started()
        assert agent.stdin is not None
        assert agent.stdout is not None
        agent.stdin.write(json.dumps([self._arguments(each) for each in commands]) + "\n")
        agent.stdin.flush()
        runs = json.loads(agent.stdout.readline())
        assert all(run["code"] == 0 and "Traceback" not in run["stderr"] for run in runs), runs
        if len(commands) > 1:
            assert all("already done" in line for line in runs[-1]["stderr"].splitlines()), runs

    def _started(self) -> subprocess.Popen[str]:
        """It ends when it is told nothing more."""
        command = [sys.executable, "-P", aftermath.__file__, str(self.device.config), "serve"]
        pipe, env = subprocess.PIPE, self.device.environment()
        self._agent = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True)
        return self._agent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._agent is not None:
            self._agent.communicate()


def later(world: World, scene: Scene) -> None:
    if scene.days and world.clock:
        world.clock.advance(timedelta(days=scene.days))
