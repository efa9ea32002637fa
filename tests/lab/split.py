"""A device whose agent has no network, but a process that has it, as the units have it.

The agent runs in a network namespace in which there is nobody, not even itself; the worker is
started for each connection, as tpm2cloud-network.socket does, outside of it.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab import process
from tests.lab.clock import environment
from tests.lab.device import Device

WORKER = [sys.executable, "-I", "-m", "agent.network.worker"]


class Apart(Device):
    """To be used as a Device, within `worker(device)`."""

    @property
    def network(self) -> Path:
        return self.directory / "run/network.sock"

    def environment(self) -> dict[str, str]:
        return super().environment() | {"TPM2CLOUD_NETWORK": str(self.network)}

    def agent_command(self, verb: str, *arguments: str) -> list[str]:
        alone = ["unshare", "--map-root-user", "--net", "--"]
        return [*alone, *super().agent_command(verb, *arguments)]


@contextmanager
def worker(device: Apart, *command: str) -> Iterator[Path]:
    """`command`: instead of the real one. Yields the file with what workers said."""
    log = device.directory / "worker.log"
    given = environment(device.world.clock) or {}
    passed = [f"--setenv={name}={value}" for name, value in given.items()]
    activate = ["systemd-socket-activate", "--accept", "--inetd", f"--listen={device.network}"]
    quiet = {**os.environ, "SYSTEMD_LOG_LEVEL": "warning"}
    program = [*activate, *passed, *(command or WORKER)]
    with process.running(program, log, lambda: device.network.is_socket(), env=quiet):
        yield log
