"""A run of the companion with nothing due costs nobody anything: it asks no server, not even one
for names, and writes nothing."""

from pathlib import Path

from tests.bench.strace import network
from tests.conftest import MakeDevice
from tests.lab.device import Device

CALLS = "trace=socket,connect,sendto,sendmsg"


def traced(device: Device, verb: str, *options: str) -> tuple[int, list[str], list[str]]:
    """(exit status, all such calls, those that go to the network)."""
    trace = device.directory / f"{verb}.trace"
    strace = ["strace", *options, "-qq", "-e", CALLS, "-e", "signal=none", "-o", str(trace)]
    done = device.run([*strace, *device.agent_command(verb)])
    lines = trace.read_text().splitlines()
    return done.returncode, lines, network(lines)


def written(directory: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}


def test_nothing_due_means_no_network_and_no_writing(make_device: MakeDevice) -> None:
    device = make_device()
    status, _, asked = traced(device, "provision")
    assert status == 0
    assert any("AF_INET" in call for call in asked)  # how it looks if servers are asked
    assert device.agent("health").returncode == 0
    before = written(device.state)
    for verb, expected in {"health": 0, "needs-renewal": 1}.items():
        status, calls, asked = traced(device, verb, "-f")  # and its children
        assert (status, asked) == (expected, [])
        assert any("tpm.sock" in call for call in calls)  # the TPM was asked
    assert written(device.state) == before
