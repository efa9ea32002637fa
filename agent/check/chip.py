"""What a provisioning needs of the TPM, before its steps are looked at: nothing is made in it, and
no wrong password is counted."""

import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, partial

from agent.check.probe import Probe
from agent.config import Config
from agent.ek import DPS_EK
from agent.errors import SrkPassword, TpmAuth, TpmDisabled, TpmError, TpmFull, TpmLockout
from agent.steps import ek, ldevid_key, srk
from agent.tpm import HUB_KEY, Budget, Tpm

NEEDED = ("owner", "endorsement")
PATIENCE = 2.0  # seconds: what others have loaded is out again soon


def probes(conf: Config, tpm: Tpm) -> Iterator[Probe]:
    budget = cache(tpm.budget)
    missing = cache(partial(_missing, conf, tpm))
    yield Probe("tpm", lambda: f"{tpm} at {tpm.tcti}")
    yield Probe("tpm-hierarchies", lambda: _hierarchies(budget()), ("tpm",))
    after: tuple[str, ...] = ("tpm", "tpm-hierarchies")
    yield Probe("tpm-room", lambda: _room(tpm, len(missing())), after)
    yield Probe("tpm-lockout", lambda: _lockout(budget(), conf), after)
    after = (*after, "tpm-room")
    yield Probe("tpm-passwords", lambda: _passwords(tpm, missing()), (*after, "credentials"))
    yield Probe("tpm-srk", lambda: _srk(tpm, missing()), after)


def _missing(conf: Config, tpm: Tpm) -> frozenset[int]:
    """The handles where a provisioning has a key to keep yet. Without an EK certificate the step
    `ek` ends it before."""
    handles = {srk.HANDLE}
    if conf.dps.attestation == "x509":
        handles.add(ldevid_key.HANDLE)
    else:
        handles.add(DPS_EK.handle)
        if not conf.for_edge:
            handles.add(HUB_KEY)
    found = {handle for handle in handles if tpm.public(handle) is None}
    with suppress(TpmError):
        if ek.public(tpm) is None:
            found.add(DPS_EK.handle)
    return frozenset(found)


def _hierarchies(budget: Budget) -> str:
    for name in NEEDED:
        if name in budget.disabled:
            raise TpmDisabled(f"cannot use the TPM: its {name} hierarchy is switched off")
    return f"{' and '.join(NEEDED)} are switched on"


def _lockout(budget: Budget, conf: Config) -> str:
    """Our own keys are not subject to it; those that IoT Edge makes in its token are."""
    told = f"{budget.lockout_counter} of {budget.lockout_max} wrong passwords"
    if budget.in_lockout and conf.for_edge and conf.dps.attestation == "x509":
        every = f"forgives one wrong password in {budget.lockout_interval} s"
        raise TpmLockout(f"cannot use IoT Edge's keys: the TPM is in lockout, and {every}")
    return f"{told}, in lockout" if budget.in_lockout else told


def _room(tpm: Tpm, keys: int) -> str:
    """For as many keys more, and for what is loaded while they are made."""
    if keys == 0:
        return "all keys are in their places"
    until = time.monotonic() + PATIENCE
    while why := _too_little(budget := tpm.budget(), keys):
        if time.monotonic() > until:
            raise TpmFull(f"cannot make {keys} more keys in the TPM: {why}")
        time.sleep(0.2)
    return f"for {budget.persistent_available} more keys; {keys} are to be made"


def _too_little(budget: Budget, keys: int) -> str | None:
    if budget.persistent_available < keys:
        return f"{budget.persistent_available} more can be kept"
    if not budget.transient_available:
        return f"all {budget.transient_used} slots for loaded keys are taken"
    if not budget.sessions_available:
        return f"all {budget.sessions_used} slots for sessions are taken"
    return None


def _passwords(tpm: Tpm, missing: frozenset[int]) -> str:
    """Where keys are all in their places, none is needed; for a hierarchy a wrong one is never
    counted."""
    if tpm.withheld:
        raise next(iter(tpm.withheld.values()))
    needed = [name for name in NEEDED if _needs(name, missing)]
    for name in needed:
        if not tpm.opened_by(name, tpm.auths.get(name, b"")):
            what = f"cannot use the {name} hierarchy of the TPM"
            raise TpmAuth(f"{what}: its password is missing, or another one")
    return f"as they should be: {', '.join(needed)}" if needed else "none is needed now"


def _needs(hierarchy: str, missing: frozenset[int]) -> bool:
    if hierarchy == "owner":
        return bool(missing)
    return DPS_EK.handle in missing or HUB_KEY in missing


def _srk(tpm: Tpm, missing: frozenset[int]) -> str:
    """Below one that is there already something can be made without a password; nothing of it
    stays. Where a wrong one would be counted it is not tried."""
    public = tpm.public(srk.HANDLE)
    if public is None or not public.stores or not missing:
        return "not needed now"
    if public.counts_attacks:
        return "not tried: a wrong password would be counted"
    try:
        tpm.seal(srk.HANDLE, b"", b"tpm2cloud")
    except TpmAuth as e:
        what = f"cannot use the SRK at {srk.HANDLE:#x}: it has a password: {e}"
        raise SrkPassword(what, handle=hex(srk.HANDLE)) from e
    return f"{srk.HANDLE:#x} is of use"
