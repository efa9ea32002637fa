"""What must differ between devices, and so must not be in what is copied to all of them."""

import re
import socket
from collections.abc import Iterator

from agent.config import Config
from agent.lint import rules, unitfiles
from agent.lint.image import Image, Unseen
from agent.lint.rules import Finding

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


def first_boot(image: Image) -> bool:
    """Will PID 1 see a first boot, and so apply presets? (machine-id(5))"""
    text = image.text(MACHINE_ID)
    return text is None or text.strip() == "uninitialized"


def machine_id(image: Image, _: Config | None) -> Iterator[Finding]:
    text = image.text(MACHINE_ID)
    if text is None:
        why = "there is none: that is a first boot only where the root file system is writable"
        yield rules.MACHINE_ID_ABSENT.at(image, MACHINE_ID, why)
    elif re.fullmatch("[0-9a-f]{32}", text.strip()):
        why = "the image has a machine-id already: all devices would be one machine"
        yield rules.MACHINE_ID_SET.at(image, MACHINE_ID, why)
    elif text.strip() not in ("", "uninitialized"):
        why = "it holds neither 'uninitialized' nor nothing, nor an id"
        yield rules.MACHINE_ID_ODD.at(image, MACHINE_ID, why)


def dbus_machine_id(image: Image, _: Config | None) -> Iterator[Finding]:
    """systemd takes it for a new /etc/machine-id, unless it is a link (machine-id-setup.c)."""
    path = "/var/lib/dbus/machine-id"
    if image.data(path) and image.real(path) != image.real(MACHINE_ID):
        why = "all devices would take this machine-id for their own at their first boot"
        yield rules.DBUS_MACHINE_ID.at(image, path, why)


def kernel_command_line(image: Image, _: Config | None) -> Iterator[Finding]:
    for path in [*COMMAND_LINES, *image.matching("/boot/loader/entries/*")]:
        if image.is_file(path) and "systemd.machine_id=" in (image.text(path) or ""):
            why = "systemd.machine_id= makes all devices one machine"
            yield rules.MACHINE_ID_FIXED.at(image, path, why)


def ssh(image: Image, _: Config | None) -> Iterator[Finding]:
    names = [n for n in image.names("/etc/ssh") if re.fullmatch("ssh_host_.+_key", n)]
    for name in names:
        why = "all devices would have this host key"
        yield rules.SSH_HOST_KEY.at(image, f"/etc/ssh/{name}", why)
    server = unitfiles.fragment(image, "ssh.service") or unitfiles.fragment(image, "ssh.socket")
    if server and not any(_makes_host_keys(image, path) for path in unitfiles.every(image)):
        why = "nothing makes the SSH server's host keys at the first boot"
        yield rules.SSH_HOST_KEYS_UNMADE.at(image, server, why)


def _makes_host_keys(image: Image, path: str) -> bool:
    """By itself, or as cloud-init does and the Debian package's own configuration."""
    words = r"ssh-keygen -A|(re)?generate_ssh_host_keys|reconfigure.*openssh-server|cloud-init"
    return bool(image.is_file(path) and re.search(words, image.text(path) or ""))


def seeds(image: Image, _: Config | None) -> Iterator[Finding]:
    for path in SEEDS:
        if image.exists(path):
            why = "all devices would begin with the same randomness"
            yield rules.RANDOM_SEED.at(image, path, why)
    path = "/var/lib/systemd/credential.secret"
    if image.exists(path):
        why = "all devices would seal their credentials with one key"
        yield rules.HOST_SECRET.at(image, path, why)


def hostname(image: Image, _: Config | None) -> Iterator[Finding]:
    """IoT Edge refuses another host name once modules are there. "?" is systemd's from v258 on: a
    digit that comes from the machine-id (hostname(5))."""
    lines = (image.text("/etc/hostname") or "").splitlines()
    name = next((line.strip() for line in lines if line.strip() and line[0] != "#"), "localhost")
    if name != "localhost" and "?" not in name:
        whose = "this builder's" if name == socket.gethostname() else f"'{name}'"
        why = f"all devices would have one host name, {whose}; IoT Edge keeps its first one"
        yield rules.HOSTNAME_FIXED.at(image, "/etc/hostname", why)


def network(image: Image, _: Config | None) -> Iterator[Finding]:
    for pattern, what in NETWORK_LEFT.items():
        for path in image.matching(pattern):
            found = image.stat(path)
            if found is not None and found.st_size:
                yield rules.NETWORK_LEFT.at(image, path, what)
    path = "/etc/resolv.conf"
    found = image.stat(path, link=True)
    if found is not None and _is_own(image, path) and _name_servers(image, path):
        yield rules.NETWORK_LEFT.at(image, path, f"it names {_name_servers(image, path)}")


NETWORK_LEFT = {
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
