"""What must differ between devices, and so must not be in what is copied to all of them."""

import re
import socket
from collections.abc import Iterator

from agent.config import Config
from agent.lint import unitfiles
from agent.lint.image import Image, Unseen
from agent.lint.rules import ERROR, WARNING, Finding, Rule

MACHINE_ID = "/etc/machine-id"
COMMAND_LINES = (
    "/etc/kernel/cmdline",
    "/usr/lib/kernel/cmdline",
    "/boot/cmdline.txt",
    "/boot/firmware/cmdline.txt",
    "/etc/default/grub",
    "/boot/grub/grub.cfg",
)
SEEDS = (
    "/var/lib/systemd/random-seed",
    "/var/lib/urandom/random-seed",
    "/boot/loader/random-seed",
    "/efi/loader/random-seed",
    "/boot/efi/loader/random-seed",
)

MACHINE_ID_SET = Rule(
    "machine-id-set",
    ERROR,
    "The image has a machine-id: all devices would be one machine, and no boot a first boot.",
    "echo uninitialized >{at}",
)
MACHINE_ID_ODD = Rule(
    "machine-id-odd",
    ERROR,
    "/etc/machine-id holds neither 'uninitialized' nor nothing, nor an id.",
    "echo uninitialized >{at}",
)
MACHINE_ID_ABSENT = Rule(
    "machine-id-absent",
    WARNING,
    "There is no /etc/machine-id: a root file system that is read-only could not get one.",
    "echo uninitialized >{at}",
)
MACHINE_ID_FIXED = Rule(
    "machine-id-fixed",
    ERROR,
    "The kernel's command line sets systemd.machine_id: all devices would be one machine.",
    "Remove systemd.machine_id= from {at}",
)
DBUS_MACHINE_ID = Rule(
    "dbus-machine-id",
    ERROR,
    "D-Bus has a copy of a machine-id, which systemd makes every device's own at its first boot.",
    "ln -sf /etc/machine-id {at}",
)
SSH_HOST_KEY = Rule(
    "ssh-host-key",
    ERROR,
    "The image has an SSH host key: who has one device can pose as all the others.",
    "rm {at} {at}.pub, and let a unit make them at the first boot: ssh-keygen -A",
)
SSH_HOST_KEYS_UNMADE = Rule(
    "ssh-host-keys-unmade",
    WARNING,
    "There is an SSH server without host keys, and no unit that makes them: it will not start.",
    "Add a unit that runs ssh-keygen -A before ssh.service (docs/golden-image.md has one)",
)
RANDOM_SEED = Rule(
    "random-seed",
    ERROR,
    "The image has a random seed: all devices would begin with the same randomness.",
    "rm {at}",
)
HOST_SECRET = Rule(
    "host-secret",
    ERROR,
    "The image has systemd's host secret: one device could open every other's credentials.",
    "rm {at}",
)
HOSTNAME_FIXED = Rule(
    "hostname-fixed",
    WARNING,
    "All devices would have one host name; IoT Edge keeps the first one it is applied with.",
    "rm {at}, and let DHCP or a unit of yours name the device before tpm2cloud-firstboot.service",
)
NETWORK_LEFT = Rule(
    "network-left",
    WARNING,
    "The builder's network is left over: leases, addresses, DHCP identifiers, name servers.",
    "rm -r {at}",
)


def first_boot(image: Image) -> bool:
    """Will PID 1 see a first boot, and so apply presets? (machine-id(5))"""
    text = image.text(MACHINE_ID)
    return text is None or text.strip() == "uninitialized"


def machine_id(image: Image, _: Config | None) -> Iterator[Finding]:
    text = image.text(MACHINE_ID)
    if text is None:
        why = "there is none: that is a first boot only where the root file system is writable"
        yield MACHINE_ID_ABSENT.at(image, MACHINE_ID, why)
    elif re.fullmatch("[0-9a-f]{32}", text.strip()):
        why = "the image has a machine-id already: all devices would be one machine"
        yield MACHINE_ID_SET.at(image, MACHINE_ID, why)
    elif text.strip() not in ("", "uninitialized"):
        why = "it holds neither 'uninitialized' nor nothing, nor an id"
        yield MACHINE_ID_ODD.at(image, MACHINE_ID, why)


