"""A reset cut off, and finished by the same command.

Whenever that is: before anything has gone it is written down what goes and what is to be revoked,
and the device is not provisioned by itself; no certificate has gone while its key is there; what is
not the owner's stays as it is. At the end nothing is different from a reset that nobody disturbed.

One without the TPM leaves what is in that as it is, and is not the end: `reset` alone is, then.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import pkcs11
from agent.state import State
from agent.steps import ldevid_key
from agent.tpm import HUB_KEY, Tpm
from tests.lab import crash, instant
from tests.lab.crash import Place
from tests.lab.cuts import Cut
from tests.lab.device import Device, Wish
from tests.lab.finished import differences, failed_tries
from tests.lab.world import World

# Written anew each time: a signature in it, a time, and what programs said.
NOT_SAME = ("receipt.jsonl", "failure.json", "tpm", "edge", "credentials", "run")
WITHOUT = "--without-tpm"
OURS = {ldevid_key.HANDLE, HUB_KEY}  # what goes of the TPM in any case


@dataclass(frozen=True)
class End:
    handles: dict[int, bytes]
    indices: list[int]
    loaded: set[int]
    files: dict[str, bytes]
    edge: list[str]
    hand_over: dict[str, Any]


def end(device: Device) -> End:
    with Tpm(device.tcti) as tpm:
        handles = {handle: tpm.public(handle) for handle in tpm.persistent()}
        return End(
            handles={at: public.blob for at, public in handles.items() if public},
            indices=tpm.nv_indices(),
            loaded=tpm.loaded(),
            files=dict(_files(device)),
            edge=[path.name for path in device.edge.glob("certd/certs/*")],
            hand_over=_mark(device)["hand_over"],
        )


def _files(device: Device) -> Iterator[tuple[str, bytes]]:
    """A token's database is another each time: what is in it is looked at."""
    for path in device.directory.rglob("*"):
        name = path.relative_to(device.directory)
        if path.is_file() and not {*name.parts} & {*NOT_SAME}:
            yield str(name), b"" if name.parts[0] == "pkcs11" else path.read_bytes()
    token = pkcs11.look(device.pkcs11, "edge") if device.pkcs11.exists() else None
    assert token is None or (device.state / "pins.json").exists(), (
        "a token, and nobody knows its PIN"
    )


def _mark(device: Device) -> dict[str, Any]:
    path = State(device.state).reset
    return dict(json.loads(path.read_text())) if path.exists() else {}


class Reset:
    """A device that was provisioned once, and is let go as often as one wants; with `arguments`."""

    def __init__(self, world: World, directory: Path, wish: Wish, *arguments: str) -> None:
        self._arguments, self._trace = arguments, directory / "trace"
        self._edge, self._without_tpm = wish.target == "edge", WITHOUT in arguments
        self.device = Device(world, directory / "device", wish)
        self._kept = directory / "kept"
        self._provisioned()
        with self._taken() as device:
            self._before, self._tries = _files_now(device), failed_tries(device)
            self.places: list[Place] = crash.places(device, self._trace, self._command("-y"))
            self.undisturbed = end(device)

    def _provisioned(self) -> None:
        with self.device as device:
            if self._edge and device.wish.attestation == "tpm":
                device.enrol()
            done = device.agent("provision")
            assert done.returncode == 0, done.stderr
            with Tpm(device.tcti) as tpm:
                self._ours = OURS & {*tpm.persistent()}
        leave = shutil.ignore_patterns("*.sock*", ".lock", "*.log")
        shutil.copytree(device.directory, self._kept, symlinks=True, ignore=leave)

    @contextmanager
    def _taken(self) -> Iterator[Device]:
        """As it was when it was provisioned; IoT Edge is at work."""
        shutil.rmtree(self.device.directory)
        shutil.copytree(self._kept, self.device.directory, symlinks=True)
        try:
            self.device.power_on()
            if self._edge:
                done = self.device.run(["systemctl", "start", "aziot-keyd"])
                assert done.returncode == 0, done.stderr
            yield self.device
        finally:
            crash.kill_programs(self.device)
            self.device.power_cut()

    def _command(self, *more: str) -> list[str]:
        return self.device.agent_command("reset", *self._arguments, *more)

    def survives(self, cut: Cut) -> bool:
        assert isinstance(cut.at, Place)
        with self._taken() as device:
            command = self._command("-y")
            just = crash.kill_at(device, cut.at, self._trace, command) == cut.at.what
            if cut.power:
                device.power_cut()
                crash.kill_programs(device)
                device.power_on()
            # Keys of IoT Edge's own may count a power cut as a failed try.
            tries = self._tries + int(cut.power and self._edge)
            assert failed_tries(device) <= tries
            begun = self._at_once(device)
            done = device.run(self._command() if begun else command)
            assert done.returncode == 0, done.stderr
            assert not (found := differences(end(device), self.undisturbed)), found
            assert failed_tries(device) <= tries
            if self._without_tpm:
                _the_rest(device)
        return just

    def _at_once(self, device: Device) -> bool:
        """Whether the reset has begun."""
        assert instant.told_secrets(device) == []
        mark = _mark(device)
        with Tpm(device.tcti) as tpm:
            there = {*tpm.persistent()}
        if not mark:
            assert _files_now(device) == self._before
            assert there >= self._ours
            return False
        assert mark["hand_over"] == self.undisturbed.hand_over
        assert there >= self.undisturbed.handles.keys()
        if not self._without_tpm:
            _keys_first(device, there)
        if device.config.exists():
            _waits(device, mark)
        return True

    def said(self) -> str:
        return crash.iotedge_said(self.device.directory)


def _the_rest(device: Device) -> None:
    """Now that the TPM is asked."""
    assert _mark(device)["phase"] == "tpm"
    done = device.agent("reset", "-y")
    assert done.returncode == 0, done.stderr
    with Tpm(device.tcti) as tpm:
        assert not OURS & {*tpm.persistent()}
    assert _mark(device)["phase"] == "done"


def _waits(device: Device, mark: dict[str, Any]) -> None:
    asked = device.agent("provision")
    code = "reset-waits" if mark["phase"] == "done" else "reset-under-way"
    assert (asked.returncode, f"[{code}]" in asked.stderr) == (78, True), asked.stderr


def _keys_first(device: Device, there: set[int]) -> None:
    """No part of what comes later has gone while a part of what comes before is there."""
    state = State(device.state)
    stages: Sequence[bool] = [
        bool(OURS & there),
        state.ldevid_key.exists() or state.pins.exists() or state.assignment.exists(),
        state.ldevid_cert.exists(),
        state.tpm.exists(),
    ]
    parts = [
        name for name, part in zip(("keys", "blobs", "certificate"), stages, strict=False) if part
    ]
    assert stages[3] or not parts, f"the state has gone before {parts}"
    if device.wish.attestation == "x509":
        assert stages[2] or not any(stages[:2]), f"the certificate has gone before {parts}"
    assert stages[1] or not stages[0], "what could load the keys anew has gone before them"


def _files_now(device: Device) -> dict[str, bytes]:
    """All that is in the state directory, but for the notes on what was loaded."""
    files = [path for path in device.state.iterdir() if path.is_file()]
    own = [
        path for path in files if "tpm-loaded" not in path.name and not path.name.startswith(".")
    ]
    return {path.name: path.read_bytes() for path in own}
