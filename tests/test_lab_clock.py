"""The lab's time is everywhere in it, or what happens "a year later" proves nothing."""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.lab import edge, pki
from tests.lab.clock import Clock, environment
from tests.lab.device import Device
from tests.lab.world import World

YEAR = timedelta(days=365)
SLACK = timedelta(minutes=30)  # for a machine that is busy


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


def said(clock: Clock, *command: str) -> str:
    return subprocess.run(
        command, env=environment(clock), capture_output=True, text=True, check=True
    ).stdout


def python(clock: Clock, expression: str) -> str:
    return said(clock, sys.executable, "-c", f"import time; print({expression})")


def test_programs_live_in_the_time_of_the_lab(clock: Clock) -> None:
    clock.advance(2 * YEAR)
    seen = datetime.fromtimestamp(int(said(clock, "date", "+%s")), UTC)
    assert abs(seen - clock.now()) < SLACK
    assert clock.now() - datetime.now(UTC) > 2 * YEAR - SLACK


def test_openssl_finds_a_certificate_expired_when_it_is(clock: Clock, tmp_path: Path) -> None:
    key = pki.new_key()
    own = pki.root("CA").issue(key.public_key(), "device", lasts=YEAR)
    file = tmp_path / "own.pem"
    file.write_bytes(pki.pem(own))
    ends = ["openssl", "x509", "-noout", "-checkend", "0", "-in", str(file)]
    assert subprocess.run(ends, env=environment(clock), check=False).returncode == 0
    clock.advance(YEAR)
    assert subprocess.run(ends, env=environment(clock), check=False).returncode == 1


def test_time_passes_for_a_program_that_runs(clock: Clock) -> None:
    script = "import time; input(); print(time.time())"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment(clock),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        clock.advance(YEAR)
        out, _ = running.communicate("\n")
    assert float(out) - time.time() > (YEAR - SLACK).total_seconds()


def test_time_that_is_put_forward_passed_since_boot_but_nobody_waited(clock: Clock) -> None:
    clock.advance(YEAR)
    boot = "time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()"
    mine = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    assert float(python(clock, boot)) - mine > (YEAR - SLACK).total_seconds()


def test_a_clock_that_is_set_is_no_time_that_passed(clock: Clock) -> None:
    clock.jump(-YEAR)
    assert time.time() - float(python(clock, "time.time()")) > (YEAR - SLACK).total_seconds()
    up = float(python(clock, "time.clock_gettime(time.CLOCK_BOOTTIME)"))
    assert up - time.clock_gettime(time.CLOCK_BOOTTIME) < SLACK.total_seconds()


@pytest.fixture
def device(clock: Clock, tmp_path: Path) -> Iterator[Device]:
    world = World(tmp_path / "world", clock=clock)
    with world, Device(world, tmp_path / "device") as device:
        yield device


def test_a_device_is_set_up_in_the_lab_s_time(device: Device, clock: Clock) -> None:
    """A month from now: all that is signed today is valid then, and nobody's patience is over."""
    clock.advance(timedelta(days=30))
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
    [asked, *_] = device.world.dps.requests()
    assert asked["time"] - time.time() > timedelta(days=29).total_seconds()
    status = device.agent("status")
    assert status.returncode == 0, status.stdout


def test_a_year_later_its_certificates_have_expired_for_everybody(
    device: Device, clock: Clock
) -> None:
    assert device.agent("provision").returncode == 0
    clock.advance(YEAR)
    assert device.run(["iotedge", "system", "reprovision"]).returncode != 0
    assert "expired" in edge.events(device, "provisioning-failed")[-1]["error"]
