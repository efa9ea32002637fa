"""What a disk may hold, and the TPM beside it, if the power fails at any moment of a run.

The run is watched by strace(1), and stopped after every system call by which it changes something.
While it stands still, the state of the TPM is taken as swtpm has it on its own disk, and what the
device's disk may hold is told by a model (tests/lab/disk.py) that was told of every call. The model
is held against the real files each time: if it had missed anything, they would differ.

What others do (IoT Edge, with its services) counts as synced: how they write is not ours to prove.
Threads and programs that the agent starts are not traced.
"""

import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.device import Device
from tests.lab.disk import Disk, Tree
from tests.lab.disk_calls import KNOWN, UNKNOWN, Calls, parse

STOPS = [*(KNOWN - {"openat", "lseek"}), "kill", "sendto"]
# What alone changes nothing that lasts, and vfork(2), that does not come about as long as a signal
# waits for its caller.
ONLY_TRACED = ["openat", "lseek", "umask", "vfork", *UNKNOWN]
STRACE = ["strace", "-qq", "-y", "-xx", "-s", "1000000"]
TRACE = [f"--trace={','.join([*STOPS, *ONLY_TRACED])}"]
STOP = [f"--inject={','.join(STOPS)}:signal=STOP"]
STOPPED = "--- stopped by SIGSTOP"
TPM = "tpm2-00.permall"
# By which a database writes page after page, until it syncs. That only some of them are on the disk
# is tried before it does so.
PAGES = "pwrite64"
OF_NO_USE = ("/tpm-loaded.json", "/tpm-loaded-telemetry.json", ".sqlite3.lock")


@dataclass(frozen=True)
class Point:
    """The power fails: the files of the device then, but for IoT Edge's own (`edge`; None: it was
    never configured), and the state of its TPM; and what was `counted` so far."""

    name: str
    tree: Tree = field(repr=False)
    edge: Tree | None = field(repr=False)
    tpm: bytes = field(repr=False)
    counted: list[int]


def read(top: Path, but: Sequence[Path] = ()) -> Tree:
    """All files and directories below `top`; neither links nor sockets."""
    found = Tree()
    for directory, names, files in os.walk(top):
        here = Path(directory)
        names[:] = [name for name in names if here / name not in but]
        for path in [here / name for name in (*names, *files)]:
            if (each := _read(path)) is not None:
                found[str(path.relative_to(top))] = each
    return found


