"""How a device without IoT Edge gets, or changes, its place at DPS and at a hub; and a device that
can be put back to where that begins, with what DPS and the hubs know of it.

stage = Stage(world, other, directory, "device-1")
stage.make(SCENES["first-tpm"])
with stage.alive() as device:
    device.agent("provision")
"""

import base64
import hashlib
import hmac
import json
import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from tpm2_pytss.constants import TPM2_HC, TPM2_SU

from agent.ek import DPS_EK
from agent.state import State, read_json
from agent.steps import assigned, ldevid_key, srk
from agent.steps.assigned import Assignment, Kept
from agent.tpm import Tpm
from agent.tpm.imported import HUB_KEY
from tests.lab import aftermath
from tests.lab.device import Device, Wish
from tests.lab.dps_hubs import Hubs
from tests.lab.factory import Board
from tests.lab.finished import failed_tries
from tests.lab.hub import Hub
from tests.lab.world import World

DATA = b"signed to see whose key this is"
OURS = {DPS_EK.handle, srk.HANDLE, ldevid_key.HANDLE, HUB_KEY}
HEALTH, LINE = {"ldevid": {"spread": "1%"}}, "line"
TPM, X509 = ("tpm", True), ("x509", False)
ENROLLING = threading.Lock()  # for the file of enrolments, and several stages
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


@dataclass(frozen=True)
class End:
    """What is the same whatever came in between."""

    handles: set[int]
    nv: set[int]
    files: dict[str, str]


