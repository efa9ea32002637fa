"""IoT Edge on a device of the lab (tests/lab/iotedge): what it did, and ways to break it.

    edge.broken(device, renewals={"device-id": "retry"})  # or "fatal", "never", "stuck"
    clock.advance(timedelta(days=25))
    edge.awaited(device, "renewal-failed", cert="device-id")
    device.run(["systemctl", "restart", "aziot-identityd"])
    device.run(["journalctl", "-u", "aziot-identityd", "-o", "cat", "-g", "no longer"])

It renews by itself, as the real services do, a moment after the clock is put forward: est-id by
aziot-certd, device-id by aziot-identityd. One process plays all of them; `systemctl` and
`journalctl` of the device show each for itself, and a restart of one leaves the others alone.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from cryptography import x509

from tests.lab.device import Device
from tests.lab.process import PATIENCE

Mode = Literal[
    "retry",  # every attempt fails, and is repeated after `retry`
    "fatal",  # the next attempt fails for good: "will no longer be auto-renewed"
    "never",  # nothing is tried, and nothing said
    "stuck",  # the same, until its service starts anew
]


def broken(
    device: Device,
    *,
    renewals: dict[str, Mode] | None = None,
    crash: list[str] | None = None,
    tear: list[str] | None = None,
) -> None:
    """From now on, all of it; without arguments, well again. `renewals`: by certificate,
    est-id, device-id or aziot-edged-ca. `crash`: services, as "aziot-certd", that end whenever they
    are started. `tear`: certificates at whose renewal the power goes, after they are written,
    before their key is: `systemctl start aziot-edged` is the next boot."""
    content = {"renewals": renewals or {}, "crash": crash or [], "tear": tear or []}
    new = device.edge / "broken.new"
    new.write_text(json.dumps(content))
    new.rename(device.edge / "broken.json")


def events(device: Device, name: str, **fields: Any) -> list[dict[str, Any]]:
    """What the services did, oldest first: events of this name that have these fields. Of renewals:
    `renewed` (cert, serial), `renewal-failed` (cert, error, fatal)."""
    lines = map(json.loads, (device.edge / "log.jsonl").read_text().splitlines())
    wanted = {"event": name, **fields}
    return [line for line in lines if wanted.items() <= line.items()]


def awaited(device: Device, name: str, count: int = 1, **fields: Any) -> dict[str, Any]:
    """The last of such events, once there are as many as `count`."""
    until(lambda: len(events(device, name, **fields)) >= count)
    return events(device, name, **fields)[-1]


def until(condition: Callable[[], object]) -> None:
    """Waits for something that is going to happen."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def certificate(device: Device, cert: str) -> list[x509.Certificate]:
    """The chain that certd keeps under an id."""
    [path] = certificates(device, cert)
    return x509.load_pem_x509_certificates(path.read_bytes())


def certificates(device: Device, cert: str) -> list[Path]:
    """Its file, if it is there."""
    return list((device.edge / "certd/certs").glob(f"{cert.replace('-', '')}-*.cer"))
