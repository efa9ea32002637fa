"""`tpm2cloud telemetry` on devices of the lab: once, as a service, and for a day."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab.device import Device
from tests.lab.hub import Hub

FOREVER = ("--patience", "forever")
Start = Callable[..., "subprocess.Popen[bytes]"]


class Day:
    """A day of tokens, an hour each, twice over, in a minute: a device sends a line ten times a
    second, and renews its token each time the library asks for it, 120 s before the end of 121. It
    is at a hub of its own."""

    def __init__(self, device: Device, hub: Hub) -> None:
        self.device, self.hub, self.lines = device, hub, 0
        device.world.dps.enrol_tpm(device.wish.id, device.endorsement_key(), hub=hub.host)
        device.configure({"hub": {"token_lifetime": "121s"}})
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._live)
        self._thread.start()

    def _live(self) -> None:
        self.provisioned = self.device.agent("provision")
        command = self.device.agent_command("telemetry")
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
        env = self.device.environment()
        with subprocess.Popen(command, env=env, text=True, **pipes) as agent:
            assert agent.stdin is not None
            assert agent.stderr is not None
            while not self._enough.wait(0.1) and agent.poll() is None:
                agent.stdin.write(f"{self.lines}\n")
                agent.stdin.flush()
                self.lines += 1
            agent.stdin.close()
            self.said = agent.stderr.read()
        self.status = agent.returncode

    def end(self) -> None:
        self._enough.set()
        self._thread.join()


def send(
    device: Device, *arguments: str, text: bytes = b"", **more: str
) -> subprocess.CompletedProcess[bytes]:
    command, env = device.agent_command("telemetry", *arguments), device.environment() | more
    pipes: dict[str, Any] = {"input": text, "capture_output": True}
    done = subprocess.run(command, env=env, timeout=120, check=False, **pipes)
    assert b"Traceback" not in done.stderr, done.stderr
    return done


@contextmanager
def starting(device: Device) -> Iterator[Start]:
    """To be called, with arguments and more environment, for one with a pipe to it."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str, **more: str) -> "subprocess.Popen[bytes]":
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
        command, env = device.agent_command("telemetry", *arguments), device.environment() | more
        started.append(subprocess.Popen(command, env=env, **pipes))
        return started[-1]

    try:
        yield begin
    finally:
        for each in started:
            each.kill()
            each.communicate()


def write(service: "subprocess.Popen[bytes]", text: bytes) -> None:
    assert service.stdin is not None
    service.stdin.write(text)
    service.stdin.flush()


@contextmanager
def reading(device: Device, pipe: int) -> Iterator["subprocess.Popen[str]"]:
    """Stopped at the end, as systemd stops it; that is no failure."""
    command, env = device.agent_command("telemetry", *FOREVER), device.environment()
    pipes: dict[str, Any] = {"stdin": pipe, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=env, **pipes) as service:
        try:
            yield service
            service.terminate()
            assert service.wait(60) == 0
        finally:
            service.kill()


def kept(device: Device) -> Path:
    return device.state / "telemetry.json"
