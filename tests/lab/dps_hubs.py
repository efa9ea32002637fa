"""The hubs' lists of devices: one file that the provisioning service fills and the hubs read.

    {"hub.lab.invalid": {"device-1": {"key": base64 | null, "thumbprint": hex | null,
                                      "enabled": true}}}

`thumbprint` is SHA-256 of the certificate, lower case. Readers see the old file or the new one.
"""

import base64
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Device = dict[str, Any]
Devices = dict[str, dict[str, Device]]


class Hubs:
    """The file, for any number of programs: changes are made one after the other."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self) -> Devices:
        found: Devices = json.loads(self.file.read_text())
        return found

    @contextmanager
    def changing(self) -> Iterator[Devices]:
        """What is there, to be changed in place; written if nothing is raised."""
        with self.file.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            devices = self.read() if self.file.exists() else {}
            yield devices
            replace(self.file, devices)

    def of(self, device_id: str) -> dict[str, Device]:
        """This device at the hubs that know it, by host name."""
        return {hub: found[device_id] for hub, found in self.read().items() if device_id in found}

    def key(self, device_id: str) -> bytes | None:
        """The key of this device at whatever hub it is."""
        keys = [device["key"] for device in self.of(device_id).values() if device["key"]]
        return base64.b64decode(keys[0]) if keys else None

    def put(
        self, hub: str, device_id: str, key: bytes | None, thumbprint: str | None
    ) -> str | None:
        """The device is at this hub, and no other, with this credential; whether it is enabled
        stays. The host name of another hub it was at."""
        with self.changing() as devices:
            old = [name for name, found in devices.items() if device_id in found]
            was = [devices[name].pop(device_id) for name in old]
            enabled = all(device["enabled"] for device in was)
            text = None if key is None else base64.b64encode(key).decode()
            new = {"key": text, "thumbprint": thumbprint, "enabled": enabled}
            devices.setdefault(hub, {})[device_id] = new
        return next((name for name in old if name != hub), None)


def replace(file: Path, content: Any) -> None:
    """The whole file at once, as JSON."""
    new = file.with_suffix(f".{os.getpid()}.new")
    new.write_text(json.dumps(content, indent=1))
    new.rename(file)
