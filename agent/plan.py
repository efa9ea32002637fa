"""The plan: which steps this configuration asks for, in order; and the one loop that runs them."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

from agent import inputs, journal
from agent.config import Config
from agent.state import State
from agent.steps import Step, azure, preflight, shown
from agent.steps.authorization import authorization, left
from agent.steps.completing import at, complete, converge
from agent.steps.ek import ek, trust
from agent.steps.enrol import load
from agent.steps.idevid import idevid
from agent.steps.ldevid import Ldevid, dated
from agent.steps.ldevid_cert import ldevid_cert
from agent.steps.ldevid_key import ldevid_key
from agent.steps.same_tpm import same_tpm
from agent.steps.srk import srk
from agent.steps.token import Token, token
from agent.steps.tpmd import tpmd
from agent.tpm import Tpm

__all__ = ["at", "complete", "converge", "plan", "run"]
log = logging.getLogger(__name__)


def plan(config: Config, tpm: Tpm, state: State, *, anew: bool = False) -> list[Step]:
    """Nothing but what passwords are kept is looked at before a step is. `anew`: see azure.last."""
    who = cache(lambda: preflight.who(config, tpm))
    return [
        preflight.tpm_answers(tpm, config.tpm.wait.total_seconds()),
        preflight.clock(dated(config, state), inputs.trust_files(config)),
        preflight.device_id(who),
        *_keys(config, tpm, state, who),
        *azure.last(config, tpm, state, who, anew=anew),
    ]


def _keys(config: Config, tpm: Tpm, state: State, who: Callable[[], str]) -> Iterator[Step]:
    if config.dps.attestation == "tpm":
        yield from shown.shown(config, tpm, state)
        yield from _passwords(config, tpm, state, who)
        if config.for_edge:
            yield tpmd(config, tpm)
        return
    yield ek(tpm, trust(config.tpm, state, partial(inputs.proxy, config)))
    yield idevid(tpm, config.idevid)
    yield srk(tpm, config.tpm.key)
    yield same_tpm(tpm, config, state)
    yield from _passwords(config, tpm, state, who)
    if config.ldevid is not None:
        ours = Token(config, state)
        yield ldevid_key(tpm, state, config.tpm.key, ours.recover, load)
        yield token(tpm, ours, state)
        yield ldevid_cert(Ldevid(tpm, config, state, who))


def _passwords(config: Config, tpm: Tpm, state: State, who: Callable[[], str]) -> Iterator[Step]:
    """Also for those that were asked for once: they are set until a reset."""
    if config.tpm.authorization.random or left(state):
        yield authorization(tpm, config.tpm.authorization, state, who)


def run(steps: Sequence[Step]) -> None:
    """Look, act, look again; and say to systemd that we are ready.

    `iotedge config apply` starts services, and even asking whether IoT Edge is provisioned does (by
    their sockets). They are ordered after our unit, so systemd holds them back until we are ready:
    were that said at the end, each would wait for the other. So a run is ready when it is the turn
    of IoT Edge; without that, at its end: who is ordered after us needs a registered device.
    """
    width = max(len(step.name) for step in steps)
    for step in steps:
        ready = "READY=1\n" if step.after_us else ""
        journal.tell_systemd(f"{ready}STATUS={step.name}")
        started = time.monotonic()
        event, what, evidence = at(step, partial(converge, step))
        took = time.monotonic() - started
        fields = {"step": step.name, "seconds": f"{took:.3f}", "evidence": evidence}
        about = journal.about(event, **fields)
        log.info("%-*s %6.2f s  %s: %s", width, step.name, took, what, evidence, extra=about)
    if not any(step.after_us for step in steps):
        journal.tell_systemd("READY=1")
