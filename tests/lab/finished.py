"""What must be true of a device once all is done, and what is the same each time it is done."""

import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import unquote

from tpm2_pytss.constants import TPM2_CAP, TPM2_HC, TPM2_PT

from agent import pkcs11, x509
from agent.state import State, read_json
from agent.steps import ldevid_key, srk
from agent.tpm import HUB_KEY, Public, Tpm
from tests.lab.device import Device


@dataclass(frozen=True)
class End:
    """What is the same on every device of a kind in a world."""

    handles: dict[int, bytes]  # but for the LDevID key, what is at the persistent handles
    nv: dict[int, bytes | None]
    loaded: set[int]
    keys: list[tuple[str, bool]]
    files: dict[str, str]
    config: str


def differences(found: object, expected: object) -> list[str]:
    """What is not as it should be, in words."""
    said = []
    for name, value in vars(found).items():
        other = vars(expected)[name]
        if isinstance(value, dict):
            differ = {key for key in {*value, *other} if value.get(key) != other.get(key)}
            said += [f"{name}: {key}: {value.get(key)}, not {other.get(key)}" for key in differ]
        elif value != other:
            said.append(f"{name}: {value}, not {other}")
    return sorted(said)


def end(device: Device) -> End:
    with Tpm(device.tcti) as tpm:
        objects = {handle: tpm.public(handle) for handle in tpm.handles(TPM2_HC.PERSISTENT_FIRST)}
        if device.wish.attestation == "tpm":
            assert objects.pop(HUB_KEY) is not None
            keys = []
        else:
            ours = objects.pop(ldevid_key.HANDLE)
            assert ours is not None
            keys = _token(device, tpm, ours)
        return End(
            handles={handle: public.blob for handle, public in objects.items() if public},
            nv={index: tpm.nv_read(index) for index in tpm.nv_indices()},
            loaded=tpm.loaded() | {*tpm.handles(TPM2_HC.ACTIVE_SESSION_FIRST)},
            keys=keys,
            files=files(device),
            config=config(device),
        )


def _token(device: Device, tpm: Tpm, ours: Public) -> list[tuple[str, bool]]:
    """The keys in it; the LDevID's is the TPM's, and the certificate is for it."""
    state = State(device.state)
    token = pkcs11.look(device.pkcs11, "edge", below=tpm.serialized(srk.HANDLE))
    assert token is not None
    assert token.holds(state.slot, ours.blob)
    assert x509.parse(state.ldevid_cert.read_bytes())[0].public_key() == ours.key
    with closing(sqlite3.connect(device.pkcs11 / pkcs11.DATABASE)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert ldevid_key.read(state.ldevid_key) is not None
    return sorted((key.label, key.paired) for key in token.keys)


def failed_tries(device: Device) -> int:
    """The counter of the protection against guessing passwords."""
    with Tpm(device.tcti) as tpm:
        kind = TPM2_CAP.TPM_PROPERTIES
        _, found = tpm.esys.get_capability(kind, TPM2_PT.LOCKOUT_COUNTER, 1)
        return int(found.data.tpmProperties[0].value)


def files(device: Device) -> dict[str, str]:
    """Mode of every file and directory, but for what belongs to the TPM and to IoT Edge's services.
    None is damaged."""
    for path in device.state.glob("*.json"):
        assert read_json(path), path
    others = {device.tpm, device.edge, device.socket.parent}
    return {
        str(path.relative_to(device.directory)): oct(path.stat().st_mode)
        for path in device.directory.rglob("*")
        if not others & {path, *path.parents}
    }


def config(device: Device) -> str:
    """IoT Edge's configuration, but for what is of this device alone."""
    text = (device.aziot / "config.toml").read_text()
    pins = read_json(State(device.state).pins) or {}
    for pin in re.findall(r"pin-value=([^\"&;]+)", text):
        assert unquote(pin) == pins["user"]
        text = text.replace(pin, "PIN")
    return text.replace(str(device.directory), "DIRECTORY")
