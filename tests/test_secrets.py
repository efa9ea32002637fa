"""Secrets stay where they belong: looked for everywhere else, while we run and afterwards."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import MakeDevice
from tests.lab import pki
from tests.lab.device import Device
from tests.lab.hostile import Hostile, echo


def planted(device: Device) -> set[str]:
    """Every secret of this device: credentials, and the PINs it made."""
    found = {path.read_text() for path in device.credentials.iterdir()}
    pins = device.state / "pins.json"
    return found | set(json.loads(pins.read_text()).values() if pins.exists() else ())


@contextmanager
def watched() -> Iterator[set[bytes]]:
    """Arguments and environments of all processes, as often as we can look."""
    seen: set[bytes] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    with suppress(OSError):
                        seen.add((process / name).read_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def open_to_others(*places: Path) -> Iterator[Path]:
    for place in places:
        for path in place.rglob("*"):
            if path.is_file() and path.stat().st_mode & 0o077:
                yield path


@pytest.mark.parametrize("auth", ["basic", "secret"])
def test_no_secret_leaves_its_place(make_device: MakeDevice, auth: str) -> None:
    device = make_device(auth=auth, operational_auth="basic")
    owner = {"TPM2TOOLS_TCTI": device.tcti, "PATH": "/usr/bin:/bin"}
    subprocess.run(["tpm2_changeauth", "-c", "owner", "owner-canary"], env=owner, check=True)
    pki.write_private(device.credentials / "tpm-owner-auth", b"owner-canary")
    command = [*device.agent_command("provision")]
    command.insert(1, "--debug")

    with watched() as seen:
        done = subprocess.run(
            command, env=device.environment(), capture_output=True, check=False, timeout=60
        )
    said = [done.stdout, done.stderr, device.agent("status", "--json").stdout.encode()]
    said += [device.agent(verb).stdout.encode() for verb in ("status", "identity", "config")]

    assert done.returncode == 0, done.stderr
    secrets = {secret.encode() for secret in planted(device)}
    assert len(secrets) == 6
    assert any(b"provision" in each for each in seen)
    for secret in secrets:
        assert not [each for each in seen if secret in each]
        assert not [each for each in said if secret in each]
        places = (device.state, device.aziot, device.pkcs11, device.etc)
        assert not [p for p in open_to_others(*places) if secret in p.read_bytes()]


@pytest.mark.parametrize("auth", ["basic", "secret"])
def test_a_server_that_echoes_what_we_sent_is_not_quoted(
    make_device: MakeDevice, auth: str
) -> None:
    device = make_device(auth=auth)
    with Hostile(device.world.tls, {"cacerts": echo, "simpleenroll": echo}) as server:
        device.configure({"ldevid": {"est": {"url": server.url}}})
        done = device.agent("provision")
    assert done.returncode in (75, 76)
    failure = (device.state / "failure.json").read_text()
    assert not [s for s in planted(device) if s in done.stderr or s in failure]
