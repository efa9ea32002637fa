"""A device whose agent has no network, but asks a process that has it, as the units have it.

The agent runs in a network namespace in which there is nobody, not even itself; a worker is started
for each connection, as tpm2cloud_network.socket does, outside of it.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.lab import process
from tests.lab.clock import Clock
from tests.lab.device import Device

WORKER = (sys.executable, "-I", "-m", "agent.network.worker")


class Apart(Device):
    """To be used within `workers(device.network, ...)`."""

    @property
    def network(self) -> Path:
        return self.directory / "run/network.sock"

    def environment(self) -> dict[str, str]:
        return super().environment() | {"TPM2CLOUD_NETWORK": str(self.network)}

    def agent_command(self, verb: str, *arguments: str) -> list[str]:
        alone = ["unshare", "--map-root-user", "--net", "--"]
        return [*alone, *super().agent_command(verb, *arguments)]


@contextmanager
def workers(
    at: Path, *, clock: Clock | None = None, command: Sequence[str] = WORKER
) -> Iterator[Path]:
    """`at`: the socket. Yields the file with what they said."""
    log = at.with_suffix(".log")
    given = clock.environment() if clock else {}
    passed = [f"--setenv={name}={value}" for name, value in given.items()]
    activate = ["systemd-socket-activate", "--accept", "--inetd", f"--listen={at}", *passed]
    quiet = {**os.environ, "SYSTEMD_LOG_LEVEL": "warning"}
    with process.running([*activate, *command], log, at.is_socket, env=quiet):
        yield log
