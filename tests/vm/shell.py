"""A root shell on the second serial port, which a service of the test image (golden.py) gives.

Host to guest: a line, the command in Base64. Back: a line, its exit status, a blank, what it
printed in Base64. The first line is `ready`.
"""

import base64
import socket
from dataclasses import dataclass
from typing import Self

PATIENCE = 300.0
SCRIPT = """\
#!/bin/bash
exec </dev/ttyS1 >/dev/ttyS1
stty raw -echo
echo ready
while read -r command; do
    output=$(bash -c "$(base64 -d <<<"$command")" 2>&1 </dev/null | base64 -w0
        exit "${PIPESTATUS[0]}")
    echo "$? $output"
done
"""
UNIT = """\
[Unit]
Description=A Root Shell on the Second Serial Port, for Tests
DefaultDependencies=no
Conflicts=shutdown.target

[Service]
ExecStart=/usr/local/sbin/lab-shell
Restart=always

[Install]
WantedBy=sysinit.target
"""


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed, both streams."""

    status: int
    output: str


class Shell:
    """One command after the other; what is sent before the guest listens is lost, so wait."""

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(PATIENCE)
        self._connected, self._replies = connected, connected.makefile("rb")
        self._ready = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._replies.close()

    def __call__(self, command: str) -> Done:
        """Run it by bash as root, in /."""
        self.send(command)
        status, _, output = self._replies.readline().decode().rstrip("\n").partition(" ")
        return Done(int(status), base64.b64decode(output).decode(errors="replace"))

    def output(self, command: str) -> str:
        """What it prints; it must end with 0."""
        done = self(command)
        assert done.status == 0, (command, done)
        return done.output

    def send(self, command: str) -> None:
        """And do not wait for its end."""
        self.wait_ready()
        self._connected.sendall(base64.b64encode(command.encode()) + b"\n")

    def wait_ready(self) -> None:
        while not self._ready:
            line = self._replies.readline()
            assert line, "the machine went off"
            self._ready = line.strip().endswith(b"ready")
