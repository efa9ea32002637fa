"""That this device is being reset, or was: a file, from before the first thing goes until it is
provisioned again.

All is decided, and written there, before anything is removed: what is ours in the TPM, by name, and
what has to be revoked. So a run that goes on where one was cut off decides nothing anew, of what is
not there any more.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from agent import store
from agent.config import Config
from agent.errors import ResetUnderWay, ResetWaits
from agent.state import State, read_json, write_json
from agent.steps import Step

# "removing": all but the configuration, which is needed for it; "configuration": only that is left;
# "tpm": what is in a TPM that did not answer is left.
Phase = Literal["removing", "configuration", "tpm", "done"]
PHASES = ("removing", "configuration", "tpm", "done")


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
    """`owners`: digests of whom the device was provisioned for; `again`: of the one of them that
    somebody wants to have it again. `keys`: persistent handles to be given up, with the names (hex)
    of what is there; `indices`: of the NV, with the SHA-256 of what they hold; `hub_keys`: names of
    keys for a hub ("": any), with the handles that they may be at. `files`: of the configuration.
    `hand_over`: see handover.py. `tcti`: where the TPM is. `without_tpm`: that is not asked.
    `elsewhere`: what is here was made with another one. `configured`: a configuration says where to
    find things; else, an earlier reset has removed it, after them."""

    phase: Phase
    wishes: Wishes
    owners: tuple[str, ...]
    hand_over: dict[str, Any]
    tcti: str
    keys: Mapping[int, str] = field(default_factory=dict)
    indices: Mapping[int, str] = field(default_factory=dict)
    hub_keys: Mapping[str, int] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    again: str | None = None
    without_tpm: bool = False
    elsewhere: bool = False
    configured: bool = True


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
        owners=tuple(found["owners"]),
        hand_over=found["hand_over"],
        tcti=found["tcti"],
        keys=_numbered(found["keys"]),
        indices=_numbered(found["indices"]),
        hub_keys=dict(found["hub_keys"]),
        files=tuple(map(Path, found["files"])),
        again=found["again"],
        without_tpm=found["without_tpm"],
        elsewhere=found["elsewhere"],
        configured=found["configured"],
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


def owner(endpoint: str, id_scope: str) -> str:
    """Whom a device is provisioned for: the instance of DPS, and nothing that one owner may change
    for herself, such as where she has certificates from. SHA-256, hex."""
    whom = [endpoint.strip().rstrip("/").lower(), id_scope.strip().lower()]
    return sha256(json.dumps(whom).encode()).hexdigest()


def _configured(conf: Config) -> str:
    return owner(conf.dps.endpoint, conf.dps.id_scope)


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


def admit(conf: Config, state: State, *, again: bool = False) -> None:
    """Before a device is provisioned, or used: not before a reset has come to its end, nor for an
    owner who has let it go, unless somebody wants it `again`. That is remembered by `wanted`, for
    the next boot. Raises ResetUnderWay, ResetWaits."""
    if (mark := _read(state)) is None:
        return
    _begun(mark)
    whose = _configured(conf)
    if whose in mark.owners and whose != mark.again and not again:
        why = "it was reset, and its configuration is that of the owner it had"
        raise ResetWaits(f"cannot provision this device by itself: {why}")


def wanted(conf: Config, state: State) -> None:
    """Somebody wants the earlier owner to have it again. What is to be revoked stays known until
    the device is provisioned."""
    whose, mark = _configured(conf), _read(state)
    if mark is not None and whose in mark.owners and whose != mark.again:
        write(state, replace(mark, again=whose))


def lifting(state: State) -> list[Step]:
    """The last step of a provisioning, if the device was reset: until then one that is cut off goes
    on by itself, for its new owner, and for no earlier one."""
    if not store.exists(state.reset):
        return []

    def done() -> str | None:
        return None if store.exists(state.reset) else "it has its owner"

    return [Step("reset", done, lambda: store.remove(state.reset))]


def _begun(mark: Mark) -> None:
    what = "cannot go on: a reset of this device was begun"
    if mark.phase == "tpm":
        raise ResetUnderWay(f"{what}, and its TPM did not answer")
    if mark.phase != "done":
        raise ResetUnderWay(f"{what}, and is not finished")
