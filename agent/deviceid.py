"""Who this device is: registration id, and CN of its certificates.

`root` is where the file system begins, "/" on a device.
"""

import hashlib
import re
from base64 import b32encode
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agent.errors import DeviceIdInvalid, NoPermission

# DPS: up to 128 of these; an X.509 CN has at most 64 (RFC 5280, ub-common-name)
LEGAL = re.compile(r"[A-Za-z0-9._:-]{0,63}[A-Za-z0-9-]")
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
NO_SERIAL = {
    "", "0", "none", "n/a", "na", "unknown", "notspecified", "notapplicable", "defaultstring",
    "systemserialnumber", "chassisserialnumber", "tobefilledbyo.e.m.", "oem", "123456789",
}  # fmt: skip


Card = Callable[[Path], str]  # `mac`, or what asks somebody who sees network cards
Ek = Callable[[], bytes]  # the TPM2B_PUBLIC of the EK, asked for only where it is part of the id


def resolve(
    template: str, root: Path = Path("/"), ek: Ek | None = None, card: Card | None = None
) -> str:
    """A registration id: the text with {serial} and so on filled in. Raises DeviceIdInvalid, and
    what `ek` and `card` do."""
    found = filled(template, root, ek, card)
    if not LEGAL.fullmatch(found):
        raise DeviceIdInvalid(f"cannot use the device id '{found}': not a legal registration id")
    return found


def filled(
    template: str, root: Path = Path("/"), ek: Ek | None = None, card: Card | None = None
) -> str:
    """The text with {serial}, {machine-id}, {mac}, {hash}, {ek} and {ek-sha256} filled in. Raises
    DeviceIdInvalid, and what `ek` and `card` do."""
    sources = SOURCES | (_by_card(card) if card else {})

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        if name in OF_THE_EK:
            return _of_the_ek(name, ek)
        if name not in SOURCES:
            known = ", ".join(f"{{{each}}}" for each in NAMES)
            raise DeviceIdInvalid(f"cannot make the device id: no {{{name}}}; there are {known}")
        if not (value := sources[name](root)):
            raise DeviceIdInvalid(f"cannot make the device id: this device has no {{{name}}}")
        return value

    return PLACEHOLDER.sub(fill, template)


def shortest(template: str) -> str:
    """The text with as little as can be in the place of each placeholder, known or not."""
    return PLACEHOLDER.sub(lambda match: "0" * OF_THE_EK.get(match[1], 1), template)


def registration_ids(blob: bytes) -> dict[str, str]:
    """The two names that devices are enrolled under by their EK (`blob`: TPM2B_PUBLIC, with its two
    size bytes). `base32`: of its SHA-256, RFC 4648, lower case, no padding, 52 characters, as the C
    SDK's tpm_device_provision and the Node SDK have it; `sha256_hex`: 64 characters, as IoT Edge's
    documentation makes it of `tpm2_readpublic -o ek.pub`."""
    digest = hashlib.sha256(blob)
    base32 = b32encode(digest.digest()).decode().rstrip("=").lower()
    return {"base32": base32, "sha256_hex": digest.hexdigest()}


def _of_the_ek(name: str, ek: Ek | None) -> str:
    if ek is None:
        raise DeviceIdInvalid(f"cannot make the device id: {{{name}}} is for who asks the TPM")
    return registration_ids(ek())["base32" if name == "ek" else "sha256_hex"]


def serial(root: Path) -> str:
    """The board's own: device tree (as on a Raspberry Pi), else DMI; '' for a maker's filler."""
    places = (
        "sys/firmware/devicetree/base/serial-number",
        "sys/class/dmi/id/product_serial",
        "sys/class/dmi/id/board_serial",
    )
    return next((s for s in (_text(root / p) for p in places) if _real(s)), "")


def _real(serial: str) -> bool:
    plain = re.sub(r"\s", "", serial.lower())
    return plain not in NO_SERIAL and len(set(plain)) > 1


def machine_id(root: Path) -> str:
    """machine-id(5): 32 hex digits, the same at every boot of this installation."""
    found = _text(root / "etc/machine-id")
    return found if re.fullmatch(r"[0-9a-f]{32}", found) else ""


def mac(root: Path) -> str:
    """The address of eth0, else of the first network card (by name) that is a piece of hardware."""
    net = root / "sys/class/net"
    cards = sorted(p.name for p in net.iterdir() if (p / "device").exists()) if net.is_dir() else []
    names = ["eth0", *cards]
    addresses = (_text(net / name / "address") for name in names)
    return next((a for a in addresses if a and set(a) != {"0", ":"}), "")


def seed_hash(root: Path, card: Card = mac) -> str:
    """SHA-256, hex, over `MODEL=<m>,SN=<s>,MAC=<a>` and a line end, blanks removed, model and
    serial from /proc/cpuinfo: what the shell scripts of iotedge-tpm2cloud compute on a Raspberry
    Pi. Other boards say theirs by device tree or DMI."""
    model = _cpuinfo(root, "Model") or _text(root / "sys/class/dmi/id/product_name")
    number = _cpuinfo(root, "Serial") or serial(root)
    address = card(root)
    if not (number or address):
        return ""  # one hash for a whole fleet would be no identity
    text = f"MODEL={model},SN={number},MAC={address}".replace(" ", "")
    return hashlib.sha256(f"{text}\n".encode()).hexdigest()


SOURCES: dict[str, Callable[[Path], str]] = {
    "serial": serial,
    "machine-id": machine_id,
    "mac": mac,
    "hash": seed_hash,
}


def _by_card(card: Card) -> dict[str, Callable[[Path], str]]:
    return {"mac": card, "hash": partial(seed_hash, card=card)}


OF_THE_EK = {"ek": 52, "ek-sha256": 64}  # characters
NAMES = (*SOURCES, *OF_THE_EK)


def _cpuinfo(root: Path, key: str) -> str:
    lines = _text(root / "proc/cpuinfo").splitlines()
    pairs = (line.partition(":") for line in lines)
    return next((v.strip() for k, _, v in pairs if k.strip() == key), "")


def _text(path: Path) -> str:
    """A file of the kernel's, stripped; '' where there is none. One that is not for us (DMI is
    root's) is no reason to be somebody else: raises NoPermission."""
    try:
        return path.read_text(errors="replace").strip("\0 \t\r\n")
    except PermissionError as e:
        raise NoPermission(f"cannot read '{path}': {e.strerror}", path=path) from e
    except OSError:
        return ""
