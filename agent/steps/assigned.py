"""What DPS assigned this device, on disk: with what it was asked, and with the hub key.

An assignment is proven once the hub let the device in with it. A new one is kept beside the one
before until then, so that at any moment there is one that works. Nothing in the file is a secret in
the clear: the key is wrapped by the SRK, and of use in this TPM alone.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from agent import inputs, store, x509
from agent.config import Config
from agent.state import State, read_json, write_json
from agent.steps import srk
from agent.tpm import Tpm
from agent.tpm.imported import HUB_KEY

Asked = dict[str, str | None]


@dataclass(frozen=True)
class Key:
    """The hub key, wrapped by the SRK: TPM2B_PUBLIC, TPM2B_PRIVATE."""

    public: bytes
    private: bytes


@dataclass(frozen=True)
class Assignment:
    """The IoT Hub (a host name) that this device belongs to, and its name there. `asked`: what of
    it depends on. `key`: with attestation by TPM; else the LDevID logs in."""

    hub: str
    device_id: str
    asked: Asked
    key: Key | None = None


@dataclass(frozen=True)
class Kept:
    """`proven` is in use; `candidate` is to take its place. `anew`: a person wants DPS to be asked,
    whatever is here, and the answer has not proven itself yet."""

    proven: Assignment | None = None
    candidate: Assignment | None = None
    anew: bool = False


def read(state: State) -> Assignment | None:
    """The one in use. Raises NoPermission."""
    return load(state).proven


def load(state: State) -> Kept:
    """What is missing or damaged is asked for anew. Raises NoPermission."""
    found = read_json(state.assignment) or {}
    proven, candidate = (_parsed(found.get(name)) for name in ("proven", "candidate"))
    return Kept(proven, candidate, found.get("anew") is True)


def keep(state: State, kept: Kept) -> None:
    found = {"proven": kept.proven, "candidate": kept.candidate}
    shown = {name: _written(each) for name, each in found.items() if each is not None}
    write_json(state.assignment, shown | ({"anew": True} if kept.anew else {}))


def wish(state: State) -> None:
    """DPS is to be asked anew. Boots go on with it until what it says has proven itself. A device
    that was never assigned is asked for anyway; a candidate comes of what DPS said before."""
    if (kept := load(state)) != Kept():
        keep(state, Kept(kept.proven, anew=True))


def asked(conf: Config, who: str, shown: str | None) -> Asked:
    """All that an assignment depends on. `shown`: the name of the EK (hex), or the fingerprint of
    the LDevID; None before it is there. Raises what `inputs.payload` does."""
    payload = inputs.payload(conf)
    text = json.dumps(payload, sort_keys=True).encode()
    return {
        "endpoint": conf.dps.endpoint,
        "id_scope": conf.dps.id_scope,
        "registration_id": who,
        "attestation": conf.dps.attestation,
        "shown": shown,
        "payload": None if payload is None else sha256(text).hexdigest(),
    }


def certificate(path: Path) -> str | None:
    """The fingerprint of the LDevID in this file."""
    chain = x509.kept(store.read(path))
    return x509.fingerprint(chain[0]) if chain else None


def made_with_another(conf: Config, state: State, who: str) -> bool:
    """All that has changed since DPS assigned this is the LDevID, which DPS and the hub know."""
    now = read(state)
    if now is None or conf.dps.attestation != "x509":
        return False
    wanted = asked(conf, who, certificate(state.ldevid_cert))
    return now.asked != wanted and {**now.asked, "shown": wanted["shown"]} == wanted


def signer(tpm: Tpm, key: Key) -> Callable[[bytes], bytes]:
    """HMAC-SHA256 with the hub key, 32 bytes, wherever the key is kept."""
    return partial(sign, tpm, key)


def sign(tpm: Tpm, key: Key, data: bytes) -> bytes:
    """The key at the handle needs neither the SRK nor what is on the disk. Another is in the TPM
    for the length of one signature: others want its few slots, too."""
    found = tpm.public(HUB_KEY)
    if found is not None and found.blob == key.public:
        return tpm.hmac(HUB_KEY, data)
    with tpm.load(srk.HANDLE, key.public, key.private) as loaded:
        return tpm.hmac(loaded, data)


def _written(assignment: Assignment) -> dict[str, Any]:
    key = assignment.key
    blobs = {name: b64encode(blob).decode() for name, blob in asdict(key).items()} if key else None
    return {**asdict(assignment), "key": blobs}


def _parsed(found: Any) -> Assignment | None:
    try:
        hub, device_id, asked = str(found["hub"]), str(found["device_id"]), dict(found["asked"])
        return Assignment(hub, device_id, asked, _key(found["key"]))
    except (KeyError, TypeError, ValueError):
        return None


def _key(found: Any) -> Key | None:
    if found is None:
        return None
    public, private = (_sized(found[name]) for name in ("public", "private"))
    return Key(public, private)


def _sized(text: str) -> bytes:
    """A TPM2B: two bytes say how many come after them."""
    blob = b64decode(text, validate=True)
    if len(blob) != 2 + int.from_bytes(blob[:2], "big"):
        raise ValueError("not whole")
    return blob
