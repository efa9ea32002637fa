"""What is played on a disk that forgets: first boots, the life of an LDevID, a disk that comes into
another board, the factory step."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tpm2_pytss.constants import TPM2_HC

from agent import pkcs11
from agent.state import State
from agent.tpm import Tpm
from tests.lab import aftermath, crash, cut_manufacture, in_use, scenes
from tests.lab.cut_first_boot import recover
from tests.lab.device import Device, Wish
from tests.lab.disk_stage import Play
from tests.lab.factory import Board
from tests.lab.finished import End, end, files
from tests.lab.line import Line
from tests.lab.scenes import ENDS, Home, Scene
from tests.lab.world import World

# The services' own; else who builds the image or tests has another.
PRIVATE = ["sh", "-c", 'umask 077; exec "$@"', "sh"]


@dataclass(frozen=True)
class Act:
    """`play`: makes what is to be played, in a directory, for as long as the stack lasts.
    `goes_on`: from where others left it, on the same stack, in the same directory."""

    name: str
    play: Callable[[str, ExitStack, Path], Play]
    goes_on: bool = False


def stands(device: Device) -> None:
    """There is nothing to be seen but what is true of every device."""


# --- first boots ---


def with_edge(wish: Wish, name: str, stack: ExitStack, base: Path) -> Play:
    world = stack.enter_context(World(base / "world"))
    device = Device(world, base / "device", wish)
    if wish.attestation == "tpm":
        with device:
            device.enrol()
    return _first(name, device, _edge_ends)


def bare(name: str, stack: ExitStack, base: Path) -> Play:
    """No directory of ours is there, and whatever is made is for its owner alone, if nobody says
    otherwise."""
    play = with_edge(Wish(auth="basic", issued_by="static"), name, stack, base)
    device, before = play.device, play.device.pkcs11
    device.state.rmdir()
    device.pkcs11 = device.directory / "var/lib/pkcs11"
    for settings in (device.bin / "iotedge-lab.toml", device.config):
        settings.write_text(settings.read_text().replace(str(before), str(device.pkcs11)))
    return replace(play, command=[*PRIVATE, *play.command])


def killed(name: str, stack: ExitStack, base: Path) -> Play:
    """A run before was killed when the PINs of the token had their name, and the directory was not
    synced: a token with PINs that are not there any more is of no use to anybody."""
    play = with_edge(Wish(), name, stack, base)
    shutil.copytree(play.device.directory, base / "fresh", symlinks=True)
    with _off_in_the_end(play.device) as device:
        found = crash.places(device, base / "trace")
    shutil.rmtree(device.directory)
    shutil.copytree(base / "fresh", device.directory, symlinks=True)
    pins = next(n for n, place in enumerate(found) if _gives_name(place, "state/pins.json"))
    at = next(place for place in found[pins:] if place.call == "fsync")
    with _off_in_the_end(device):
        assert crash.kill_at(device, at, base / "trace") == "state"
    return replace(play, renamed="state/pins.json")


def _gives_name(place: crash.Place, name: str) -> bool:
    return place.call == "rename" and place.what == name


def without_edge(attestation: Any, name: str, stack: ExitStack, base: Path) -> Play:
    world = stack.enter_context(World(base / "world", hub=True))
    world.dps.behave(polls=0, retry_after=0)
    device = Device(world, base / "device", Wish(target="device", attestation=attestation))
    with device:  # its TPM is enrolled
        pass
    return _first(name, device, _device_ends)


def again(name: str, stack: ExitStack, base: Path) -> Play:
    """It is registered, and is to be so again."""
    play = without_edge("tpm", name, stack, base)
    with play.device as device:
        recover(device)
    return replace(play, command=device.agent_command("provision", "--reregister"))


def moved(name: str, stack: ExitStack, base: Path) -> Play:
    """The disk of a provisioned device is put into another board. What was made with the TPM of
    that one is removed file by file."""
    play = with_edge(Wish(), name, stack, base)
    with _off_in_the_end(play.device) as device:
        recover(device)
    shutil.rmtree(device.tpm)
    device.world.solder(Board(id="board-other"), device.tpm)
    return replace(play, in_order=False)


@contextmanager
def _off_in_the_end(device: Device) -> Iterator[Device]:
    try:
        with device:
            yield device
    finally:
        crash.kill_programs(device)


def _first(name: str, device: Device, ends: Callable[[Device], Any]) -> Play:
    world, who = device.world, device.wish.id

    def count() -> list[int]:
        certificates = [len(world.issued(site)) for site in (world.owner_est, world.operations_est)]
        return [*certificates, len(world.dps.assigned(who))]

    command = device.agent_command("provision")
    return Play(name, device, command, ends, count, crash.services, stands)


def _edge_ends(device: Device) -> End:
    recover(device)
    return end(device)


def _device_ends(device: Device) -> tuple[set[int], dict[str, str]]:
    """But for two files that are left to the next who needs them: the new file of who may write
    that of the turn again, and the token's lock."""
    recover(device)
    left = f".{State(device.state).turn.name}.new", f"{pkcs11.DATABASE}.lock"
    with Tpm(device.tcti) as tpm:
        assert not tpm.loaded()
        found = {path: mode for path, mode in files(device).items() if not path.endswith(left)}
        return {*tpm.handles(TPM2_HC.PERSISTENT_FIRST)}, found


