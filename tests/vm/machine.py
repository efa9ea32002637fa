"""A board with a TPM, a disk, a network cable and two serial ports: QEMU without KVM, and swtpm."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from tests.lab import process
from tests.vm.shell import Shell

# For one event in a guest on a machine that is busy with other things as well.
PATIENCE = 300.0
# What the kernel does not know (systemd does) goes into the environment of its init.
# no_timer_check: the kernel waits for ticks that a busy host brings too late, and would panic.
KERNEL = (
    "root=/dev/nvme0n1 rootfstype=ext4 rw console=ttyS0 mitigations=off no_timer_check "
    "SYSTEMD_COLORS=0"
)


class Machine:
    """Powered on for the length of the `with`, or from `power_on()` on.

    directory/tpm is the TPM's state; of the Nth boot, console-N.log is what the serial console
    said.
    """

    def __init__(self, directory: Path, *, kernel: Path, disk: Path, serial: str) -> None:
        self.directory, self.kernel, self.disk, self.serial = directory, kernel, disk, serial
        self.tpm, self.boots = directory / "tpm", 0
        self._sockets = directory / "s"
        self._sockets.mkdir(parents=True, exist_ok=True)
        self._qemu: subprocess.Popen[bytes] | None = None
        self._swtpm: subprocess.Popen[bytes] | None = None
        self._open = contextlib.ExitStack()
        self._read = 0

    def __enter__(self) -> Self:
        self.power_on()
        return self

    def __exit__(self, *exc: object) -> None:
        self.power_cut()

    # --- power ---

    def power_on(self, *, link: bool = True) -> None:
        """`link`: is the network cable plugged in?"""
        self.boots += 1
        self._read = 0
        tpm, shell, monitor = (self._sockets / name for name in ("tpm", "shell", "qmp"))
        state = ["--tpmstate", f"dir={self.tpm},mode=0600", "--ctrl", f"type=unixio,path={tpm}"]
        log = self.directory / "swtpm.log"
        self._swtpm = process.start(["swtpm", "socket", "--tpm2", *state], log)
        process.wait(self._swtpm, tpm.is_socket, log)
        log = self.directory / "qemu.log"
        self._qemu = process.start(self._command(tpm, shell, monitor), log)
        self.shell = self._open.enter_context(Shell(self._connect(shell)))
        self._monitor = self._open.enter_context(self._connect(monitor).makefile("rw"))
        self._monitor.readline()
        self._qmp("qmp_capabilities")
        if not link:
            self.link(up=False)
        self._qmp("cont")

    def _command(self, tpm: Path, shell: Path, monitor: Path) -> list[str]:
        """It waits for `cont`."""
        return [
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"),
            *("-no-reboot", "-S", "-M", "q35", "-accel", "tcg,thread=multi,tb-size=512"),
            *("-cpu", "max", "-smp", "2", "-m", "640"),
            *("-kernel", str(self.kernel), "-append", KERNEL),
            *("-smbios", f"type=1,manufacturer=Lab,product=Board,serial={self.serial}"),
            *("-serial", f"file:{self.console}", "-serial", f"unix:{shell},server=on,wait=off"),
            *("-qmp", f"unix:{monitor},server=on,wait=off"),
            *("-drive", f"file={self.disk},if=none,id=disk,format=raw,cache=writeback"),
            *("-device", "nvme,drive=disk,serial=disk"),
            *("-netdev", "user,id=net,ipv6=off", "-device", "virtio-net-pci,netdev=net,romfile="),
            *("-chardev", f"socket,id=tpm,path={tpm}", "-tpmdev", "emulator,id=tpm0,chardev=tpm"),
            *("-device", "tpm-tis,tpmdev=tpm0"),
        ]

    def _connect(self, path: Path) -> socket.socket:
        """To a socket of QEMU, once it listens."""
        assert self._qemu is not None
        connected = self._open.enter_context(socket.socket(socket.AF_UNIX))
        listens = lambda: connected.connect_ex(str(path)) == 0  # noqa: E731
        process.wait(self._qemu, listens, self.directory / "qemu.log")
        return connected

    def power_cut(self) -> None:
        """Both die at once: what the guest had not written yet, and what the TPM keeps in RAM only,
        are lost."""
        self._open.close()
        for running in (self._qemu, self._swtpm):
            if running is not None:
                running.kill()
                running.wait()
        self._qemu = self._swtpm = None
        for left in self._sockets.iterdir():
            left.unlink()

    def power_off(self) -> None:
        """`systemctl poweroff`, and as long as that takes."""
        assert self._qemu is not None
        self.shell.send("systemctl poweroff")
        self._qemu.wait(PATIENCE)
        self.power_cut()

    # --- the outside of the box ---

    @property
    def console(self) -> Path:
        """What the serial console said since power came."""
        return self.directory / f"console-{self.boots}.log"

    def said(self) -> str:
        return self.console.read_text(errors="replace")

    def wait(self, pattern: str, patience: float = PATIENCE) -> re.Match[str]:
        """Until the serial console says so, after what was waited for before."""
        until = time.monotonic() + patience
        while True:
            dead = self._qemu is None or self._qemu.poll() is not None
            text = self.said()
            if found := re.compile(pattern).search(text, self._read):
                self._read = found.end()
                return found
            if dead or time.monotonic() > until:
                what = "the machine is off" if dead else f"{patience} s are over"
                raise TimeoutError(f"no {pattern!r}, and {what}; {self.console}: {text[-3000:]}")
            time.sleep(0.02)

    def link(self, *, up: bool) -> None:
        """Plug the network cable in or out."""
        self._qmp("set_link", name="net", up=up)

    def _qmp(self, command: str, **arguments: Any) -> None:
        """One command of QEMU's machine protocol; events are passed over."""
        self._monitor.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._monitor.flush()
        while "return" not in (reply := json.loads(self._monitor.readline())):
            assert "error" not in reply, reply

    def keep(self, directory: Path) -> None:
        """The serial console of every boot, for whoever wants to know afterwards."""
        directory.mkdir(parents=True, exist_ok=True)
        for log in self.directory.glob("console-*.log"):
            shutil.copy(log, directory)
