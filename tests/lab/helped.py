"""A device whose companion helps IoT Edge: runs of it, what it did, and its end in the middle."""

import json
from datetime import timedelta
from typing import Any

from tests.lab.clock import Clock
from tests.lab.device import Device

HOUR = timedelta(hours=1)


def configure(device: Device, **health: Any) -> None:
    """What does not heal is waited for so long; else the tests would be."""
    device.configure({"health": {"patience": "10min", **health}, "aziot": {"timeout": "6s"}})


def health(device: Device, *arguments: str) -> dict[str, Any]:
    done = device.agent("health", "--json", *arguments)
    assert done.returncode in (0, 3, 4), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "stderr": done.stderr}


def after(clock: Clock, device: Device, time: timedelta = HOUR) -> dict[str, Any]:
    clock.advance(time)
    return health(device)


def state(report: dict[str, Any], name: str) -> str:
    return str(next(each["state"] for each in report["certificates"] if each["name"] == name))


def first_word(report: dict[str, Any]) -> str:
    """Of what was done."""
    return " ".join(report["actions"]).partition(" ")[0]


def kept(device: Device) -> dict[str, Any]:
    """The ladder, and its budget."""
    found: dict[str, Any] = json.loads((device.state / "health.json").read_text())["cases"]
    return found


def provisioned(device: Device) -> bool:
    return device.agent("status").returncode == 0


def services(device: Device) -> str:
    return device.run(["systemctl", "show", "aziot-certd", "aziot-identityd"]).stdout


def message(report: dict[str, Any]) -> str:
    """What keeps it from being done."""
    return str(report["problem"]["message"])


def deadly(device: Device, program: str, verb: str, *, before: bool) -> None:
    """The next time this program is called for this, it kills who calls it: before or after it has
    done what it was called for."""
    own, real = device.bin / program, device.bin / "real" / program
    if not real.parent.exists():
        real.parent.mkdir()
        (real.parent / "iotedge-lab.toml").symlink_to(device.bin / "iotedge-lab.toml")
    own.rename(real)
    own.write_text(
        f"""#!/bin/sh
        case " $* " in *" {verb} "*) ;; *) exec {real} "$@";; esac
        mv {real} {own}
        {"kill -9 $PPID" if before else f'{own} "$@"; kill -9 $PPID'}
        """
    )
    own.chmod(0o755)
