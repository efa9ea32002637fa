"""The installed command, run often: loaded once, and forked for each run.

    with Ready(clock) as ready:
        done = ready(device, "provision", "--reregister")  # as device.agent(...), at once

Each run has its arguments, environment and exit status, as from a shell; what a start of Python
costs is paid once. Nobody waits long in it: time.sleep() is over in a moment, so that what is
polled for minutes is, too.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.lab import process
from tests.lab.clock import Clock
from tests.lab.device import Device

SHORT = 0.01  # seconds


@dataclass(frozen=True)
class Cost:
    """Of a run: the most memory that it had at a time (what was loaded before counts), and how long
    it took."""

    kilobytes: int = 0
    seconds: float = 0.0


class Ready:
    """`clock`: the time of whatever runs in it, which need not be that of the world. `cost`: of the
    last run."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self.cost = clock, Cost()

    def __enter__(self) -> Self:
        self._loaded = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.ready"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=process.TOP,
            env={**os.environ, **self._clock.environment()},
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loaded.communicate()  # its input ends

    def __call__(
        self, device: Device, verb: str, *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        command = device.agent_command(verb, *arguments)
        with tempfile.TemporaryDirectory() as directory:
            files = {name: str(Path(directory, name)) for name in ("out", "err")}
            asked = {"command": command, "environment": device.environment(), **files}
            assert self._loaded.stdin is not None
            assert self._loaded.stdout is not None
            self._loaded.stdin.write(json.dumps(asked) + "\n")
            self._loaded.stdin.flush()
            ended = json.loads(self._loaded.stdout.readline())
            self.cost, status = Cost(*ended["cost"]), ended["status"]
            said = [Path(name).read_text() for name in files.values()]
        return subprocess.CompletedProcess(command, status, *said)


def _run(asked: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: its exit status, as a shell has it, and its cost."""
    started, pid = time.monotonic(), os.fork()
    if pid == 0:
        _become(asked)
    _, ended, used = os.wait4(pid, 0)
    cost = (used.ru_maxrss, time.monotonic() - started)
    return {"status": os.waitstatus_to_exitcode(ended), "cost": cost}


def _become(asked: dict[str, Any]) -> None:
    status = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for target, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(asked[name], os.O_WRONLY | os.O_CREAT, 0o600), target)
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv = asked["command"]
        status = _main()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _main() -> int:
    from agent import cli

    try:
        return cli.main()
    except SystemExit as e:  # of argparse
        return int(e.code or 0)


def _load() -> None:
    """All that a run may import when it comes to it."""
    importlib.import_module("azure.iot.device")
    from agent import cli, dps, hub, plan, telemetry, verbs  # noqa: F401
    from agent.steps import assignment, azure  # noqa: F401


def main() -> None:
    sleep = time.sleep  # before anybody takes it as a default
    time.sleep = lambda seconds: sleep(min(float(seconds), SHORT))
    _load()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_run(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
