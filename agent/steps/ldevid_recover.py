"""How a device gets back an LDevID that does not work any more: it was in a drawer for too long, or
the disk has lost it.

`ldevid.recover` says by what it may, one after the other. The very first certificate is no matter
of that: it is always got by the login that the configuration names.
"""

from collections.abc import Callable, Sequence

from cryptography.x509 import Certificate

from agent import store
from agent.config import NEVER
from agent.errors import (
    AgentError,
    ConfigError,
    LdevidExpired,
    LdevidNotRenewed,
    Refused,
    TpmError,
)
from agent.state import State
from agent.steps import ldevid_enrol, ldevid_key, ldevid_pauses, ldevid_rekey, ldevid_renewal
from agent.steps.ldevid import Ldevid

RUNGS: dict[str, Callable[[Ldevid], Sequence[Certificate]]] = {
    "login": ldevid_enrol.by_login,
    "ek": ldevid_enrol.by_ek,
}


def obtain(ours: Ldevid) -> None:
    """The first certificate, or one instead of what does not work. Raises what enrolling does,
    LdevidExpired and LdevidWaits."""
    state = ours.state
    if not (store.exists(state.ldevid_cert) or store.exists(state.registration)):
        ldevid_renewal.put(ours, state, ldevid_enrol.by_login(ours))
    elif not ldevid_rekey.resume_at_boot(ours):
        _recover_at_boot(ours)


def _recover_at_boot(ours: Ldevid) -> None:
    if ldevid_renewal.accept(ours, ours.state, ldevid_key.HANDLE):
        return
    _may_be_another(ours)
    with ldevid_pauses.kept(ours):
        recover(ours)


def recover(ours: Ldevid) -> str:
    """How it was got, in words. If the one in use still works, though it is refused where it should
    be renewed, what is got must be better than that. Raises LdevidExpired if no way is allowed, and
    what stopped those that were."""
    state = ours.state
    if how := ldevid_renewal.accept(ours, state, ldevid_key.HANDLE):
        return how
    _may_be_another(ours)
    name, chain = _climb(ours)
    how = f"got anew by {'a login' if name == 'login' else 'the EK'}"
    if not ours.works():
        ldevid_renewal.put(ours, state, chain)
        return how
    proof = ldevid_renewal.proven(ours, state, ldevid_key.HANDLE, chain, anyway=True)
    return f"{how}; {proof}"


def _may_be_another(ours: Ldevid) -> None:
    """Raises LdevidExpired, if no way to get another is allowed, and LdevidNotRenewed, if DPS would
    not know it. Who has removed the one there was wants another."""
    state = ours.state
    if ours.conf.renew_at == NEVER and store.exists(state.ldevid_cert):
        raise LdevidNotRenewed(
            f"cannot renew the LDevID: that in '{state.ldevid_cert}' does not work any more, and "
            "ldevid.renew_at is 'never'",
            path=state.ldevid_cert,
        )
    if not ours.conf.recover:
        raise _expired(state)


def _expired(state: State) -> LdevidExpired:
    return LdevidExpired(
        f"cannot get the LDevID back: what is in '{state.ldevid_cert}' does not work any more, and "
        "ldevid.recover names no way to get another",
        key=state.ldevid_key,
        path=state.ldevid_cert,
    )


def _climb(ours: Ldevid) -> tuple[str, Sequence[Certificate]]:
    """What the first of the ways brings that leads anywhere. Who is told to come back later, or
    finds nobody, has not been refused: that is waited for. If a server has refused, that is raised,
    rather than what kept this device from asking."""
    failed: list[tuple[str, AgentError]] = []
    for name in ours.conf.recover:
        try:
            return name, RUNGS[name](ours)
        except (Refused, TpmError, ConfigError) as e:
            failed.append((name, e))
    refused = [e for _, e in failed if isinstance(e, Refused)]
    told = refused[-1] if refused else failed[-1][1]
    if others := "; ".join(f"by '{name}': {e}" for name, e in failed if e is not told):
        told.args = (f"{told} ({'before' if told is failed[-1][1] else 'besides'} that, {others})",)
    raise told
