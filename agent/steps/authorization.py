"""That the hierarchies of the TPM have the passwords they are to have.

A random password is kept and escrowed, both for good, before it is set; whether it is, the TPM
itself tells. So whenever a run is cut off, the next one has the password, or none is set. That of
lockout is never tried: one wrong one, and the TPM takes none for a day. It goes from none to the
one that is kept, and, at the end, back.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from agent import credentials, store
from agent.authorization import disks, escrow
from agent.authorization.kept import SRK, Kept, directory
from agent.config import HIERARCHIES, Authorization
from agent.errors import (
    PasswordChanged,
    PasswordNotNeeded,
    SealedToAnotherState,
    SealedToAnotherTpm,
    TpmAuth,
)
from agent.state import State
from agent.steps import Step
from agent.tpm import Tpm

BYTES = 16  # random ones of a password, which is their 32 hex digits: every TPM takes as many
MOST = 64  # bytes of one that is given


def authorization(tpm: Tpm, conf: Authorization, state: State, who: Callable[[], str]) -> Step:
    """After the step `same_tpm`: what is kept is kept by the SRK."""
    passwords = Passwords(tpm, conf, state, who)
    return Step("authorization", passwords.done, passwords.apply)


@dataclass(frozen=True)
class Passwords:
    tpm: Tpm
    conf: Authorization
    state: State
    who: Callable[[], str]

    @property
    def kept(self) -> Kept:
        return Kept(self.tpm, self.state)

    def done(self) -> str | None:
        """Raises TpmAuth, PasswordChanged, PasswordNotNeeded, SealedToAnotherState,
        SealedToAnotherTpm, EscrowUnusable, OwnerHierarchyNeeded."""
        told = {name: self._standing(name) for name in self._names()}
        if None in told.values():
            return None
        kept, key = [name for name in told if self.kept.has(name)], self._recipient()
        if kept and key and not escrow.covers(self.state, self.kept, kept, key):
            return None
        return ", ".join(f"{name}: {what}" for name, what in told.items()) or "none is ours"

    def _names(self) -> list[str]:
        """Those that are to have a password, and those that have got one, in an earlier life of
        the configuration."""
        there = self.tpm.passwords_set()
        return [
            name
            for name in HIERARCHIES
            if name in self.conf.random or (name in there and self.kept.has(name))
        ]

    def _standing(self, name: str) -> str | None:
        """In words; None if there is something to do."""
        if name not in self.tpm.passwords_set():
            if _given(name) is not None:
                why = "there is none, and a credential has one"
                what = f"cannot set the {name} password of the TPM"
                raise PasswordNotNeeded(f"{what}: {why}", name=name)
            disks.admit(name)
            return None
        if not self.kept.has(name):
            return self._of_others(name)
        conf = self.conf
        if name == "lockout" and not conf.random and _given(name) is None:
            return "random, until a reset"  # which alone needs it
        password = self._password(name)
        if not (self._is_as_wanted(name) and self._opens(name, password)):
            return None
        how = f"sealed to {conf.pcrs}" if conf.keep == "sealed" else "a credential of this host"
        return f"random, {how if conf.random else 'until a reset'}"

    def _is_as_wanted(self, name: str) -> bool:
        """Where no password is asked for, nothing is about its keeping either."""
        conf = self.conf
        return not conf.random or self.kept.is_kept(name, conf.keep, conf.pcrs)

    def _of_others(self, name: str) -> str:
        """An administrator's, which stays; of lockout we need none."""
        given = _given(name)
        if name != "lockout" and (given is None or not self.tpm.opened_by(name, given)):
            how = "missing" if given is None else "wrong"
            what = f"cannot use the {name} hierarchy of the TPM"
            raise TpmAuth(f"{what}: it has a password, and the credential with it is {how}")
        return "as its credential says" if given is not None else "another's"

    def _password(self, name: str) -> bytes:
        """The one that is set, which is kept, or was; what is given comes first: it may come out of
        the escrow."""
        given = _given(name)
        password = given if given is not None else self._open(name)
        if not self._is_right(name, password):
            what = f"cannot use the {name} hierarchy of the TPM"
            if given is not None:
                raise TpmAuth(f"{what}: the password in its credential is wrong")
            raise PasswordChanged(f"{what}: it has another password than the one kept", name=name)
        return password

    def _is_right(self, name: str, password: bytes) -> bool:
        if name == "lockout":
            return escrow.is_lockout(self.state, self.kept, password)
        return self.tpm.opened_by(name, password)

    def _open(self, name: str) -> bytes:
        """Opening the TPM has opened most already."""
        if name != "lockout" and (found := self.tpm.auths.get(name)) is not None:
            return found
        if (why := self.tpm.withheld.get(name)) is not None:
            raise why
        return self.kept.open(name)

    def _opens(self, name: str, password: bytes) -> bool:
        """What is kept is still of use, and the same."""
        if _given(name) is None:
            return True  # it was opened just now
        try:
            return self.kept.open(name) == password
        except (SealedToAnotherState, SealedToAnotherTpm):
            return False

    def _recipient(self) -> escrow.Key | None:
        """None where no password is asked for any more: what the owner has by now is enough."""
        return escrow.recipient(self.conf.escrow) if self.conf.escrow else None

    # --- acting ---

    def apply(self) -> None:
        key, there = self._recipient(), self.tpm.passwords_set()
        passwords = {name: self._wanted(name) for name in self._names() if self._is_ours(name)}
        for name, password in passwords.items():
            if not self._well_kept(name, password):
                self._keep(name, password)
        if key and not escrow.covers(self.state, self.kept, list(passwords), key):
            escrow.write(self.state, self.kept, passwords, self.who(), key)
        for name, password in passwords.items():
            if name not in there:
                self.tpm.change_password(name, b"", password, SRK)

    def _keep(self, name: str, password: bytes) -> None:
        """So that it can be had again: seen, before it is set."""
        self.kept.keep(name, password, self.conf.keep, self.conf.pcrs)
        if self.kept.open(name) != password:
            raise RuntimeError(f"what is kept for {name} is not what was to be kept")

    def _is_ours(self, name: str) -> bool:
        return name not in self.tpm.passwords_set() or self.kept.has(name)

    def _wanted(self, name: str) -> bytes:
        """One that is set is known; one that is kept and not set yet is from a run that was cut
        off."""
        if name in self.tpm.passwords_set():
            return self._password(name)
        if self.kept.has(name):
            try:
                return self.kept.open(name)
            except (SealedToAnotherState, SealedToAnotherTpm):  # nobody ever needed it
                pass
        return secrets.token_hex(BYTES).encode()

    def _well_kept(self, name: str, password: bytes) -> bool:
        if not self._is_as_wanted(name):
            return False
        try:
            return self.kept.open(name) == password
        except (SealedToAnotherState, SealedToAnotherTpm):
            return False


