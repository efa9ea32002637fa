"""The configuration of an image: as the agent will read it, and fit for a whole fleet."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from agent import deviceid, inputs, schema
from agent.config import Config
from agent.errors import PayloadUnusable
from agent.lint import unitfiles
from agent.lint.image import Image
from agent.lint.rules import ERROR, Finding, Rule

EXAMPLE_SCOPE = "0ne00000000"
SIMULATORS = ("swtpm", "mssim", "libtpms", "cmd")

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


def load(image: Image, file: Path) -> tuple[Config | None, list[Finding]]:
    """What `config.load` would find on the device, and everything that is wrong with it."""
    main, directory = str(file), f"{file.parent}/config.d"
    drop_ins = [f"{directory}/{n}" for n in image.names(directory) if n.endswith(".toml")]
    if not image.exists(main):
        return None, [CONFIG_ABSENT.at(image, main, "there is no configuration")]
    for path in (main, *drop_ins):
        image.data(path)  # or Unseen: the loader would wait for a pipe
    found = schema.Found(file)
    tree = schema.read([image.real(path) for path in (main, *drop_ins)], found)
    conf = None if found.problems else schema.build(Config, tree, found)
    problems = [CONFIG_INVALID.at(image, main, why) for why in found.problems]
    return (None if problems else conf), problems


def example(image: Image, conf: Config | None) -> Iterator[Finding]:
    if conf is None:
        return
    if conf.dps.id_scope == EXAMPLE_SCOPE:
        yield CONFIG_EXAMPLE.at(image, CONFIG, f"dps.id_scope is {EXAMPLE_SCOPE!r}")
    urls: dict[str, str | None] = {}
    if conf.ldevid and conf.ldevid.est:
        urls["ldevid.est.url"] = conf.ldevid.est.url
    if conf.operational:
        urls["operational.url"] = conf.operational.url
    if conf.proxy:
        urls["proxy.url"] = conf.proxy.url
    for setting, url in urls.items():
        host = urlsplit(url or "").hostname or ""
        if re.search(r"(^|\.)(example(\.com|\.net|\.org)?|invalid)\.?$", host):  # RFC 2606
            yield CONFIG_EXAMPLE.at(image, CONFIG, f"{setting} is {url!r}")


def device_id(image: Image, conf: Config | None) -> Iterator[Finding]:
    if conf is None:
        return
    template = conf.device.id
    names = deviceid.PLACEHOLDER.findall(template)
    if unknown := [name for name in names if name not in deviceid.NAMES]:
        why = f"device.id {template!r}: there is no {{{unknown[0]}}}"
        yield DEVICE_ID_INVALID.at(image, CONFIG, why)
    elif not deviceid.LEGAL.fullmatch(deviceid.shortest(template)):
        why = f"device.id {template!r} makes no legal registration id"
        yield DEVICE_ID_INVALID.at(image, CONFIG, why)
    elif not names:
        why = f"device.id is {template!r} on all devices"
        yield DEVICE_ID_FIXED.at(image, CONFIG, why)


def simulator(image: Image, conf: Config | None) -> Iterator[Finding]:
    if conf and conf.tpm.tcti.partition(":")[0] in SIMULATORS:
        why = f"tpm.tcti is {conf.tpm.tcti!r}, a simulator"
        yield TPM_SIMULATED.at(image, CONFIG, why)


def store(image: Image, conf: Config | None) -> Iterator[Finding]:
    """The same directory for us and for aziot-keyd, and an owner for it."""
    if conf is None or conf.dps.attestation == "tpm":
        return
    if conf.for_edge:
        if not image.exists("/usr/bin/iotedge"):
            return
        yield from _store_of_keyd(image, conf)
    users = re.findall("^([^:]+):", image.text("/etc/passwd") or "", re.MULTILINE)
    if conf.token_owner not in users:
        why = f"there is no user '{conf.token_owner}', who is to own the PKCS#11 store"
        yield USER_ABSENT.at(image, "/etc/passwd", why)


def _store_of_keyd(image: Image, conf: Config) -> Iterator[Finding]:
    values = unitfiles.settings(image, "aziot-keyd.service", "Environment")
    found = [(m[1], path) for v, path in values if (m := re.search(STORE_OF_KEYD, v))]
    if found and Path(found[-1][0]) != conf.pkcs11.store:
        why = f"it says {found[-1][0]}, but pkcs11.store is {conf.pkcs11.store}"
        yield STORE_DIFFERS.at(image, found[-1][1], why, store=conf.pkcs11.store)


def payload(image: Image, conf: Config | None) -> Iterator[Finding]:
    """What DPS is told besides: as a device will read it."""
    path = conf.dps.payload if conf and not conf.for_edge else None
    if path is None:
        return
    try:
        inputs.payload_in(image.data(str(path), inputs.LARGEST + 1), path)
    except PayloadUnusable as e:
        yield PAYLOAD_UNUSABLE.at(image, str(path), str(e))


CONFIG = "/etc/tpm2cloud/config.toml"
STORE_OF_KEYD = r"""TPM2_PKCS11_STORE=([^\s"']+)"""
CHECKS = (example, device_id, simulator, store, payload)