# --- the factory ---


def factory(name: str, stack: ExitStack, base: Path) -> Play:
    world = stack.enter_context(World(base / "world"))
    board = Device(world, base / "board", Wish(board=Board(virgin=True)))
    line = Line(board, "est-basic", profile="tcg", key="ecc256")

    def ends(board: Device) -> cut_manufacture.End:
        for _ in range(2):
            done = line.run()
            assert done.returncode == 0, done.stderr
        assert "done: " not in done.stderr.replace("already done: ", "")
        return cut_manufacture.end(board)

    def count() -> list[int]:
        return [len(world.issued(world.factory_est))]

    return Play(name, board, line.command(), ends, count, crash.services, stands)


# --- the life of an LDevID ---


def life(scene: Scene, home: Home, name: str, stack: ExitStack, base: Path) -> Play:
    """`home`: where the scenes before it were played."""
    home.prepare(scene)
    device = home.put_back(scene.name)

    def ends(device: Device) -> End:
        aftermath.content(device)
        found = end(device)
        ours = [key for key in found.keys if key[0].startswith("ldevid")]
        return replace(found, keys=ours) if scene.busy else found

    def count() -> list[int]:
        return home.issued()[: 1 if scene.busy else None]

    def stands(device: Device) -> None:
        in_use.consistent(device)

    command = device.agent_command("health")
    return Play(name, device, command, ends, count, scenes.start, stands, ENDS)


class Lives:
    """Scenes that come one after the other in the life of one device."""

    def __init__(self) -> None:
        self._homes = dict[ExitStack, Home]()

    def __call__(self, scene: Scene, name: str, stack: ExitStack, base: Path) -> Play:
        if stack not in self._homes:
            home = self._homes[stack] = Home(base / "home")
            stack.enter_context(home.world)
            home.make()
        return life(scene, self._homes[stack], name, stack, base)


FIRST = [
    Act("first boot, IoT Edge, X.509", partial(with_edge, Wish())),
    Act("first boot, IoT Edge, TPM", partial(with_edge, Wish(attestation="tpm"))),
    Act("first boot, no directories", bare),
    Act("first boot, after a kill", killed),
    Act("first boot, no IoT Edge, X.509", partial(without_edge, "x509")),
    Act("first boot, no IoT Edge, TPM", partial(without_edge, "tpm")),
    Act("registration again, no IoT Edge, TPM", again),
    Act("disk in another board", moved),
    Act("factory step", factory),
]


def lived() -> list[Act]:
    lives, names = Lives(), ("renewal", "rekey", "roll-over", "recovery", "drawer")
    return [Act(f"companion, {name}", partial(lives, scenes.SCENES[name]), True) for name in names]
