"""What must be true of a device at any moment, whoever comes to look: before it is switched on
again, before anybody puts something right.

bounds = Bounds.of(before, end)  # two Snapshots of an undisturbed run
instant.right(device, bounds, tries=0)
"""

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tpm2_pytss.constants import TPM2_HC

from agent import x509
from agent.state import State, read_json
from agent.steps import ldevid_key
from agent.tpm import Tpm
from tests.lab.device import Device
from tests.lab.finished import config, failed_tries

# What may hold secrets, also on the way to its place.
PRIVATE = {*("pins.json", ".pins.json.new", "config.toml", ".config.toml.new")}
PRIVATE |= {*("config.toml.previous", ".config.toml.previous.new")}


@dataclass(frozen=True)
class Snapshot:
    """Persistent handles, NV indices, and IoT Edge's config.toml, if there is one."""

    handles: frozenset[int]
    nv: frozenset[int]
    config: str | None

    @classmethod
    def of(cls, device: Device) -> "Snapshot":
        with Tpm(device.tcti) as tpm:
            handles = frozenset(tpm.handles(TPM2_HC.PERSISTENT_FIRST))
            return cls(handles, frozenset(tpm.nv_indices()), _config(device))


def _config(device: Device) -> str | None:
    return config(device) if device.aziot.joinpath("config.toml").exists() else None


@dataclass(frozen=True)
class Bounds:
    """All that may be there on the way from one state to another."""

    handles: frozenset[int]
    nv: frozenset[int]
    configs: frozenset[str | None]

    @classmethod
    def of(cls, *seen: Snapshot) -> "Bounds":
        return cls(
            frozenset().union(*(each.handles for each in seen)),
            frozenset().union(*(each.nv for each in seen)),
            frozenset(each.config for each in seen),
        )


def right(device: Device, bounds: Bounds, *, tries: int) -> None:
    """Raises AssertionError; `tries`: how many failed ones the TPM may count."""
    if found := wrong(device, bounds, tries=tries):
        raise AssertionError("; ".join(found))


def wrong(device: Device, bounds: Bounds, *, tries: int) -> list[str]:
    """In words."""
    found = Snapshot.of(device)
    said = [f"handle {handle:#x}" for handle in found.handles - bounds.handles]
    said += [f"NV index {index:#x}" for index in found.nv - bounds.nv]
    if found.config not in bounds.configs:
        said.append(f"config.toml is neither the old nor the new one: {found.config}")
    if (counted := failed_tries(device)) > tries:
        said.append(f"{counted} failed tries, not {tries}")
    return [*said, *_halves(device), *told_secrets(device)]


def _halves(device: Device) -> Iterator[str]:
    """A file that is there is whole, and a certificate is for the key beside it. (But for the notes
    on what was loaded before us: they are cut off, if ever, before we load anything.)"""
    if (text := _read(device.aziot / "config.toml")) and not tomllib.loads(text.decode()):
        yield "config.toml says nothing"
    for path in device.state.glob("*.json"):
        if not path.name.startswith("tpm-loaded") and read_json(path) is None:
            yield f"{path.name} is damaged"
    for slot in (State(device.state), State(device.state).other):
        yield from _half(slot)


def _half(slot: State) -> Iterator[str]:
    if not slot.ldevid_cert.exists():
        return
    key, chain = ldevid_key.read(slot.ldevid_key), x509.parse(slot.ldevid_cert.read_bytes())
    if key is None or key.look().key != chain[0].public_key():
        yield f"{slot.ldevid_cert.name} is not for the key of {slot.ldevid_key.name}"


# --- secrets ---


def told_secrets(device: Device) -> list[str]:
    """Files with a secret that others may read, or that are no place for one. The TPM, IoT Edge's
    services and systemd's credentials are not looked at: what they keep is theirs."""
    said, known = [], _secrets(device)
    for path in _files(device):
        if (data := _read(path)) is None or not any(secret in data for secret in known):
            continue
        others = path.lstat().st_mode & 0o077
        if others or path.name not in PRIVATE:
            said.append(f"a secret in {path.relative_to(device.directory)}, {others:o} for others")
    return said


def _files(device: Device) -> Iterator[Path]:
    theirs = {device.tpm, device.edge, device.credentials}
    for top, directories, names in os.walk(device.directory):
        directories[:] = [name for name in directories if Path(top, name) not in theirs]
        yield from (Path(top, name) for name in names)


def _secrets(device: Device) -> list[bytes]:
    """Those it was given, and those it made."""
    world, state = device.world, State(device.state)
    given = [world.est_password, world.est_secret, world.operational_password]
    given += [world.factory_password, world.factory_secret]
    for path in (state.pins, state.pins.with_name(f".{state.pins.name}.new")):
        pins = read_json(path) or {}
        given += [pin for pin in pins.values() if isinstance(pin, str)]
    return [secret.encode() for secret in given]


def _read(path: Path) -> bytes | None:
    """What somebody else is just replacing is looked at when it is there."""
    try:
        return path.read_bytes() if path.is_file() else None
    except FileNotFoundError:
        return None
