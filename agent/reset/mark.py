"""That this device is being reset, or was: a file, from before the first thing goes until it is
provisioned again.

All is decided, and written there, before anything is removed: what is ours in the TPM, by name, and
what has to be revoked. So a run that goes on where one was cut off decides nothing anew, of what is
not there any more.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from agent import store
from agent.config import Config
from agent.errors import ResetUnderWay, ResetWaits
from agent.state import State, read_json, write_json

log = logging.getLogger(__name__)
# "removing": all but the configuration, which is needed for it; "configuration": only that is left.
Phase = Literal["removing", "configuration", "done"]
PHASES = ("removing", "configuration", "done")


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What somebody confirmed."""

    decommission: bool = False
    burn_idevid: bool = False
    configuration: bool = False

    def __or__(self, other: "Wishes") -> "Wishes":
        both = asdict(self).items()
        return Wishes(**{name: wanted or getattr(other, name) for name, wanted in both})


@dataclass(frozen=True, kw_only=True)
class Mark:
    """`owner`: a digest of whom the device was provisioned for. `keys`: persistent handles to be
    given up, with the names (hex) of what is there; `indices`: of the NV, with the SHA-256 of what
    they hold. `files`: of the configuration. `hand_over`: see handover.py."""

    phase: Phase
    wishes: Wishes
    owner: str
    hand_over: dict[str, Any]
    keys: Mapping[int, str] = field(default_factory=dict)
    indices: Mapping[int, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


def read(state: State) -> Mark | None:
    """None: there is none, or it is damaged."""
    found = read_json(state.reset)
    try:
        return _parsed(found) if found and found["phase"] in PHASES else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _parsed(found: Mapping[str, Any]) -> Mark:
    return Mark(
        phase=found["phase"],
        wishes=Wishes(**found["wishes"]),
        owner=found["owner"],
        hand_over=found["hand_over"],
        keys=_numbered(found["keys"]),
        indices=_numbered(found["indices"]),
        files=tuple(map(Path, found["files"])),
    )


def _numbered(found: Mapping[str, str]) -> dict[int, str]:
    return {int(at, 16): what for at, what in found.items()}


def write(state: State, mark: Mark) -> None:
    shown = asdict(mark)
    shown["keys"] = {hex(at): name for at, name in mark.keys.items()}
    shown["indices"] = {hex(at): digest for at, digest in mark.indices.items()}
    write_json(state.reset, {**shown, "files": list(map(str, mark.files))})


def passed(state: State, phase: Phase) -> None:
    if (mark := read(state)) is not None:
        write(state, replace(mark, phase=phase))


# --- what others do of it ---


def owner(conf: Config) -> str:
    """Whom a device is provisioned for: the id scope, and the servers that it gets certificates
    from. SHA-256, hex."""
    est = conf.ldevid.est.url if conf.ldevid and conf.ldevid.est else None
    operational = conf.operational.url if conf.operational else None
    whom = [conf.dps.endpoint, conf.dps.id_scope, est, operational]
    return sha256(json.dumps(whom).encode()).hexdigest()


def _read(state: State) -> Mark | None:
    """One that is damaged does not set a device free: a reset writes another."""
    if (mark := read(state)) is None and store.exists(state.reset):
        raise ResetUnderWay(f"cannot go on: this device was reset, and '{state.reset}' is damaged")
    return mark


def refuse(state: State) -> None:
    """What needs the identity of a device is not for one that has none any more. Raises
    ResetUnderWay, ResetWaits."""
    if (mark := _read(state)) is not None:
        _begun(mark)
        raise ResetWaits("cannot go on: this device was reset, and not provisioned since")


def admit(conf: Config, state: State, *, again: bool) -> None:
    """Before a device is provisioned: not before a reset has come to its end, nor for the owner who
    has let it go, unless somebody wants it `again`. Raises ResetUnderWay, ResetWaits."""
    if (mark := _read(state)) is None:
        return
    _begun(mark)
    if mark.owner == owner(conf) and not again:
        why = "it was reset, and its configuration is that of the owner it had"
        raise ResetWaits(f"cannot provision this device by itself: {why}")


def lift(state: State) -> None:
    """The device begins another life."""
    if store.exists(state.reset):
        log.info("this device was reset, and is provisioned anew")
        store.remove(state.reset)


def _begun(mark: Mark) -> None:
    if mark.phase != "done":
        raise ResetUnderWay("cannot go on: a reset of this device was begun, and is not finished")
