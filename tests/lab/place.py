"""A place to type the documentation's commands in, as they stand there: a directory to be in, and
around it a machine on which /etc/tpm2cloud is a device's, in a mount namespace; needs no root."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.lab.device import AGENT, SYSTEM_PATH, Device

# $1: what is to be /etc/tpm2cloud, $2: a directory for /etc as it was; the rest: a command.
SCRIPT = """\
set -euo pipefail
ours=$1 before=$2
shift 2
mount --bind /etc "$before"
mount -t tmpfs -o mode=755 tmpfs /etc
cp -rP "$before/." /etc 2>/dev/null || true   # but for what this user may not read
mkdir -p /etc/tpm2cloud
mount --bind "$ours" /etc/tpm2cloud
mount -t tmpfs -o mode=755 tmpfs /var/lib/swtpm-localca
exec "$@"
"""


class Place:
    """Commands are run by bash, which stops at the first one that fails."""

    def __init__(self, directory: Path, etc: Path, environment: Mapping[str, str]) -> None:
        """`directory`: to be in, made if it is not there; `etc`: /etc/tpm2cloud."""
        self.directory, self._etc = directory, etc
        self.bin, self._before = directory.parent / "bin", directory.parent / "before"
        for each in (directory, self.bin, self._before, etc):
            each.mkdir(parents=True, exist_ok=True)
        if not (self.bin / "tpm2cloud").exists():
            (self.bin / "tpm2cloud").symlink_to(AGENT)
        path = f"{self.bin}:{environment.get('PATH', SYSTEM_PATH)}"
        self._environment = {"LANG": "C.UTF-8", "HOME": str(directory), **environment, "PATH": path}

    @classmethod
    def on(cls, device: Device, etc: Path | None = None) -> "Place":
        """On this device, powered on; `etc`: another /etc/tpm2cloud than its own."""
        at = device.directory / "place" / "here"
        return cls(at, etc or device.etc, device.environment())

    def program(self, name: str, script: str) -> None:
        """One that this machine has not, for bash."""
        file = self.bin / name
        file.write_text(f"#!/bin/bash\n{script}")
        file.chmod(0o755)

    def run(self, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Both streams are one; the exit status is the caller's to judge."""
        who = ["--map-root-user"] if os.getuid() == 0 else ["--map-current-user", "--keep-caps"]
        unshared = ["unshare", *who, "--mount", "bash", "-c", SCRIPT, "place"]
        shell = ["bash", "-euo", "pipefail", "-c", command]
        return subprocess.run(
            [*unshared, str(self._etc), str(self._before), *shell],
            cwd=self.directory,
            env={**self._environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )

    def typed(self, command: str, **variables: str) -> str:
        """What it says; it must end with 0."""
        done = self.run(command, **variables)
        assert done.returncode == 0, f"{command}: {done.returncode}: {done.stdout}"
        return done.stdout
