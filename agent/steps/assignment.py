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
from typing import TYPE_CHECKING

from agent import inputs, journal, store, turn, x509
from agent.config import Config
from agent.ek import DPS_EK
from agent.errors import (
    AgentError,
    DpsNoKey,
    HandleOccupied,
    HubRefused,
    KeyOfAnotherTpm,
    Later,
)
from agent.events import HUB_KEY_REPLACED
from agent.state import State
from agent.steps import Step, assigned, enrol, ldevid_key, srk
from agent.steps.assigned import Asked, Assignment, Kept, Key
from agent.steps.completing import complete
from agent.steps.login import log_in, log_in_first, route
from agent.steps.shown import shown
from agent.steps.turns import Asking, in_turn
from agent.tpm import Public, Tpm
from agent.tpm.imported import HUB_KEY, is_hub_key

if TYPE_CHECKING:
    from agent.dps import Assigned, Dps
    from agent.http import Https

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


@dataclass(frozen=True)
class Registration:
    conf: Config
    tpm: Tpm
    state: State
    who: Who
    rest: Callable[[float], object] = time.sleep
    near: float = turn.NEAR
    person: bool = False

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
            kept = Kept(now.proven, self._assigned(now.proven, wanted), now.anew)
            assigned.keep(self.state, kept)
            try:
                return self._prove(kept, first=True)
            except HubRefused:
                raise
            except AgentError as e:
                unproven = e
        raise unproven

    # --- what DPS is asked with ---

    def see_that_it_is_shown(self) -> None:
        """Any of the keys may be lost: whoever comes here has last looked when it began."""
        if self._by_tpm:
            complete(shown(self.conf, self.tpm, self.state))

    @property
    def _by_tpm(self) -> bool:
        return self.conf.dps.attestation == "tpm"

    def _wanted(self) -> Asked:
        return assigned.asked(self.conf, self.who(), self._shown())

    def _shown(self) -> str | None:
        if not self._by_tpm:
            return assigned.certificate(self.state)
        found = self.tpm.public(DPS_EK.handle)
        return found.name.hex() if found else None

    # --- DPS ---

    def _assigned(self, before: Assignment | None, wanted: Asked) -> Assignment:
        found = self._asked_by_ek() if self._by_tpm else self._asked_by_certificate()
        key = self._key(found, before) if self._by_tpm else None
        return Assignment(found.hub, found.device_id, wanted, key)

    def _asked_by_ek(self) -> "Assigned":
        from agent.http import Https

        def sign(challenge: bytes, data: bytes) -> bytes:
            """Nothing of it stays in the TPM, nor on disk."""
            return assigned.sign(self.tpm, self._imported(challenge), data)

        ek, parent = (_there(self.tpm, handle) for handle in (DPS_EK.handle, srk.HANDLE))
        with Https(self.conf.dps.trust, proxy=inputs.proxy(self.conf)) as https:
            return self._dps(https).by_tpm(ek.blob, parent.blob, sign)

    def _asked_by_certificate(self) -> "Assigned":
        from agent.http import Https

        chain = x509.kept(store.read(self.state.ldevid_cert))
        signer = self.tpm.signer(ldevid_key.HANDLE, known=True)  # its blobs are here
        proxy = inputs.proxy(self.conf)
        with (
            enrol.by_key(signer, chain) as client,
            Https(self.conf.dps.trust, proxy=proxy, **client) as https,
        ):
            return self._dps(https).by_certificate()

    def _dps(self, https: "Https") -> "Dps":
        from agent.dps import Dps

        conf = self.conf.dps
        return Dps(
            https,
            conf.endpoint,
            conf.id_scope,
            self.who(),
            api_version=conf.api_version,
            payload=inputs.payload(self.conf),
            rest=self.rest,
        )

    def _imported(self, challenge: bytes) -> Key:
        return Key(*self.tpm.imported(challenge, DPS_EK.handle, srk.HANDLE))

    def _key(self, found: "Assigned", before: Assignment | None) -> Key:
        """The hub key; DPS need not send the one again that we have proven."""
        if found.key is not None:
            return self._imported(found.key)
        here = (found.hub, found.device_id)
        if before is None or before.key is None or (before.hub, before.device_id) != here:
            raise DpsNoKey(
                f"cannot use what DPS assigned: it sent no key for '{found.device_id}' at the hub "
                f"'{found.hub}', and none is known here",
                host=found.hub,
                registration_id=self.who(),
            )
        return before.key

    # --- the hub ---

    def _prove(self, kept: Kept, *, first: bool = False) -> Assignment:
        """Let the candidate prove itself, and put it in its place. One that the hub refuses is
        given up; one that cannot be proven now goes on waiting. `first`: it was assigned right now.
        """
        candidate = kept.candidate
        if candidate is None:
            raise RuntimeError("there is one that waits")
        try:
            enter = partial(log_in, self.conf, self.tpm, self.state, candidate)
            log_in_first(enter, self.rest) if first else enter()
        except HubRefused:
            assigned.keep(self.state, Kept(kept.proven, anew=kept.anew))
            raise
        if candidate.key and not self._in_place(candidate.key):
            self._tell(kept.proven, candidate)
            self._place(candidate.key)
        assigned.keep(self.state, Kept(candidate))
        return candidate

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


def _there(tpm: Tpm, handle: int) -> Public:
    found = tpm.public(handle)
    if found is None:
        raise Later(f"cannot register: the key at {handle:#x} is lost, just now")
    return found


def _is_left_to_us(tpm: Tpm) -> None:
    """Raises HandleOccupied. Any key of the kind that DPS issues may have to go: that of another
    hub, or of IoT Edge in an earlier life of this device."""
    found = tpm.public(HUB_KEY)
    if found is not None and not is_hub_key(found):
        raise HandleOccupied(
            f"cannot keep the hub key at {HUB_KEY:#x}: it holds {found} that is no hub key",
            handle=hex(HUB_KEY),
        )


def _waits(kept: Kept, wanted: Asked) -> bool:
    return kept.candidate is not None and kept.candidate.asked == wanted
