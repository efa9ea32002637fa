"""A new key for the LDevID, in the slot that is not in use.

Everything the old key needs stays, until the new one is at work: its file, its certificate, its
place in the token. In between, one file says which of the two slots is in use; it changes when the
new key has a certificate that proved itself, and is in the token. What comes after (IoT Edge's
configuration, the handle in the TPM) follows from that file, whoever comes first, this companion
or the next boot. A run that was cut off is gone on with from wherever that was.
"""

import logging
from contextlib import AbstractContextManager

from agent import pkcs11, store, x509
from agent.state import State, write_json
from agent.steps import ldevid_key, ldevid_renewal, srk
from agent.steps.ldevid import Ldevid
from agent.steps.token import Token, token
from agent.tpm import Transient
from agent.tpm.keyfile import Wrapped, to_pem

log = logging.getLogger(__name__)


def rekey(ours: Ldevid) -> str:
    """A certificate for a new key. How it was proven, in words. Raises what renewing does. The
    other slot must not be `left_over`."""
    slot = ours.state.other
    wrapped, used = ldevid_key.read(slot.ldevid_key), ldevid_key.read(ours.state.ldevid_key)
    if wrapped is None or (used is not None and used.public == wrapped.public):
        wrapped = ldevid_key.make(ours.tpm, ours.whole.tpm.key)
        store.write(slot.ldevid_key, to_pem(wrapped))
    with _loaded(ours, wrapped) as key:
        how = ldevid_renewal.renewed(ours, slot, key)
    _exchange(ours, slot)
    return how


def resume(ours: Ldevid) -> str | None:
    """What a run that was cut off had got for a new key; None if that is nothing of use."""
    slot, how = ours.state.other, None
    if (wrapped := ldevid_key.read(slot.ldevid_key)) is None:
        return None
    if store.exists(slot.ldevid_next):
        with _loaded(ours, wrapped) as key:
            how = ldevid_renewal.accept(ours, slot, key)
    if not ldevid_renewal.better(ours, x509.kept(store.read(slot.ldevid_cert)), wrapped.look()):
        return None
    _exchange(ours, slot)
    _tidy_double(ours, wrapped)
    return how or "proven by a run that was cut off"


def resume_at_boot(ours: Ldevid) -> bool:
    """As `resume`, and the handle follows at once: the step before this one has looked at the slot
    that was thought to be in use."""
    if resume(ours) is None:
        return False
    step = ldevid_key.ldevid_key(
        ours.tpm, ours.state, ours.whole.tpm.key, lambda _: None, lambda: None
    )
    if step.done() is None:
        step.apply()
    return True


def _loaded(ours: Ldevid, key: Wrapped) -> AbstractContextManager[Transient]:
    return ours.tpm.load(key.parent, key.public, key.private)


def _exchange(ours: Ldevid, slot: State) -> None:
    step = token(ours.tpm, Token(ours.whole, ours.state), slot)
    if step.done() is None:
        step.apply()
    write_json(ours.state.ldevid_slot, {"slot": slot.slot}, mode=0o644)


# --- the slot that is not in use any more ---


def left_over(state: State) -> bool:
    """There is more than a key in the other slot: that alone waits for its certificate."""
    other = state.other
    return any(map(store.exists, (other.ldevid_cert, other.ldevid_next)))


def tidy(ours: Ldevid) -> None:
    """The other slot is emptied: its key is taken out of the token, then its files go. The key
    before the certificate: a key that lies there alone is a new one."""
    old, conf = ours.state.other, ours.whole.pkcs11
    pkcs11.drop(conf.store, conf.token, old.slot, below=ours.tpm.serialized(srk.HANDLE))
    for path in (old.ldevid_key, old.ldevid_next, old.ldevid_cert):
        if store.exists(path):
            store.remove(path)


def _tidy_double(ours: Ldevid, used: Wrapped) -> None:
    """Where the file that says which slot is in use was lost, the key in use was thought to be the
    other slot's."""
    other = ldevid_key.read(ours.state.other.ldevid_key)
    if other is not None and other.public == used.public and not left_over(ours.state):
        tidy(ours)


def give_up(ours: Ldevid) -> None:
    """A new key that waits for its certificate is not wanted any more."""
    if store.exists(ours.state.other.ldevid_key) and not left_over(ours.state):
        tidy(ours)
