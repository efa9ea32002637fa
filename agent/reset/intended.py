"""What a reset is to do: decided before anything goes, and what was begun is not decided anew."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from agent.config import Config
from agent.reset import decided, handover, left
from agent.reset.mark import Mark, Wishes
from agent.state import State
from agent.steps import preflight, same_tpm
from agent.tpm import Tpm

UNKNOWN = "ID"  # a registration id that only the TPM could tell


@dataclass(frozen=True)
class Device:
    """`tpm`: None, if that is not to be asked. `file`: of the configuration; `configured`: it is
    there, else `conf` says how things are by default."""

    conf: Config
    tpm: Tpm | None
    state: State
    file: Path
    configured: bool


def settled(before: Mark | None, device: Device) -> bool:
    """As far as it can be, a reset has come to its end."""
    if before is None or before.again:
        return False
    return before.phase == "done" or (before.phase == "tpm" and device.tpm is None)


def intended(device: Device, wanted: Wishes, before: Mark | None) -> Mark:
    """What was begun is finished as it was decided; what is wanted besides is added."""
    without = device.tpm is None
    if before and before.phase != "done":
        wanted |= _left(before)
        if wanted == before.wishes and without == before.without_tpm:
            return replace(before, phase="removing")
    now = _decided(device, wanted)
    if before is None:
        return now
    both = replace(
        now,
        owners=_owners(before, now),
        hand_over=handover.merged(before.hand_over, now.hand_over),
        hub_keys={**before.hub_keys, **now.hub_keys},
        elsewhere=now.elsewhere,
    )
    if before.phase == "done":
        return both
    return replace(
        both,
        keys={**before.keys, **_known(device, before), **now.keys},
        indices={**before.indices, **now.indices},
    )


def _left(before: Mark) -> Wishes:
    """Of what was wanted then. Who has the device now may have put another configuration there."""
    return replace(before.wishes, configuration=False) if before.phase == "tpm" else before.wishes


def _owners(before: Mark, now: Mark) -> tuple[str, ...]:
    """Nobody had it in between, if that reset has not come to its end: what is configured by now is
    the next owner's."""
    more = now.owners if before.phase == "done" else ()
    return tuple(dict.fromkeys([*before.owners, *more]))


def _known(device: Device, before: Mark) -> dict[int, str]:
    """In a TPM that answers again: of what has told so, nothing is left on the disk."""
    return decided.known(device.tpm, before.hub_keys) if device.tpm else {}


def _decided(device: Device, wanted: Wishes) -> Mark:
    conf, tpm, state = device.conf, device.tpm, device.state
    idevid = decided.certificate(conf, tpm) if tpm and wanted.burn_idevid else None
    who = partial(preflight.who, conf, tpm) if tpm else lambda: UNKNOWN
    files = left.configuration(device.file, conf) if wanted.configuration else []
    return Mark(
        phase="removing",
        wishes=wanted,
        owners=decided.owners(conf, state) if device.configured else (),
        hand_over=handover.gather(conf, state, who, idevid),
        tcti=conf.tpm.tcti,
        keys=decided.keys(conf, tpm, state, wanted) if tpm else {},
        indices=decided.indices(conf, tpm, wanted) if tpm else {},
        hub_keys=decided.hub_keys(conf, state),
        files=tuple(files),
        without_tpm=tpm is None,
        configured=device.configured,
        elsewhere=tpm is not None and same_tpm.made_elsewhere(tpm, state),
    )
