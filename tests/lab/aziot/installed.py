"""The packages unpacked in a directory: every service a process, all of them of the caller's user.
Instead of systemd itself, its systemd-socket-activate(1) waits at their sockets."""

import json
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.lab import aziot, process
from tests.lab.device import SYSTEM_PATH


class Installed:
    """Below `root`, for the length of the `with`; `environment` is what the drop-in of the unit
    gives aziot-keyd."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        for package in aziot.build(root.parent / "packages"):
            subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)
        self.root, self.environment = root, environment
        self.etc, self.bin = root / "etc/aziot", root / "usr/bin"
        self.run = root / "run/aziot"
        self._stack = ExitStack()

    def trust(self, certificates: Path) -> None:
        """The only certificates in the system's store."""
        store = self.root / "etc/ssl/certs/ca-certificates.crt"
        store.parent.mkdir(parents=True)
        store.write_bytes(certificates.read_bytes())

    def program(self, service: str) -> Path:
        return self.root / f"usr/libexec/aziot-identity-service/aziot-{service}"

    def socket(self, service: str) -> Path:
        return self.run / f"{service}.sock"

    def __enter__(self) -> Self:
        self.run.mkdir(parents=True)
        with ExitStack() as stack:
            for service in aziot.SERVICES:
                self._listen(service, stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _listen(self, service: str, stack: ExitStack) -> None:
        socket, log = self.socket(service), self.run / f"{service}.out"
        environment = self.environment if service == "keyd" else {}
        passed = [f"--setenv={name}={value}" for name, value in environment.items()]
        activate = ["systemd-socket-activate", f"--listen={socket}", *passed]
        command = [*activate, str(self.program(service))]
        started = process.start(command, log, env={"PATH": SYSTEM_PATH})
        stack.callback(process.stop, started)
        process.wait(started, socket.exists, log)

    def events(self, service: str, name: str) -> list[dict[str, Any]]:
        """What a service's evidence has under a name, oldest first."""
        log = self.root / "var/lib/aziot" / service / "log.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def said(self) -> str:
        """The services' words, for a test that failed."""
        return "\n".join(file.read_text() for file in sorted(self.run.glob("*.out")))


def contents(package: Path) -> dict[str, str]:
    """Mode, owner and group of every file in a package, by its path."""
    done = subprocess.run(
        ["dpkg-deb", "-c", str(package)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    rows = (line.split(maxsplit=5) for line in done.stdout.splitlines())
    return {row[5][1:].split(" -> ")[0]: f"{row[0]} {row[1]}" for row in rows}
