"""Everything that can be wrong with an image: one code each, how bad it is, and what to do.

The remedy is written here, once: {root} in it is the image's root directory as it was given, {at}
the file or directory that the finding is about, both as seen from the builder's shell.
The manual lists this table: `agent.lint.every_code()`.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent.lint.image import Image, readable

ERROR: Literal["error"] = "error"  # the device will not onboard, or the image gives a secret away
WARNING: Literal["warning"] = "warning"


@dataclass(frozen=True)
class Finding:
    """`path` begins at the image's root; `remedy` is typed on the builder's machine."""

    code: str
    severity: Literal["error", "warning"]
    path: str
    message: str
    remedy: str


@dataclass(frozen=True)
class Rule:
    code: str
    severity: Literal["error", "warning"]
    meaning: str
    remedy: str

    def at(self, image: Image, path: str, message: str, **fields: object) -> Finding:
        where = {"root": quoted(image.given), "at": quoted(image.shown(path))}
        remedy = self.remedy.format(**where, **fields)
        return Finding(self.code, self.severity, readable(path), readable(message), remedy)


def quoted(path: Path) -> str:
    """For a shell; a name that a terminal would obey in the way of bash, $'...'."""
    text = str(path)
    if text.isprintable():
        return shlex.quote(text)
    escaped = readable(text.replace("\\", r"\\").replace("'", r"\'"))
    return f"$'{escaped}'"


def every_code() -> Iterator[Rule]:
    """All rules, in the order they are written."""
    return (rule for rule in globals().values() if isinstance(rule, Rule))


UNSEEN = Rule(
    "unseen",
    ERROR,
    "The check could not look: what it did not see, nobody vouches for.",
    "Run it as root (sudo tpm2cloud lint-image {root}), and see what is odd with: ls -ld {at}",
)

# --- what must differ between devices ------------------------------------------------------------

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

# --- what an earlier life left over --------------------------------------------------------------

STATE_LEFT = Rule(
    "state-left",
    ERROR,
    "tpm2cloud ran in this image: state, PINs or certificates of another device are in it.",
    "rm -r {at}",
)
AZIOT_STATE_LEFT = Rule(
    "aziot-state-left",
    ERROR,
    "IoT Edge ran in this image: keys, certificates or an identity of another device are in it.",
    "rm -r {at}",
)
FACTORY_LEFT = Rule(
    "factory-left",
    ERROR,
    "What belongs to the factory line is in the image: every device could log in where it does.",
    "rm -r {at}",
)
AZIOT_CONFIGURED = Rule(
    "aziot-configured",
    ERROR,
    "IoT Edge is configured for a device already: tpm2cloud does that, at the first boot.",
    "rm {at} (config.toml: or remove its table [provisioning], and keep what is the fleet's)",
)
RUN_LEFT = Rule(
    "run-left",
    WARNING,
    "Run-time files of a service are in the image's /run; a boot hides them, an image keeps them.",
    "rm -r {at}",
)
LOG_LEFT = Rule(
    "log-left",
    WARNING,
    "The builder's journal is in the image.",
    "rm -r {at}",
)
HISTORY_LEFT = Rule(
    "history-left",
    WARNING,
    "A shell's history is in the image: what was typed, passwords included.",
    "rm {at}",
)
BUILD_LEFT = Rule(
    "build-left",
    WARNING,
    "Something that only the building needed is left over.",
    "rm -r {at}",
)

# --- secrets -------------------------------------------------------------------------------------

SECRET_READABLE = Rule(
    "secret-readable",
    ERROR,
    "Others than root may read a secret.",
    "chown 0:0 {at} && chmod 0600 {at}",
)
SECRET_UNUSABLE = Rule(
    "secret-unusable",
    ERROR,
    "A secret is empty, too long, or not text.",
    "Write it anew: install -m 0600 /dev/stdin {at}",
)
SECRET_ABSENT = Rule(
    "secret-absent",
    ERROR,
    "The configuration needs a secret that is not in the image.",
    "install -m 0600 /dev/stdin {at}",
)
SECRET_IN_UNIT = Rule(
    "secret-in-unit",
    ERROR,
    "A unit file has a secret in it, and everybody may read unit files.",
    "Move it to /etc/credstore/{name} in the image, mode 0600, and load it: LoadCredential={name}",
)
SECRET_SEALED = Rule(
    "secret-sealed",
    ERROR,
    "A credential is encrypted for the machine that made it: no other device can open it.",
    "Put its plain text into /etc/credstore/{name} in the image, mode 0600, and: rm {at}",
)
PRIVATE_KEY = Rule(
    "private-key",
    ERROR,
    "A private key is in the image: every device, and whoever has the image, would have it.",
    "rm {at}",
)
OTHERS_MAY_WRITE = Rule(
    "others-may-write",
    ERROR,
    "Others than root may change what decides whom this device trusts.",
    "chown 0:0 {at} && chmod go-w {at}",
)
PASSWORD_EMPTY = Rule(
    "password-empty",
    WARNING,
    "An account has an empty password: anybody may log in.",
    "passwd --root {root} --lock {user}",
)

# --- units ---------------------------------------------------------------------------------------

UNIT_ABSENT = Rule(
    "unit-absent",
    ERROR,
    "A unit that is needed is not in the image.",
    "apt-get install ./tpm2cloud_VERSION_ARCH.deb, in the image",
)
UNIT_MASKED = Rule(
    "unit-masked",
    ERROR,
    "A unit that is needed is masked: it will never start.",
    "rm {at}",
)
UNIT_NOT_ENABLED = Rule(
    "unit-not-enabled",
    ERROR,
    "A unit of tpm2cloud is not enabled, and no first boot will apply presets.",
    "systemctl --root={root} preset {unit}",
)
PRESET_DISABLES = Rule(
    "preset-disables",
    ERROR,
    "A preset disables a unit of tpm2cloud.",
    "Put 'enable {unit}' above that line, or into a preset file whose name sorts before that of "
    "{at}; then: systemctl --root={root} preset {unit}",
)
HEALTH_NOT_ENABLED = Rule(
    "health-not-enabled",
    WARNING,
    "A timer that has the device's certificates looked after is not enabled.",
    "Take away the preset or the mask that forbids it, if there is one; then: "
    "systemctl --root={root} preset {unit}",
)
AZIOT_NOT_ENABLED = Rule(
    "aziot-not-enabled",
    ERROR,
    "A unit of IoT Edge is not enabled: IoT Edge would be gone at the second boot.",
    "systemctl --root={root} enable {unit}",
)
AZIOT_SERVICE_ENABLED = Rule(
    "aziot-service-enabled",
    WARNING,
    "A service of IoT Edge starts by itself, before it is configured; its socket would do that.",
    "systemctl --root={root} disable {unit}",
)
DROP_IN_ABSENT = Rule(
    "drop-in-absent",
    ERROR,
    "What tpm2cloud adds to a unit of IoT Edge is not there, or hidden.",
    "Remove what hides it in /etc/systemd/system, or install the package tpm2cloud anew",
)

# --- software ------------------------------------------------------------------------------------

PACKAGE_ABSENT = Rule(
    "package-absent",
    ERROR,
    "A package that onboarding needs is not in the image.",
    "chroot {root} apt-get install {package}",
)
PACKAGE_UNFINISHED = Rule(
    "package-unfinished",
    ERROR,
    "A package is not completely installed: its users, directories or units may be missing.",
    "chroot {root} dpkg --configure -a",
)
AGENT_BROKEN = Rule(
    "agent-broken",
    ERROR,
    "The command tpm2cloud, or the Python it runs with, is not whole.",
    "chroot {root} apt-get install --reinstall tpm2cloud",
)
AGENT_OTHER_VERSION = Rule(
    "agent-other-version",
    WARNING,
    "The image has another version of tpm2cloud than the one that looks at it.",
    "Look at it with its own: chroot {root} tpm2cloud lint-image /",
)
TIME_SYNC_ABSENT = Rule(
    "time-sync-absent",
    WARNING,
    "Nothing will set the clock: without the right time no certificate can be judged.",
    "chroot {root} apt-get install systemd-timesyncd, or another NTP client, enabled",
)
NETWORK_ABSENT = Rule(
    "network-absent",
    WARNING,
    "No network service that is known here is enabled.",
    "systemctl --root={root} enable systemd-networkd.service, or yours",
)

# --- configuration -------------------------------------------------------------------------------

CONFIG_ABSENT = Rule(
    "config-absent",
    ERROR,
    "There is no configuration: tpm2cloud-firstboot.service will be skipped.",
    "Write {at} (tpm2cloud.toml(5))",
)
CONFIG_INVALID = Rule(
    "config-invalid",
    ERROR,
    "A configuration file says something that cannot be.",
    "Edit {at} (tpm2cloud.toml(5))",
)
CONFIG_EXAMPLE = Rule(
    "config-example",
    ERROR,
    "A setting is still the example's.",
    "Edit {at}",
)
DEVICE_ID_FIXED = Rule(
    "device-id-fixed",
    ERROR,
    "All devices would have one registration id.",
    "Give device.id a part that differs, such as {{serial}}, in {at}",
)
DEVICE_ID_INVALID = Rule(
    "device-id-invalid",
    ERROR,
    "No device can have a registration id like this.",
    "Edit device.id in {at}: at most 64 of A-Z a-z 0-9 . _ : - and {{serial}}, {{machine-id}}, "
    "{{mac}}, {{hash}}, {{ek}} (52 characters), {{ek-sha256}} (64)",
)
PAYLOAD_UNUSABLE = Rule(
    "payload-unusable",
    ERROR,
    "The file that dps.payload names is missing, is no JSON, or is longer than DPS takes.",
    "Write JSON into {at}, or take dps.payload out of the configuration",
)
TPM_SIMULATED = Rule(
    "tpm-simulated",
    ERROR,
    "The TPM that is configured is a simulator's.",
    "Remove tpm.tcti from {at}",
)
LAB_CA = Rule(
    "lab-ca",
    WARNING,
    "Every device holds the key of the CA that certifies it: fit for a lab only.",
    "Use [ldevid.est] instead of [ldevid.ca] in {at}",
)
STORE_DIFFERS = Rule(
    "pkcs11-store-differs",
    ERROR,
    "aziot-keyd would look for its keys in another place than tpm2cloud puts them.",
    "Set TPM2_PKCS11_STORE={store} in a drop-in: systemctl --root={root} edit aziot-keyd.service",
)
USER_ABSENT = Rule(
    "user-absent",
    ERROR,
    "The user who is to own the PKCS#11 store is not in the image.",
    "Correct pkcs11.owner, or, for IoT Edge's own user: "
    "chroot {root} apt-get install --reinstall aziot-identity-service",
)

# --- whom to trust -------------------------------------------------------------------------------

TRUST_UNREADABLE = Rule(
    "trust-unreadable",
    ERROR,
    "A file of CA certificates that the configuration names is missing, or holds none.",
    "Put the CA certificates, PEM, into {at}",
)
TRUST_NOT_CA = Rule(
    "trust-not-ca",
    ERROR,
    "No certificate of a trust file is a CA's.",
    "Put the certificate of the CA into {at}, not one that it issued",
)
TRUST_EXPIRED = Rule(
    "trust-expired",
    ERROR,
    "No certificate of a trust file is valid any more.",
    "Get the CA's new certificate, and put it into {at}",
)
TRUST_ENDS_SOON = Rule(
    "trust-ends-soon",
    WARNING,
    "A trust file ends within half a year: images are flashed for longer than that.",
    "Get the CA's new certificate, and add it to {at}",
)
TRUST_TOO_NEW = Rule(
    "trust-too-new",
    ERROR,
    "No certificate of a trust file is valid yet: devices refuse the clock until one is.",
    "Correct the clock of this machine, or of the CA that issued what is in {at}",
)
TRUST_UNSHARED = Rule(
    "trust-unshared",
    ERROR,
    "IoT Edge's certificate service, another user than root, cannot read its trust file.",
    "chmod 0644 {at}, and chmod o+x the directories above it",
)
ROOTS_ABSENT = Rule(
    "roots-absent",
    ERROR,
    "There is no root certificate of any TPM's maker: no TPM would be believed.",
    "Put the roots of your TPMs' maker, PEM, one file each, into {at}",
)

# --- the TPM -------------------------------------------------------------------------------------

ESCROW_UNUSABLE = Rule(
    "escrow-unusable",
    ERROR,
    "The file that tpm.authorization.escrow names is missing, or no public key to encrypt to.",
    "Put the owner's public key, or a certificate for it, PEM, into {at}",
)
OWNER_HIERARCHY_NEEDED = Rule(
    "owner-hierarchy-needed",
    ERROR,
    "The owner hierarchy is to get a password, and a disk is opened by the TPM without one.",
    "Set tpm.authorization.owner = 'leave', or take tpm2-device= out of {at}",
)
CLEVIS_IN_IMAGE = Rule(
    "clevis-in-image",
    WARNING,
    "The owner hierarchy is to get a password, and Clevis, which has none, is in the image: a disk "
    "that it has bound to the TPM stays closed.",
    "Set tpm.authorization.owner = 'leave' if a disk is bound by it: clevis luks list -d DEVICE",
)
APPROVALS_ABSENT = Rule(
    "approvals-absent",
    WARNING,
    "The directory that idevid.approvals names lacks a maker's public key, or an approved boot "
    "state; unless the firmware brings it, an IDevID with such a policy does not work.",
    "Copy the maker's public key, and for each state NAME.json and NAME.sig, into {at}",
)
APPROVAL_UNUSABLE = Rule(
    "approval-unusable",
    ERROR,
    "A file of approved boot states is not what its name says, or not signed by a maker whose "
    "public key is there.",
    "Put the right one into {at}, or remove all three of its name: .json, .sig, .pem",
)

# --- the clock -----------------------------------------------------------------------------------

CLOCK_FUTURE = Rule(
    "clock-floor-future",
    ERROR,
    "Devices would start with a time that is still to come.",
    "touch {at}",
)
CLOCK_OLD = Rule(
    "clock-floor-old",
    WARNING,
    "A device without a battery for its clock starts with a time that tpm2cloud cannot accept, and "
    "waits for NTP.",
    "touch {at}",
)
