"""Where the agent can be cut off: every system call by which it changes something, found by
strace(1), and a run that is killed at just that one.

What is no effect: what only looks (TPM2_ReadPublic and its like), memory files, compiled Python,
and the talk on stderr. strace counts the calls of each name for itself; so a place is a name and a
number. Threads and children are not traced: the agent works in its first thread, and what it starts
(`iotedge`) has its own ideas of being killed.

A place is just before a call, which then does not happen. Just after it is a place of its own where
somebody else goes on: the TPM or a server that has got a request, a program that was started. After
any other call nothing is different from just before the next one, for whatever the agent does in
between changes nothing but itself; only the last call of all has no next one, so the end of the
process is a place, too.
"""

import compileall
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tpm2_pytss.constants import TPM2_CC

import agent
from tests.lab.device import Device

FILES = """fsync fdatasync rename renameat renameat2 link linkat symlink symlinkat unlink unlinkat
 rmdir mkdir mkdirat chmod fchmod fchmodat chown fchown lchown fchownat truncate ftruncate fallocate
 write writev pwrite64 pwritev sendto sendmsg sendmmsg sendfile copy_file_range"""
PROGRAMS = "vfork fork pidfd_open kill"  # pidfd_open: the agent has just started a program
THE_END = "exit_group"
EFFECTS = {*FILES.split(), *PROGRAMS.split(), THE_END}
LOOKS = {
    TPM2_CC.GetCapability,
    TPM2_CC.ReadPublic,
    TPM2_CC.NV_ReadPublic,
    TPM2_CC.NV_Read,
    TPM2_CC.PCR_Read,
}
TALK = re.compile(r"write\([12]<|\w+\(\d+</memfd:|.*__pycache__|.*\"/dev/")
TPM = re.compile(r"write\(\d+<socket:.*?\"((?:\\x[0-9a-f]{2}){10,})")
CONTROL = re.compile(r"write\(\d+<socket:.*?\"\\x00\\x00\\x00\\x05")  # swtpm's own, not the TPM's
# What is compiled, and in which order sets are gone through, is the same in each run.
SAME = ["-E", "PYTHONDONTWRITEBYTECODE=1", "-E", "PYTHONHASHSEED=1"]
STRACE = ["strace", "-qq", "-y", "-x", "-s", "32", *SAME, "-o"]
# SIGKILL comes before the call, which does not happen. Any other signal comes after it (ptrace(2),
# signal-delivery-stop); nobody handles this one, so it ends the process as suddenly.
BEFORE, AFTER = signal.SIGKILL, signal.SIGUSR2


@dataclass(frozen=True)
class Place:
    """Just before the `nth` system call of this name, or just `after` it."""

    call: str
    nth: int
    what: str
    after: bool = False

    def __str__(self) -> str:
        return f"{'after ' * self.after}{self.call} {self.nth} ({self.what})"

    @property
    def signal(self) -> signal.Signals:
        return AFTER if self.after else BEFORE


def places(
    device: Device, trace: Path, command: Sequence[str] = (), ends: Sequence[int] = (0,)
) -> list[Place]:
    """Run the agent (or `command`), whole; these are its effects, in order, and the moments after
    those with which somebody else begins to work. `ends`: how it may end. What the agent is made of
    is compiled before, or this run would open other files than the next ones."""
    compileall.compile_dir(agent.__path__[0], quiet=2)
    run = device.run([*STRACE, str(trace), *(command or device.agent_command("provision"))])
    assert run.returncode in ends, run.stderr
    return list(_places(trace.read_text().splitlines(), str(device.directory)))


def _places(lines: list[str], top: str) -> Iterator[Place]:
    counts: Counter[str] = Counter()
    for line in lines:
        name = line.partition("(")[0]
        counts[name] += 1
        if _is_effect(name, line):
            place = Place(name, counts[name], describe(line, top))
            assert place.what, f"it changes something that is not of the device: {line}"
            yield place
            if "<socket:" in line or name in ("sendto", "vfork", "fork"):
                yield replace(place, after=True)


def _is_effect(name: str, line: str) -> bool:
    if name == "openat":
        return "O_CREAT" in line and not TALK.match(line)
    if name not in EFFECTS or TALK.match(line) or CONTROL.match(line):
        return False
    command = _command(line)
    return command not in LOOKS


