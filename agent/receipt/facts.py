"""What of this device is written down: as it is now. What was done is where two of these differ.

So nothing has to be remembered from the moment that it was done to the moment that it is written:
a run that was killed in between is made up for by the next one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.x509 import Certificate

from agent import __version__, aziot_identity, config_files, store, x509
from agent.clock import Times
from agent.config import Config
from agent.state import State
from agent.steps import assigned

Facts = dict[str, Any]
# What is said of it when one of these is another.
DID = {
    "configuration": "configured",
    "software": "updated",
    "registration_id": "registered",
    "id_scope": "registered",
    "endpoint": "registered",
    "attestation": "registered",
    "hub": "registered",
}


@dataclass(frozen=True)
class Here:
    """This device. `config`: the file of `conf`; its drop-ins are beside it."""

    conf: Config
    state: State
    config: Path


def now(here: Here, who: str, before: Facts | None, *, ask: bool) -> Facts:
    """`who`: the registration id. `ask`: IoT Edge's identity service may be asked; else, and where
    it does not say, the hub is as `before`, if DPS was asked for the same. Raises what reading
    files does."""
    dps = here.conf.dps
    asked = {
        "registration_id": who,
        "id_scope": dps.id_scope,
        "endpoint": dps.endpoint,
        "attestation": dps.attestation,
    }
    same = before is not None and asked.items() <= before.items()
    return {
        "software": __version__,
        "configuration": digest(here.config),
        **asked,
        "hub": _hub(here, who, ask=ask) or (before.get("hub") if before and same else None),
        "ldevid": _certificate(x509.kept(store.read(here.state.ldevid_cert))),
    }


def digest(config: Path) -> str:
    """SHA-256 over the file and its drop-ins, one behind the other: as
    `cat config.toml config.d/*.toml | sha256sum` has it."""
    found = (store.read(path) or b"" for path in config_files.files(config))
    return sha256(b"".join(found)).hexdigest()


def _hub(here: Here, who: str, *, ask: bool) -> Facts | None:
    """Where DPS assigned it to, and under which name; None if nobody says so now."""
    if not here.conf.for_edge:
        kept = assigned.read(here.state)
        return {"host": kept.hub, "device_id": kept.device_id} if kept else None
    if not ask:
        return None
    said = aziot_identity.provisioning(here.conf.aziot.identity_socket)
    if isinstance(said, aziot_identity.Unknown) or said.registration_id != who:
        return None
    return {"host": said.hub, "device_id": said.device_id}


def _certificate(chain: list[Certificate]) -> Facts | None:
    if not chain:
        return None
    leaf = chain[0]
    return {
        "subject": x509.written(leaf.subject),
        "issuer": x509.written(leaf.issuer),
        "serial": f"{leaf.serial_number:x}",
        "sha256": x509.fingerprint(leaf),
        "key": sha256(x509.spki(leaf.public_key())).hexdigest(),
        "not_before": leaf.not_valid_before_utc.isoformat(),
        "not_after": leaf.not_valid_after_utc.isoformat(),
    }


def did(before: Facts | None, after: Facts) -> list[str]:
    """In words, what has happened; nothing, if nothing has."""
    if before is None:
        return ["provisioned"]
    return list(dict.fromkeys(_differ(before, after)))


def _differ(before: Facts, after: Facts) -> Iterator[str]:
    old, new = before.get("ldevid"), after["ldevid"]
    if old != new:
        same_key = isinstance(old, dict) and new is not None and old.get("key") == new["key"]
        yield "renewed" if same_key else "rekeyed"
    for name, word in DID.items():
        if before.get(name) != after[name]:
            yield word


def at(state: State) -> dict[str, Any]:
    """When: by the clock of this device, and not before what a server has said whose certificate
    was good, and who that was. Nobody vouches for more than that (agent/clock.py)."""
    floor = Times(state.clock, keep=False).floor
    vouched = {"at_least": _second(floor.at), "by": floor.by} if floor else None
    return {"at": _second(datetime.now(UTC)), "clock": vouched}


def _second(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")
