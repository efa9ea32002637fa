"""That what is on this disk was made with the TPM that is here now.

A disk is moved to another board, or the TPM is cleared: then no key of the old identity can be used
any more, ours or IoT Edge's, and nothing that is told about it can be right. The setting
`device.moved` says what to do: start over, as on a first boot, or stop.

The proof is the SRK, which all our keys are wrapped by. It is made from a seed of the TPM's that no
other TPM has and that only a clear changes; its digest is kept on disk from before the first key
was made. A TPM that is not there, is locked or fails is an error of an earlier step, and no proof.
"""

import logging
from hashlib import sha256

from agent import journal
from agent.config import Config
from agent.errors import TpmChanged, TpmOfAnotherTcti
from agent.events import STARTED_OVER
from agent.state import State, read_json, write_json
from agent.steps import Step, authorization, ek, forgetting, ldevid_key, srk
from agent.tpm import Public, Tpm

log = logging.getLogger(__name__)


def same_tpm(tpm: Tpm, conf: Config, state: State) -> Step:
    """After the steps `ek`, `idevid` and `srk`: a board that is not genuine has stopped the run by
    then, and nothing was touched."""

    def done() -> str | None:
        kept, now = _kept(state), tpm.public(srk.HANDLE)
        if kept is None or now is None:
            return None
        if not _same(tpm, kept, now, state):
            _may_start_over(conf, state, kept, _why(tpm, kept))
            return None
        if _was_at(kept, conf) != conf.tpm.tcti:
            return None  # the same, by another way
        return f"that of the last run, with the SRK sha256:{kept['srk'][:16]}"

    def apply() -> None:
        kept, now = _kept(state), tpm.public(srk.HANDLE)
        if now is None:
            raise RuntimeError("the SRK is made before it is remembered")
        if kept is not None and not _same(tpm, kept, now, state):
            _start_over(conf, state, _why(tpm, kept))
        found = ek.public(tpm)
        made_with = {
            "ek": _digest(found) if found else None,
            "srk": _digest(now),
            "tcti": conf.tpm.tcti,
        }
        write_json(state.tpm, made_with, mode=0o644)

    return Step("same-tpm", done, apply)


def made_elsewhere(tpm: Tpm, state: State) -> bool:
    """What is on this disk was made with another TPM, or with this one before it was cleared. It
    may have no SRK yet: then its EK tells."""
    if (kept := _kept(state)) is None:
        return False
    if (now := tpm.public(srk.HANDLE)) is not None:
        return not _same(tpm, kept, now, state)
    found = ek.public(tpm)
    return found is None or kept.get("ek") != _digest(found)


def _kept(state: State) -> dict[str, str] | None:
    """None on a first boot; also of a damaged file: then the next steps find out."""
    found = read_json(state.tpm)
    return found if found and isinstance(found.get("srk"), str) else None


def _digest(public: Public) -> str:
    return sha256(public.blob).hexdigest()


def _same(tpm: Tpm, kept: dict[str, str], now: Public, state: State) -> bool:
    """An SRK that somebody exchanged does not make it another TPM, as long as our key is there."""
    if kept["srk"] == _digest(now):
        return True
    ours, there = ldevid_key.read(state.ldevid_key), tpm.public(ldevid_key.HANDLE)
    return ours is not None and there is not None and ours.public == there.blob


def _was_at(kept: dict[str, str], conf: Config) -> str:
    """The TCTI of the last run."""
    return kept.get("tcti", conf.tpm.tcti)


def _may_start_over(conf: Config, state: State, kept: dict[str, str], why: str) -> None:
    """Not because somebody tries another TPM of the same device. Raises TpmChanged."""
    what, was = f"cannot use what is in '{state.directory}'", _was_at(kept, conf)
    if was != conf.tpm.tcti:
        why = f"it was made with the TPM at '{was}', and tpm.tcti is '{conf.tpm.tcti}'"
        raise TpmOfAnotherTcti(f"{what}: {why}", was=was, path=state.tpm)
    if conf.device.moved == "stop":
        raise TpmChanged(f"{what}: {why}")


def _why(tpm: Tpm, kept: dict[str, str]) -> str:
    found = ek.public(tpm)
    if found is not None and kept.get("ek") == _digest(found):
        return "it was made with this TPM before that was cleared"
    return "it was made with another TPM"


# --- starting over ---


def _start_over(conf: Config, state: State, why: str) -> None:
    """As if nothing had ever been here but the configuration. Each part may be gone already: the
    digest of the new SRK is written when all is done, so a run that is cut off does it again.

    Removed, not kept: without the old TPM nobody can use it, and what secrets are in it (PINs, keys
    that IoT Edge keeps in files) would lie about for nothing.
    """
    about = journal.about(STARTED_OVER, reason=why)
    what = "what is on this disk is of no use any more"
    log.warning("starting over: %s, %s", what, why, extra=about)
    if conf.for_edge:
        forgetting.stop_iotedge(conf)
        forgetting.leftovers(conf)
    forgetting.token(conf, state)
    forgetting.files(state)
    authorization.forget(state)