def _read(path: Path) -> tuple[int, bytes | None] | None:
    """None: it is gone, or something else."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            return stat.S_IMODE(mode), path.read_bytes()
    except FileNotFoundError:
        return None
    return (stat.S_IMODE(mode), None) if stat.S_ISDIR(mode) else None


def others(device: Device) -> list[Path]:
    """Where the agent changes nothing."""
    return [device.edge, device.tpm, device.bin, device.socket.parent]


class Recorder:
    """Of one run. `count`: what is counted, say certificates that were issued. `renamed`: to this
    name, from the one that store.write() takes for that, by a run before that was killed before it
    synced the directory."""

    def __init__(
        self, device: Device, pipe: Path, count: Callable[[], list[int]], renamed: str = ""
    ) -> None:
        self._device, self._pipe, self._count = device, pipe, count
        self._others = others(device)
        tree, self._tpm, self._edge = self._whole()
        self._calls = Calls(_before(tree, renamed), str(device.directory))
        self._calls.alone = self._edge is None  # else IoT Edge may be at work
        self._seen, self._points = set[int](), list[Point]()
        self._moment = 0

    def points(self, command: Sequence[str], ends: Sequence[int] = (0,)) -> list[Point]:
        """Every state of the disk, together with every state of the TPM, once; not those that are
        as if nothing had been forgotten. `ends`: how the run may end."""
        os.mkfifo(self._pipe)
        none, both = subprocess.DEVNULL, subprocess.PIPE
        whole = [*STRACE, "-o", str(self._pipe), *TRACE, *STOP, *command]
        env = self._device.environment()
        with (
            subprocess.Popen(
                whole, env=env, stdin=none, stdout=none, stderr=both, text=True
            ) as run,
            self._pipe.open() as trace,
        ):
            try:
                self._watch(run.pid, trace)
            except BaseException:
                _end(run.pid)  # it would stand still for ever
                raise
            said = run.communicate()[1]
        self._pipe.unlink()
        assert run.returncode in ends, said
        return self._points

    def _watch(self, strace: int, trace: Iterator[str]) -> None:
        calls = list[str]()
        for line in trace:
            if not line.startswith(STOPPED):
                calls.append(line)
                continue
            self._stopped(calls)
            calls.clear()
            os.kill(_traced(strace), signal.SIGCONT)

    # --- while it stands still ---

    def _stopped(self, lines: list[str]) -> None:
        self._moment += 1
        real, self._tpm, self._edge = self._whole()
        disk = self._calls.disk
        if not self._calls.alone:
            disk.adopt(self._by_others(real, lines))
        if (name := _name(lines)) != PAGES:
            self._fails(f"before {name}")
        for line in lines:
            if (did := self._calls.did(line)) and name != PAGES:
                self._fails(f"after {did}")
        assert not (odd := _other(disk.tree(), real)), f"{odd} not as it should be after {name}"

    def _fails(self, when: str) -> None:
        """The power."""
        disk, edge = self._calls.disk, self._edge
        whole = disk.tree()
        for forgotten, tree in disk.states():
            state = hash((_told(tree, when), self._tpm, edge is None))
            if state not in self._seen and tree != whole:
                name = f"{self._moment} {when}: {forgotten}"
                self._points.append(Point(name, tree, edge, self._tpm, self._count()))
            self._seen.add(state)

    def _whole(self) -> tuple[Tree, bytes, Tree | None]:
        """Others may be at work: all as it was at one moment."""
        before, found = None, self._now()
        while before != found:
            before, found = found, self._now()
        return found

    def _now(self) -> tuple[Tree, bytes, Tree | None]:
        device = self._device
        configured = device.edge.joinpath("super.toml").exists()
        edge = read(device.edge) if configured else None
        return read(device.directory, self._others), (device.tpm / TPM).read_bytes(), edge

    def _by_others(self, real: Tree, lines: list[str]) -> Tree:
        """As it is, but for what these calls are about."""
        ours = {path for line in lines for path in self._calls.paths(line)}
        was = self._calls.disk.tree()
        kept = {path: each for path, each in was.items() if path in ours}
        return {path: each for path, each in real.items() if path not in ours} | kept


def _other(one: Tree, another: Tree) -> list[str]:
    return [path for path in {**one, **another} if one.get(path) != another.get(path)]


def _traced(strace: int) -> int:
    """The process that it started."""
    return int(Path(f"/proc/{strace}/task/{strace}/children").read_text().split()[0])


def _end(strace: int) -> None:
    for pid in (_traced(strace), strace):
        os.kill(pid, signal.SIGKILL)


def _before(tree: Tree, renamed: str) -> Disk:
    if not renamed:
        return Disk(tree)
    part = str(Path(renamed).with_name(f".{Path(renamed).name}.new"))
    disk = Disk(
        {path: each for path, each in tree.items() if path != renamed} | {part: tree[renamed]}
    )
    disk.rename(part, renamed)
    return disk


def _told(tree: Tree, when: str) -> tuple[object, ...]:
    """What tells it from others. Files that are of no use after a power cut are tried when they
    change, not together with all else; of a file that is not in its place yet, nobody reads what is
    in it."""
    return tuple(
        (path, mode, bool(data) if path.endswith(".new") else data)
        for path, (mode, data) in sorted(tree.items())
        if path in when or not path.endswith(OF_NO_USE)
    )


def _name(lines: list[str]) -> str:
    calls = [call for line in lines if (call := parse(line))]
    return calls[-1].name if calls else "anything"
