"""A certificate that is to take the place of the LDevID, and does so once it has proven itself.

It is on disk first, beside the one in use (`ldevid_next`). Then it logs in to the EST server, in a
connection of its own. Only if that accepts it, it takes its place, in one step: at any moment there
is a certificate in place that works, and a run that is cut off leaves one that the next run proves
and uses, or removes, instead of asking for yet another.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

from cryptography.x509 import Certificate

from agent import store, x509, x509_issued
from agent.errors import Refused, RenewedRefused
from agent.state import State
from agent.steps import dps, enrol, ldevid_enrol, ldevid_key
from agent.steps.ldevid import Ldevid, Login, server
from agent.tpm import Public, Transient

Key = int | Transient
LATE = 8  # the last part of a lifetime, in which nothing is waited for any more


def renew(ours: Ldevid) -> str:
    """For the same key. How it was proven, in words. Raises what enrolling does, and
    RenewalBringsNothing, RenewedRefused."""
    return renewed(ours, ours.state, ldevid_key.HANDLE)


def renewed(ours: Ldevid, slot: State, key: Key) -> str:
    """Into this slot, for this key."""
    chain = ldevid_enrol.by_itself(ours, key)
    x509_issued.check_names(chain[0], ours.chain()[0])
    return proven(ours, slot, key, chain)


def proven(
    ours: Ldevid, slot: State, key: Key, chain: Sequence[Certificate], *, anyway: bool = False
) -> str:
    """One that was issued just now, and how it has proven itself. `anyway`: it may be refused where
    the one in use is refused, too."""
    x509_issued.check_longer(chain[0], ours.chain()[0])
    store.write(slot.ldevid_next, x509.pem(chain), mode=0o644)
    return accept(ours, slot, key, anyway=anyway) or ""


def accept(ours: Ldevid, slot: State, key: Key, *, anyway: bool = False) -> str | None:
    """Let what waits in the slot prove itself, and put it in its place; None if nothing waits there
    that is better than what is in use. Raises RenewedRefused, and what keeps it from being proven
    or registered now: then it goes on waiting."""
    chain = x509.kept(store.read(slot.ldevid_next))
    if not better(ours, chain, _public(ours, key)):
        if store.exists(slot.ldevid_next):
            store.remove(slot.ldevid_next)
        return None
    how = WORKS_NO_MORE
    if ours.works():
        _registrable(ours)
        how = _proof(ours, slot, key, chain, anyway=anyway)
        _vouched(ours, slot, key)
    put(ours, slot, chain)
    return how


def put(ours: Ldevid, slot: State, chain: Sequence[Certificate]) -> None:
    """In its place, and in use if it is that slot."""
    store.write(slot.ldevid_cert, x509.pem(chain), mode=0o644)
    for path in (slot.ldevid_next, ours.state.pending):
        if store.exists(path):
            store.remove(path)


def better(ours: Ldevid, chain: Sequence[Certificate], key: Public | None) -> bool:
    """It is good for this key, and lasts longer than what is in use, should that still work."""
    if not ours.good(chain, key):
        return False
    return not ours.works() or chain[0].not_valid_after_utc > ours.chain()[0].not_valid_after_utc


def _public(ours: Ldevid, key: Key) -> Public | None:
    return key.public if isinstance(key, Transient) else ours.tpm.public(key)


def _registrable(ours: Ldevid) -> None:
    """With issued_by = "static" another certificate means another registration, for which IoT Edge
    forgets first who it is: not while DPS is away, as long as there is time. Raises what keeps it
    from being asked."""
    own, leaf, now = ours.whole.operational, ours.chain()[0], datetime.now(UTC)
    start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    static = own is not None and own.issued_by == "static" and ours.whole.for_edge
    if static and end - now > (end - start) / LATE:
        dps.there(ours.whole, ours.state, ours.who())


def _vouched(ours: Ldevid, slot: State, key: Key) -> None:
    """Without IoT Edge DPS and the hub are asked with it while the one in use still works. Raises
    what they refuse it for, or what keeps them from being asked: then it goes on waiting."""
    if ours.whole.for_edge or ours.whole.dps.attestation != "x509":
        return
    from agent.steps.assignment import vouch  # with IoT Edge, nothing of it is needed
    from agent.steps.login import Own

    vouch(ours.whole, ours.tpm, ours.state, ours.who, Own(slot.ldevid_next, key))


# --- the proof ---

NO_SERVER = "there is no server that could be asked"
WORKS_NO_MORE = "not asked: the one before does not work any more"


def _proof(
    ours: Ldevid, slot: State, key: Key, chain: Sequence[Certificate], *, anyway: bool
) -> str:
    """A server may refuse for a reason that has nothing to do with the certificate. So if the one
    in use is refused, too, that is no proof of anything."""
    if ours.conf.est is None:
        return NO_SERVER
    host = urlsplit(ours.url).netloc
    try:
        asked = _logs_in(ours, key, chain)
    except Refused as e:
        if _refused_as_well(ours):
            if anyway:
                return f"{host} refuses it, as it refuses the one before"
            raise
        store.remove(slot.ldevid_next)
        raise RenewedRefused(f"cannot use the renewed certificate: {e}", host=host) from e
    return f"{host} accepts it" if asked else f"{host} asks for no certificate, so it is not proven"


def _refused_as_well(ours: Ldevid) -> bool:
    try:
        _logs_in(ours, ldevid_key.HANDLE, ours.chain())
    except Refused:
        return True
    return False


def _logs_in(ours: Ldevid, key: Key, chain: Sequence[Certificate]) -> bool:
    """A TLS connection of its own, and the one request that needs no more. False: the server did
    not ask for a certificate."""
    witness = enrol.Witness(ours.tpm.signer(key, known=True))
    with enrol.by_key(witness, chain) as client:
        login = Login(ldevid_enrol.credential(ours.conf.est), client)
        enrol.by_est(server(ours, login), lambda est: [])
    return witness.signed
