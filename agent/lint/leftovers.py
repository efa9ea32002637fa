"""What an earlier life of the image, or its building, left over."""

import re
import stat
import tomllib
from collections.abc import Iterator

from agent import config, config_factory
from agent.config import Config
from agent.lint import identity, settings
from agent.lint.image import Image
from agent.lint.rules import ERROR, WARNING, Finding, Rule

AZIOT_STATE = ("/var/lib/aziot", "/var/secrets/aziot", "/var/lib/iotedge")
RUN = ("/run/tpm2cloud", "/run/aziot", "/run/iotedge", "/run/credentials", "/run/credstore")
HISTORIES = (".bash_history", ".ash_history", ".zsh_history", ".python_history", ".lesshst")
SECRETS = ("factory-est-password", "factory-est-secret", "factory-ca-password", "tpm-platform-auth")
FACTORY = (
    str(config_factory.FILE),
    f"{config.ETC}/manufacture.d/*",
    *(f"/etc/credstore/{name}" for name in SECRETS),
)
BUILD = {
    "/usr/sbin/policy-rc.d": "it forbids packages to start services, on the device too",
    "/var/lib/cloud/instances": "cloud-init's state: it takes a device for the builder's machine",
}

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


def state(image: Image, conf: Config | None) -> Iterator[Finding]:
    for directory in dict.fromkeys([str(config.VAR), *([str(conf.pkcs11.store)] if conf else [])]):
        yield from _first(image, directory, STATE_LEFT, "of a device that this image was")


def aziot_state(image: Image, _: Config | None) -> Iterator[Finding]:
    for directory in AZIOT_STATE:
        yield from _first(image, directory, AZIOT_STATE_LEFT, "of a device it was part of")


def _first(image: Image, directory: str, rule: Rule, whose: str) -> Iterator[Finding]:
    """One finding for a directory, however much is in it."""
    files = [path for path, found in image.below(directory) if not stat.S_ISDIR(found.st_mode)]
    if files:
        why = f"{len(files)} file{'s' * (len(files) > 1)} {whose}, such as {min(files)}"
        yield rule.at(image, directory, why)


def factory(image: Image, _: Config | None) -> Iterator[Finding]:
    for path in (found for pattern in FACTORY for found in image.matching(pattern)):
        yield FACTORY_LEFT.at(image, path, "of the factory line's")


def aziot_configuration(image: Image, conf: Config | None) -> Iterator[Finding]:
    """A config.toml with what the fleet shares is welcome: tpm2cloud adds to it."""
    directory = str(conf.aziot.directory if conf else config.Aziot.directory)
    for path in image.matching(f"{directory}/*/config.d/00-super.toml"):
        yield AZIOT_CONFIGURED.at(image, path, "`iotedge config apply` ran in this image")
    path = f"{directory}/config.toml"
    try:
        base = tomllib.loads(image.text(path) or "")
    except tomllib.TOMLDecodeError as e:
        yield settings.CONFIG_INVALID.at(image, path, f"it is not TOML: {e}")
        return
    if "provisioning" in base:
        yield AZIOT_CONFIGURED.at(image, path, "it says already who this device is")
    if "hostname" in base:
        yield identity.HOSTNAME_FIXED.at(image, path, "it sets one host name for all devices")


def run(image: Image, _: Config | None) -> Iterator[Finding]:
    for directory in RUN:
        yield from _first(image, directory, RUN_LEFT, "of a service that ran")


def logs(image: Image, _: Config | None) -> Iterator[Finding]:
    for path in image.matching("/var/log/journal/*"):
        yield LOG_LEFT.at(image, path, "a journal of the builder's")


def histories(image: Image, _: Config | None) -> Iterator[Finding]:
    for home in ["/root", *image.matching("/home/*")]:
        for path in (f"{home}/{name}" for name in HISTORIES):
            if image.exists(path):
                yield HISTORY_LEFT.at(image, path, "what was typed while it was built")


def build(image: Image, _: Config | None) -> Iterator[Finding]:
    for path, why in BUILD.items():
        if image.exists(path):
            yield BUILD_LEFT.at(image, path, why)
    for path in ["/etc/apt/apt.conf", *image.matching("/etc/apt/apt.conf.d/*")]:
        if image.is_file(path) and re.search(r"(?mi)^[^/#]*\bproxy\b", image.text(path) or ""):
            yield BUILD_LEFT.at(image, path, "the proxy that apt used here")


CHECKS = (state, aziot_state, factory, aziot_configuration, run, logs, histories, build)
