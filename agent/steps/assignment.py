"""Without IoT Edge: this device is registered with DPS, and its hub lets it in.

What only the network knows is kept with what it depends on (agent/steps/assigned.py), so a boot of
a registered device asks nobody. What DPS assigns is on disk before it is used, then it proves
itself by a login at the hub, and only then it takes the place of the assignment before. So a run
that is cut off, or a hub that is away, costs no second question at DPS; and whatever goes wrong,
the hub key and the assignment before stay as they were.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from agent import inputs, journal, turn
from agent.clock import Times
from agent.config import Config
from agent.ek import DPS_EK
from agent.errors import (
    AgentError,
    HandleOccupied,
    HubRefused,
    KeyOfAnotherTpm,
)
from agent.events import HUB_KEY_REPLACED
from agent.state import State
from agent.steps import Step, assigned, srk
from agent.steps.assigned import Asked, Assignment, Kept, Key
from agent.steps.at_dps import AtDps
from agent.steps.completing import complete
from agent.steps.login import Own, in_use, log_in, log_in_first, route
from agent.steps.shown import shown
from agent.steps.turns import Asking, in_turn
from agent.tpm import Tpm
from agent.tpm.imported import HUB_KEY, is_hub_key

__all__ = ["Registration", "assignment", "register_again", "route"]
log = logging.getLogger(__name__)
Who = Callable[[], str]


def assignment(conf: Config, tpm: Tpm, state: State, who: Who, *, anew: bool = False) -> Step:
    """`anew`: a person wants DPS to be asked, even if it has been with just this; where that fails,
    the next run goes on with it (assigned.wish)."""
    ours, left = Registration(conf, tpm, state, who, person=anew), [anew]

    def done() -> str | None:
        return None if left[0] else ours.done()

    def apply() -> None:
        if left[0]:
            left[0] = False
            ours.register()
        else:
            ours.complete()

    return Step("registration", done, apply)


def register_again(
    conf: Config,
    tpm: Tpm,
    state: State,
    who: Who,
    *,
    rest: Callable[[float], object] = time.sleep,
    near: float = turn.NEAR,
) -> Assignment:
    """For who was refused by the hub (401, 403, 404): its key was changed, or the device was moved
    to another hub, disabled or deleted. The caller holds the lock of the state directory.

    Raises DpsWaits while it is too early to ask, what DPS and the hub answer, and what is wrong
    with the TPM; what is kept is as before, then, unless this is another TPM. `rest`: how it is
    waited; it may raise. `near`: seconds; a turn that is further off is not waited for here.
    """
    ours = Registration(conf, tpm, state, who, rest, near)
    ours.see_that_it_is_shown()
    return ours.register()


def vouch(conf: Config, tpm: Tpm, state: State, who: Who, own: Own) -> None:
    """Before a renewed LDevID takes its place: DPS takes it, and the hub lets it in. What is
    assigned is kept as a candidate, until the step finds it in its place.

    Raises what `register_again` does; then the one in use stays, and so does what it is registered
    with, as far as it is ours. DPS keeps one certificate for a device: should the hub refuse the
    new one, it is told of the old one again.
    """
    Registration(conf, tpm, state, who, own=own).vouch()


@dataclass(frozen=True)
class Registration:
    """`own`: the LDevID, if not the one in use."""

    conf: Config
    tpm: Tpm
    state: State
    who: Who
    rest: Callable[[float], object] = time.sleep
    near: float = turn.NEAR
    person: bool = False
    own: Own | None = None

    def done(self) -> str | None:
        kept, wanted = assigned.load(self.state), self._wanted()
        now = kept.proven
        if self._by_tpm:
            _is_left_to_us(self.tpm)
        if now is None or now.asked != wanted or kept.anew or _waits(kept, wanted):
            return None
        if now.key and not self._in_place(now.key):
            return None
        at = f", with the key at {HUB_KEY:#x}" if now.key else ""
        return f"device '{now.device_id}' at hub '{now.hub}'{at}"

    def complete(self) -> None:
        """From wherever an earlier run was cut off, or something was lost."""
        if self._shown() is None:
            self.see_that_it_is_shown()
        kept, wanted = assigned.load(self.state), self._wanted()
        if _waits(kept, wanted):
            self._prove(kept)
        elif kept.anew or not self._restored(kept.proven, wanted):
            self.register()

    def register(self) -> Assignment:
        """DPS is asked, in turn. One whom the hub then refuses does not ask again at once; all else
        that may keep the candidate from being proven is no matter of DPS."""
        inputs.alone(self.conf)  # since the run began, or the boot, somebody may have come
        if self._by_tpm:
            _is_left_to_us(self.tpm)
        now, wanted = assigned.load(self.state), self._wanted()
        herd = now.proven is None
        asking = Asking(self.who(), herd, self.person, self.rest, self.near)
        with in_turn(self.conf, self.state, asking):
            kept = Kept(now.proven, self._dps.assigned(now.proven, wanted), now.anew)
            assigned.keep(self.state, kept)
            try:
                return self._prove(kept, first=True)
            except HubRefused:
                raise
            except AgentError as e:
                unproven = e
        raise unproven

    def vouch(self) -> None:
        kept = assigned.load(self.state)
        if kept.proven is None:
            return  # nothing is lost by it
        if not _waits(kept, self._wanted()):
            kept = self._candidate(kept)
        try:
            log_in_first(partial(self._log_in, kept), self.rest)
        except HubRefused:
            assigned.keep(self.state, Kept(kept.proven, anew=True))
            raise

    def _candidate(self, now: Kept) -> Kept:
        asking = Asking(self.who(), herd=False, rest=self.rest, near=self.near)
        with in_turn(self.conf, self.state, asking):
            kept = Kept(now.proven, self._dps.assigned(now.proven, self._wanted()), now.anew)
            assigned.keep(self.state, kept)
        return kept

    # --- what DPS is asked with ---

    def see_that_it_is_shown(self) -> None:
        """Any of the keys may be lost: whoever comes here has last looked when it began."""
        if self._by_tpm:
            complete(shown(self.conf, self.tpm, self.state))

    @property
    def _by_tpm(self) -> bool:
        return self.conf.dps.attestation == "tpm"

    @property
    def _dps(self) -> AtDps:
        times = Times(self.state.clock)
        return AtDps(self.conf, self.tpm, self.who, self._own, self.rest, times)

    @property
    def _own(self) -> Own:
        return self.own or in_use(self.state)

    def _wanted(self) -> Asked:
        return assigned.asked(self.conf, self.who(), self._shown())

    def _shown(self) -> str | None:
        if not self._by_tpm:
            return assigned.certificate(self._own.chain)
        found = self.tpm.public(DPS_EK.handle)
        return found.name.hex() if found else None

    # --- the hub ---

    def _prove(self, kept: Kept, *, first: bool = False) -> Assignment:
        """Let the candidate prove itself, and put it in its place. One that the hub refuses is
        given up; one that cannot be proven now goes on waiting. `first`: it was assigned right now.
        """
        try:
            enter = partial(self._log_in, kept)
            log_in_first(enter, self.rest) if first else enter()
        except HubRefused:
            assigned.keep(self.state, Kept(kept.proven, anew=kept.anew))
            raise
        candidate = _waiting(kept)
        if candidate.key and not self._in_place(candidate.key):
            self._tell(kept.proven, candidate)
            self._place(candidate.key)
        assigned.keep(self.state, Kept(candidate))
        return candidate

    def _log_in(self, kept: Kept) -> None:
        log_in(self.conf, self.tpm, _waiting(kept), self._own)

    def _in_place(self, key: Key) -> bool:
        found = self.tpm.public(HUB_KEY)
        return found is not None and found.blob == key.public

    def _tell(self, before: Assignment | None, new: Assignment) -> None:
        """That a key goes which nobody here knows."""
        there = self.tpm.public(HUB_KEY)
        known = before.key.public if before and before.key else b""
        if there is not None and there.blob != known:
            about = journal.about(HUB_KEY_REPLACED, handle=hex(HUB_KEY), hub=new.hub)
            what = "a hub key that is not of this installation"
            log.warning("%s, at %#x, is replaced", what, HUB_KEY, extra=about)

    def _place(self, key: Key) -> None:
        with self.tpm.load(srk.HANDLE, key.public, key.private) as loaded:
            self.tpm.keep_instead(loaded, HUB_KEY)

    def _restored(self, now: Assignment | None, wanted: Asked) -> bool:
        return now is not None and now.asked == wanted and self._put_back(now)

    def _put_back(self, now: Assignment) -> bool:
        """The key that is not at its handle any more. False: nor can it be had from the disk."""
        if now.key is None:
            return False
        try:
            self._place(now.key)
        except KeyOfAnotherTpm as e:
            log.warning("cannot load the hub key that is kept on this disk: %s; DPS is asked", e)
            return False
        return True


def _is_left_to_us(tpm: Tpm) -> None:
    """Raises HandleOccupied. Any key of the kind that DPS issues may have to go: that of another
    hub, or of IoT Edge in an earlier life of this device."""
    found = tpm.public(HUB_KEY)
    if found is not None and not is_hub_key(found):
        raise HandleOccupied(
            f"cannot keep the hub key at {HUB_KEY:#x}: it holds {found} that is no hub key",
            handle=hex(HUB_KEY),
        )


def _waiting(kept: Kept) -> Assignment:
    if kept.candidate is None:
        raise RuntimeError("there is one that waits")
    return kept.candidate


def _waits(kept: Kept, wanted: Asked) -> bool:
    return kept.candidate is not None and kept.candidate.asked == wanted