class Stage:
    """A device in a world that it shares with others; `other`: a hub it may be moved to."""

    def __init__(self, world: World, other: Hub, directory: Path, name: str) -> None:
        self.world, self.other, self.name, self._top = world, other, name, directory
        self.id = name
        self.key: bytes | None = None
        self._thumbprint: str | None = None
        self.before = Kept()
        self._handles = set[int]()

    # --- where it begins ---

    def make(self, scene: Scene) -> None:
        """Up to where the scene begins, but for what it is `later`."""
        shutil.rmtree(self._top, ignore_errors=True)
        self._top.mkdir()
        self.before, self.key, self._thumbprint = Kept(), None, None
        attestation, virgin = scene.kind
        self.id = f"{self.name}-{attestation}"
        wish: dict[str, Any] = {"attestation": attestation, "board": Board(virgin=virgin)}
        asked = Wish(id=self.id, target="device", enrolled=False, **wish)
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
            self._handles = {*tpm.handles(TPM2_HC.PERSISTENT_FIRST)}
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

    # --- what is true at any moment ---

    def consistent(self, scene: Scene, *, signs: bool) -> Kept:
        """Nobody else has run since it was cut off. `signs`: there is room in the TPM."""
        device, known = self.device, Hubs(self.world.dps.registry).of(self.id)
        kept = self._kept()
        assert failed_tries(device) == 0
        with Tpm(device.tcti) as tpm:
            assert {*tpm.handles(TPM2_HC.PERSISTENT_FIRST)} <= self._handles | OURS
            at_handle = tpm.public(HUB_KEY)
            if signs and kept.proven and kept.proven.key:
                assert self._signs(tpm, kept.proven) is not None
        blobs = [
            each.key.public for each in (*self._both(kept), *self._both(self.before)) if each.key
        ]
        assert at_handle is None or at_handle.blob in blobs
        if scene.old_works and self.world.hub.host in known:
            assert kept.proven == self.before.proven
        self._keeps_secrets(known)
        return kept

    def _both(self, kept: Kept) -> list[Assignment]:
        return [each for each in (kept.proven, kept.candidate) if each is not None]

    def _kept(self) -> Kept:
        """The file is not there, or all of it can be read; and there is one that is proven, if
        there was."""
        state = State(self.device.state)
        kept, text = assigned.load(state), read_json(state.assignment)
        assert (text is None) == (not state.assignment.exists())
        assert len(text or {}) == len(self._both(kept))
        assert (kept.proven is None) <= (self.before.proven is None)
        return kept

    def _signs(self, tpm: Tpm, one: Assignment) -> bool | None:
        """Its key works; whether it is the one that its hub knows, or the one before."""
        assert one.key is not None
        made = assigned.sign(tpm, one.key, DATA)
        entry = Hubs(self.world.dps.registry).of(self.id).get(one.hub)
        keys = [self.key, base64.b64decode(entry["key"]) if entry else None]
        return made in [hmac.digest(key, DATA, hashlib.sha256) for key in keys if key] or None

    def _keeps_secrets(self, known: dict[str, dict[str, Any]]) -> None:
        """No file has a key in the clear, whoever may read it."""
        keys = [
            self.key,
            *(base64.b64decode(each["key"]) for each in known.values() if each["key"]),
        ]
        written = [form for key in keys if key for form in _forms(key)]
        for path in self.device.directory.rglob("*"):
            if path.is_file() and self.device.tpm not in path.parents:
                data = path.read_bytes()
                assert not any(form in data for form in written), path

    # --- how it ends ---

    def asked(self) -> Counter[str]:
        """DPS, by this device; and for certificates, the owner's CA, by all."""
        return Counter(each["step"] for each in self.world.dps.requests(self.id))

    def recovers(self, scene: Scene, kept: Kept) -> End:
        """The next runs; then there is nothing left to do, and the hub hears what it says."""
        heard = len(self._heard())
        if kept.candidate is not None and scene.kind == TPM:
            before = self.asked()
            self._run([("provision",)])
            assert self.asked() == before, "what waits is proven, and DPS not asked"
            self._run([SEND, ("provision",)])
        else:
            self._run([*scene.again, SEND, ("provision",)])
        assert len(self._heard()) > heard
        return self.end()

    def _run(self, commands: Sequence[Command]) -> None:
        """None of them fails, and at the end all is done already."""
        said = json.dumps([self._arguments(each) for each in commands])
        script = [sys.executable, "-P", aftermath.__file__, str(self.device.config), said]
        done = self.device.run(script)
        assert done.returncode == 0, done.stderr
        runs = json.loads(done.stdout)
        assert all(run["code"] == 0 and "Traceback" not in run["stderr"] for run in runs), runs
        if len(commands) > 1:
            assert all("already done" in line for line in runs[-1]["stderr"].splitlines()), runs

    def _heard(self) -> list[dict[str, Any]]:
        return [m for hub in (self.world.hub, self.other) for m in hub.messages(self.id)]

    def end(self) -> End:
        """What is in use is what DPS and the hub know, and nothing is left over."""
        kept = self._kept()
        [(host, entry)] = Hubs(self.world.dps.registry).of(self.id).items()
        now = kept.proven
        assert now is not None
        assert kept.candidate is None
        assert now.hub == host
        with Tpm(self.device.tcti) as tpm:
            assert not (left := tpm.loaded()), [*map(hex, left)]
            found = tpm.public(HUB_KEY)
            if now.key is None:
                assert entry["thumbprint"] == now.asked["shown"]
            else:
                assert found is not None
                assert found.blob == now.key.public
                key = base64.b64decode(entry["key"])
                assert tpm.hmac(HUB_KEY, DATA) == hmac.digest(key, DATA, hashlib.sha256)
            handles = {*tpm.handles(TPM2_HC.PERSISTENT_FIRST)}
            nv = {*tpm.nv_indices()}
        assert failed_tries(self.device) == 0
        return End(handles, nv, self._files())

    def _files(self) -> dict[str, str]:
        """But for the TPM's, and what is no secret and written over at the next registration."""
        top, state = self.device.directory, State(self.device.state)
        others = {self.device.tpm, state.turn.with_name(f".{state.turn.name}.new")}
        return {
            str(path.relative_to(top)): oct(path.stat().st_mode)
            for path in top.rglob("*")
            if not others & {path, *path.parents}
        }


def later(world: World, scene: Scene) -> None:
    if scene.days and world.clock:
        world.clock.advance(timedelta(days=scene.days))


def _forms(key: bytes) -> list[bytes]:
    return [key, base64.b64encode(key), base64.urlsafe_b64encode(key), key.hex().encode()]
