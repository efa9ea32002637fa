"""What an image builder writes into the image, for the lab's world; and what the tests add."""

from collections.abc import Mapping
from typing import Any

import tomlkit

from tests.lab import pki, swtpm
from tests.lab.device import merged
from tests.lab.world import HOST, World
from tests.vm import shell
from tests.vm.image import File, text

# Where QEMU's user network puts the host's own 127.0.0.1.
GATEWAY = "10.0.2.2"
NETWORK = "[Match]\nType=ether\n\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n"
ETC = "/etc/tpm2cloud"
# The serial console shows the journal.
CONSOLE = "[Journal]\nForwardToConsole=yes\nMaxLevelConsole=info\n"


def files(world: World, changes: Mapping[str, Any] | None = None) -> dict[str, File]:
    """By path; `changes` are laid over `settings()`, as Device.configure does."""
    return system() | trust(world) | lab() | {f"{ETC}/config.toml": config(world, changes or {})}


def config(world: World, changes: Mapping[str, Any]) -> File:
    return text(tomlkit.dumps(merged(settings(world), changes)))


def settings(world: World) -> dict[str, Any]:
    """The same for the whole fleet, and no more than a stock device needs."""
    return {
        "ldevid": {
            "est": {"url": _here(world.owner_est.url("mtls")), "issuer": f"{ETC}/owner-ca.pem"}
        },
        "operational": {"url": _here(world.operations_est.url("mtls"))},
        "dps": {"id_scope": world.dps.scope, "endpoint": _here(world.dps.url)},
    }


def _here(url: str) -> str:
    return url.replace("//localhost:", f"//{HOST}:")


def system() -> dict[str, File]:
    """A device that is not yet any particular one, on a network with DHCP."""
    return {
        "/etc/machine-id": text("uninitialized\n"),
        "/etc/hostname": text(""),
        "/etc/hosts": text(f"127.0.0.1 localhost\n{GATEWAY} {HOST}\n"),
        "/etc/resolv.conf": text(""),
        "/etc/fstab": text(""),
        "/etc/systemd/network/10-lan.network": text(NETWORK),
    }


def trust(world: World) -> dict[str, File]:
    """Whom the device is to believe."""
    tls = File(world.tls.trust.read_bytes())
    makers = {"root": swtpm.roots(world.maker), "intermediate": world.maker / "issuercert.pem"}
    return {
        f"{ETC}/idevid-ca.pem": File(pki.pem(*world.oem.chain)),
        f"{ETC}/owner-ca.pem": File(pki.pem(world.owner.root)),
        f"{ETC}/est-ca.pem": tls,
        f"{ETC}/operational-ca.pem": tls,
        "/usr/local/share/ca-certificates/lab.crt": tls,  # whom IoT Edge believes to be DPS
    } | {f"{ETC}/tpm-roots.d/{name}.pem": File(path.read_bytes()) for name, path in makers.items()}


def lab() -> dict[str, File]:
    """What no device has: the tests' ear and hand."""
    return {
        "/etc/systemd/journald.conf.d/lab.conf": text(CONSOLE),
        "/etc/systemd/system/lab-shell.service": text(shell.UNIT),
        "/usr/local/sbin/lab-shell": text(shell.SCRIPT, 0o755),
    }