def _given(name: str) -> bytes | None:
    return credentials.optional(f"tpm-{name}-auth", MOST)


def released(tpm: Tpm, state: State) -> list[str]:
    """Take every password back that this device has set, as if it never had; which hierarchies. May
    be cut off, and called again: what is kept goes after the password it is of, the escrow last.

    For lockout the TPM takes no second try, so what is kept must be the one. Raises
    SealedToAnotherState, SealedToAnotherTpm, TpmAuth, TpmLockout.
    """
    kept, gone = Kept(tpm, state), []
    for name in HIERARCHIES:
        if not kept.has(name):
            continue
        if name in tpm.passwords_set():
            tpm.change_password(name, _to_be_released(tpm, state, name), b"", SRK)
            gone.append(name)
        kept.forget(name)
    _remove_left(state)
    return gone


def releasable(tpm: Tpm, state: State) -> None:
    """That `released` would come to its end by now; nothing is changed. Raises what that does."""
    kept = Kept(tpm, state)
    for name in HIERARCHIES:
        if kept.has(name) and name in tpm.passwords_set():
            _to_be_released(tpm, state, name)


def _to_be_released(tpm: Tpm, state: State, name: str) -> bytes:
    kept, given = Kept(tpm, state), _given(name)
    password = kept.open(name) if given is None else given
    right = (
        escrow.is_lockout(state, kept, password)
        if name == "lockout"
        else tpm.opened_by(name, password)
    )
    if not right:
        raise TpmAuth(f"cannot take back the {name} password of the TPM: it is another one")
    return password


def left(state: State) -> list[str]:
    """The names of what is kept for this device, whole or in part, its escrow with it; but for the
    escrows of others."""
    place = directory(state)
    with store.permitted(place):
        found = [each.name for each in place.iterdir()] if place.is_dir() else []
    return [name for name in found if not escrow.is_aside(name)]


def forget(state: State) -> None:
    """What is kept is of another TPM. That one may be in use again, and locked without them: so the
    escrow stays, under another name."""
    escrow.lay_aside(state)
    _remove_left(state)


def _remove_left(state: State) -> None:
    if gone := left(state):
        store.empty(directory(state), gone)
