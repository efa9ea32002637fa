"""The LDevID that is in use at this very moment, whoever looks: IoT Edge's services, by the
configuration they run with, and the agent. There is always one, whole and for a key that is there.
"""

import shutil
import tempfile
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlparse

from cryptography.x509 import Certificate

from agent import pkcs11, x509
from agent.http import Https
from agent.state import State
from agent.steps import enrol, ldevid_key, srk
from agent.tpm import Tpm
from agent.tpm.keyfile import Wrapped
from tests.lab import pki
from tests.lab.device import Device


def by_iotedge(device: Device) -> tuple[Path, str]:
    """The certificate's file, and its key's name in the token; as applied, not as written."""
    config = tomllib.loads((device.edge / "super.toml").read_text())
    identity = config["provisioning"]["attestation"]
    login = config.get("cert_issuance", {}).get("est", {}).get("auth", {})
    file = login.get("bootstrap_identity_cert") or identity["identity_cert"]
    key = login.get("bootstrap_identity_pk") or identity["identity_pk"]
    path, _, _ = urlparse(key).path.partition("?")
    parts = dict(each.split("=", 1) for each in path.split(";"))
    return Path(urlparse(file).path), unquote(parts["object"])


@dataclass(frozen=True)
class Pair:
    """A chain, leaf first, and the key of the leaf, as the token has it."""

    chain: list[Certificate]
    key: Wrapped


def consistent(device: Device) -> Pair:
    """What IoT Edge uses; it is whole and belongs together, as what the agent uses does. Nothing is
    changed, not even by looking."""
    state = State(device.state)
    file, label = by_iotedge(device)
    pair = Pair(whole(device, file), wrapped(device, label))
    assert pair.key.look().key == pair.chain[0].public_key(), "IoT Edge's does not match"
    own = ldevid_key.read(state.ldevid_key)
    assert own is not None, f"no key in '{state.ldevid_key}'"
    assert own.look().key == whole(device, state.ldevid_cert)[0].public_key(), "ours does not match"
    return pair


def whole(device: Device, file: Path) -> list[Certificate]:
    """It and its issuers, as far as they are there; and it says who this device is."""
    chain = x509.parse(file.read_bytes())
    for below, above in pairwise(chain):
        below.verify_directly_issued_by(above)
    assert chain[0].subject == pki.name(device.wish.id)
    return chain


def wrapped(device: Device, label: str) -> Wrapped:
    """The key of this name in the token. A copy is looked at: the journal of somebody who was
    killed is for the next one who comes to roll back."""
    files = [device.pkcs11 / f"{pkcs11.DATABASE}{more}" for more in ("", "-journal")]
    with tempfile.TemporaryDirectory() as scratch:
        copy(files, Path(scratch))
        token = pkcs11.look(Path(scratch), "edge")
    assert token is not None
    [key] = [key for key in token.keys if key.label == label and key.paired]
    return Wrapped(key.public, key.private, srk.HANDLE)


def copy(files: list[Path], directory: Path) -> None:
    """Those that are there, as they are at one moment: IoT Edge may be at work on them."""

    def changed() -> list[int]:
        return [file.stat().st_mtime_ns for file in files if file.exists()]

    before = None
    while before != (before := changed()):
        for file in files:
            directory.joinpath(file.name).unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                shutil.copy(file, directory)


def logs_in(device: Device, pair: Pair) -> None:
    """With the very key of the token, at the owner's EST server."""
    key, url = pair.key, f"{device.world.owner_est.url('mtls')}/cacerts"
    with (
        Tpm(device.tcti) as tpm,
        tpm.load(key.parent, key.public, key.private) as loaded,
        enrol.by_key(tpm.signer(loaded, known=True), pair.chain) as client,
        Https(device.world.tls.trust, **client) as https,
    ):
        assert https.request("GET", url).status == 200