def _command(line: str) -> int | None:
    """The command code, if this is a TPM command (TPM 2.0 Library, part 1, 18.2)."""
    if (found := TPM.match(line)) is None:
        return None
    data = bytes.fromhex(found[1].replace("\\x", ""))
    is_command = data[:2] in (b"\x80\x01", b"\x80\x02")
    return int.from_bytes(data[6:10], "big") if is_command else None


def describe(line: str, top: str) -> str:
    """What a line of a trace is about: a file of the device, a TPM command, or a message."""
    name = line.partition("(")[0]
    if (command := _command(line)) is not None:
        return f"TPM command {str(TPM2_CC(command)).rpartition('.')[2]}"
    if found := re.findall(rf"{re.escape(top)}(/[^\">]*|(?=[\">]))", line):
        return str(found[-1]).removeprefix("/") or "its top"
    if name == THE_END:
        return "the end"
    if "<socket:" in line:
        return "message"
    return "program" if name in PROGRAMS or "<pipe:" in line else ""  # what one is told


def kill_at(
    device: Device,
    place: Place,
    trace: Path,
    command: Sequence[str] = (),
    ends: Sequence[int] = (0,),
) -> str:
    """Run the agent (or `command`) and kill it there; returns what it was about to do, or had just
    done, or nothing if it ended, as it may."""
    signal = place.signal.name.removeprefix("SIG")
    inject = [f"--trace={place.call}", f"--inject={place.call}:signal={signal}:when={place.nth}"]
    whole = command or device.agent_command("provision")
    run = device.run([*STRACE, str(trace), *inject, *whole])
    if run.returncode != -place.signal:
        assert run.returncode in ends, run.stderr
        return ""
    lines = [line for line in trace.read_text().splitlines() if line.startswith(f"{place.call}(")]
    assert len(lines) == place.nth, (place, lines[-1:])
    return describe(lines[-1], str(device.directory))


def power_cut(device: Device) -> None:
    """All that runs on the device is gone at once, with the TPM; then it starts again: the TPM, and
    IoT Edge's services, if they were ever configured."""
    device.power_cut()
    kill_programs(device)
    device.power_on()
    services(device)


def services(device: Device) -> None:
    """IoT Edge's start as at a boot, if they were ever configured."""
    if is_configured(device):
        device.run(["iotedge", "system", "restart"])


def is_configured(device: Device) -> bool:
    """IoT Edge's services were started at least once."""
    return device.edge.joinpath("super.toml").exists()


def kill_amid(device: Device, after: str, seconds: float) -> None:
    """Run the agent and kill it so long after it said that this step is done."""
    command = device.agent_command("provision")
    with subprocess.Popen(command, env=device.environment(), stderr=subprocess.PIPE) as run:
        assert run.stderr is not None
        assert any(line.startswith(after.encode()) for line in run.stderr)
        with suppress(subprocess.TimeoutExpired):
            run.wait(seconds)
        run.kill()


def kill_login(device: Device, command: Sequence[str], seconds: float) -> bool:
    """Run this and kill it so long after it began to log in at its hub, which another thread does;
    whether it had not ended before."""
    out = subprocess.DEVNULL
    with subprocess.Popen(
        command, env=device.environment(), stdin=out, stdout=out, stderr=out
    ) as run:
        tasks = Path(f"/proc/{run.pid}/task")
        while run.poll() is None and len(list(tasks.iterdir())) < 2:
            time.sleep(0.002)
        with suppress(subprocess.TimeoutExpired):
            run.wait(seconds)
        run.kill()
    return bool(run.returncode == -signal.SIGKILL)


def kill_programs(device: Device) -> None:
    """`iotedge` and what it started."""
    program = os.fsencode(device.bin / "iotedge")
    while pids := list(_running(program)):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def iotedge_said(device: Path) -> str:
    """The last words of IoT Edge on the device of this directory."""
    logs = [device / "edge" / name for name in ("service.log", "log.jsonl")]
    return "\n".join(log.read_text()[-2000:] for log in logs if log.exists())


def _running(program: bytes) -> Iterator[int]:
    """Processes of this very program that are not waiting to be reaped."""
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if directory.joinpath("cmdline").read_bytes().split(b"\0")[0] == program:
                yield int(directory.name)