def dbus_machine_id(image: Image, _: Config | None) -> Iterator[Finding]:
    """systemd takes it for a new /etc/machine-id, unless it is a link (machine-id-setup.c)."""
    path = "/var/lib/dbus/machine-id"
    if image.data(path) and image.real(path) != image.real(MACHINE_ID):
        why = "all devices would take this machine-id for their own at their first boot"
        yield DBUS_MACHINE_ID.at(image, path, why)


def kernel_command_line(image: Image, _: Config | None) -> Iterator[Finding]:
    for path in [*COMMAND_LINES, *image.matching("/boot/loader/entries/*")]:
        if image.is_file(path) and "systemd.machine_id=" in (image.text(path) or ""):
            why = "systemd.machine_id= makes all devices one machine"
            yield MACHINE_ID_FIXED.at(image, path, why)


def ssh(image: Image, _: Config | None) -> Iterator[Finding]:
    names = [n for n in image.names("/etc/ssh") if re.fullmatch("ssh_host_.+_key", n)]
    for name in names:
        why = "all devices would have this host key"
        yield SSH_HOST_KEY.at(image, f"/etc/ssh/{name}", why)
    server = unitfiles.fragment(image, "ssh.service") or unitfiles.fragment(image, "ssh.socket")
    if server and not any(_makes_host_keys(image, path) for path in unitfiles.every(image)):
        why = "nothing makes the SSH server's host keys at the first boot"
        yield SSH_HOST_KEYS_UNMADE.at(image, server, why)


def _makes_host_keys(image: Image, path: str) -> bool:
    """By itself, or as cloud-init does and the Debian package's own configuration."""
    words = r"ssh-keygen -A|(re)?generate_ssh_host_keys|reconfigure.*openssh-server|cloud-init"
    return bool(image.is_file(path) and re.search(words, image.text(path) or ""))


def seeds(image: Image, _: Config | None) -> Iterator[Finding]:
    for path in SEEDS:
        if image.exists(path):
            why = "all devices would begin with the same randomness"
            yield RANDOM_SEED.at(image, path, why)
    path = "/var/lib/systemd/credential.secret"
    if image.exists(path):
        why = "all devices would seal their credentials with one key"
        yield HOST_SECRET.at(image, path, why)


def hostname(image: Image, _: Config | None) -> Iterator[Finding]:
    """IoT Edge refuses another host name once modules are there. "?" is systemd's from v258 on: a
    digit that comes from the machine-id (hostname(5))."""
    lines = (image.text("/etc/hostname") or "").splitlines()
    name = next((line.strip() for line in lines if line.strip() and line[0] != "#"), "localhost")
    if name != "localhost" and "?" not in name:
        whose = "this builder's" if name == socket.gethostname() else f"'{name}'"
        why = f"all devices would have one host name, {whose}; IoT Edge keeps its first one"
        yield HOSTNAME_FIXED.at(image, "/etc/hostname", why)


def network(image: Image, _: Config | None) -> Iterator[Finding]:
    for pattern, what in NETWORK_FILES.items():
        for path in image.matching(pattern):
            found = image.stat(path)
            if found is not None and found.st_size:
                yield NETWORK_LEFT.at(image, path, what)
    path = "/etc/resolv.conf"
    found = image.stat(path, link=True)
    if found is not None and _is_own(image, path) and _name_servers(image, path):
        yield NETWORK_LEFT.at(image, path, f"it names {_name_servers(image, path)}")


NETWORK_FILES = {
    "/var/lib/dhcp/*": "a DHCP lease of the builder's",
    "/var/lib/dhcpcd/*": "a DHCP lease or identifier: all devices would ask for one address",
    "/etc/dhcpcd.duid": "a DHCP identifier: all devices would ask for one address",
    "/var/lib/NetworkManager/*": "NetworkManager's state: leases, and the secret of its addresses",
    "/etc/udev/rules.d/70-persistent-net.rules": "names for the builder's network cards",
}


def _is_own(image: Image, path: str) -> bool:
    try:
        return image.real(path) == image.outside(path)
    except Unseen:
        return False


def _name_servers(image: Image, path: str) -> str:
    return ", ".join(re.findall(r"^\s*nameserver\s+(\S+)", image.text(path) or "", re.MULTILINE))


CHECKS = (machine_id, dbus_machine_id, kernel_command_line, ssh, seeds, hostname, network)
