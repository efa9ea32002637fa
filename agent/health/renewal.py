"""The LDevID: renewed when it is due, got back when it does not work any more.

A run that was cut off is gone on with first. What a server refuses, or nobody answers, is tried
again, with pauses that grow; the certificate in use stays in use all the while.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from agent import plan, store
from agent.backoff import CREDIBLE, Backoff, pause
from agent.config import Config
from agent.errors import (
    AgentError,
    ConfigError,
    Later,
    Refused,
    RenewalBringsNothing,
    TpmError,
)
from agent.state import State
from agent.steps import (
    Step,
    azure,
    ldevid_pauses,
    ldevid_recover,
    ldevid_rekey,
    ldevid_renewal,
)
from agent.steps.ldevid import Ldevid
from agent.steps.ldevid_key import HANDLE, ldevid_key
from agent.steps.token import Token, token
from agent.tpm import Tpm
from agent.traffic import traffic

__all__ = ["CREDIBLE", "Backoff", "Outcome", "pause", "renew", "unfinished"]
What = Literal["nothing", "renewed", "recovered", "completed", "waiting", "refused"]


@dataclass(frozen=True)
class Outcome:
    """'nothing' was to be done; 'renewed'; 'recovered'; 'completed' what an earlier run began;
    'waiting' for somebody; 'refused'. `words` say it; `error` is why it waits or was refused, None
    if it only is too early to try again."""

    what: What
    words: str
    backoff: Backoff = field(default_factory=Backoff)
    error: AgentError | None = None


def renew(
    tpm: Tpm,
    conf: Config,
    state: State,
    who: Callable[[], str],
    backoff: Backoff,
    now: datetime,
    overdue: bool,
    *,
    due: bool = True,
) -> Outcome:
    """`due`: it is time, or the certificate does not work; else only what an earlier run left is
    completed. `overdue`: it is late, so if it is refused, it is got back as if it did not work.

    Raises what is no server's matter (69, 77, 78), LdevidExpired among it, as long as no server was
    asked for it.
    """
    if conf.ldevid is None or conf.dps.attestation != "x509":
        return Outcome("nothing", "there is no LDevID", backoff)
    if not due and unfinished(conf, state, who) is None:
        return Outcome("nothing", "it is not due", backoff)
    if backoff.waits(now):
        words = f"tried again from {backoff.not_before:%Y-%m-%d %H:%M}Z on"
        return Outcome("waiting", words, backoff)
    run, asked = _Run(Ldevid(tpm, conf, state, who), overdue), traffic()
    try:
        what, how = run.work(due=due)
    except AgentError as e:
        if e.status not in (os.EX_TEMPFAIL, os.EX_PROTOCOL) and traffic() == asked:
            raise
        return run.failed(e, backoff, now)
    until = [f"valid until {c.not_valid_after_utc:%Y-%m-%d %H:%M}Z" for c in run.ours.chain()[:1]]
    return Outcome(what, f"{what}: {', '.join([*until, how])}")


def unfinished(conf: Config, state: State, who: Callable[[], str]) -> str | None:
    """What an earlier run has begun and not brought to its end, in words; only files are looked
    at."""
    if conf.ldevid is None or conf.dps.attestation != "x509":
        return None
    if store.exists(state.ldevid_next):
        return "a renewed certificate has not taken its place yet"
    if ldevid_rekey.left_over(state):
        return "the key before is still kept, or a new one not in use yet"
    if azure.registered_with_another(conf, state, who()):
        return "the renewed certificate is not registered with DPS yet"
    return None


@dataclass
class _Run:
    ours: Ldevid
    overdue: bool

    def work(self, *, due: bool) -> tuple[What, str]:
        """What was done, and how. Raises what kept it from being done."""
        ours = self.ours
        before, worked = ours.chain(), ours.works()
        how, trouble = self._completed()
        better = ours.works() and (not worked or ours.chain()[0] != before[0])
        if better or not due:
            if trouble:
                raise trouble
            return ("renewed" if how else "completed"), how or "an earlier run had begun it"
        what, how = self._renewed() if ours.works() else ("recovered", ldevid_recover.recover(ours))
        if self._iotedge_is_behind():
            plan.complete(self._of_iotedge())
        return what, how

    def failed(self, error: AgentError, backoff: Backoff, now: datetime) -> Outcome:
        kept = ldevid_pauses.after(error, backoff, self.ours, now, overdue=self.overdue)
        words = f"{error} [{error.code}]; tried again"
        if kept.not_before:
            words += f" from {kept.not_before:%Y-%m-%d %H:%M}Z on"
        what: What = "waiting" if isinstance(error, Later) else "refused"
        return Outcome(what, words, kept, error)

    # --- what an earlier run left ---

    def _completed(self) -> tuple[str | None, AgentError | None]:
        """How a certificate that an earlier run got has proven itself, if there was one, and what
        is wrong with IoT Edge, which is no reason not to renew. Raises what keeps that certificate
        from being proven: until it is, there is no need for another."""
        ours = self.ours
        plan.complete(self._of_ours())
        if how := ldevid_rekey.resume(ours):
            plan.complete(self._of_ours())
        how = ldevid_renewal.accept(ours, ours.state, HANDLE) or how
        if not self._iotedge_is_behind():
            return how, None
        try:
            plan.complete(self._of_iotedge())
        except (Later, Refused) as e:
            return how, e
        if how is None and ldevid_rekey.left_over(ours.state):
            ldevid_rekey.tidy(ours)
        return how, None

    def _iotedge_is_behind(self) -> bool:
        ours = self.ours
        moved = azure.registered_with_another(ours.whole, ours.state, ours.who())
        return moved or ldevid_rekey.left_over(ours.state)

    def _of_ours(self) -> Iterator[Step]:
        tpm, conf, state = self.ours.tpm, self.ours.whole, self.ours.state
        held = Token(conf, state)
        yield ldevid_key(tpm, state, conf.tpm.key, held.recover, lambda: None)
        yield token(tpm, held, state)

    def _of_iotedge(self) -> Iterator[Step]:
        conf, state, who = self.ours.whole, self.ours.state, self.ours.who
        yield from self._of_ours()
        yield from azure.last(conf, self.ours.tpm, state, who)

    # --- what is due ---

    def _renewed(self) -> tuple[What, str]:
        ours = self.ours
        try:
            if ours.conf.rekey and not ldevid_rekey.left_over(ours.state):
                return "renewed", ldevid_rekey.rekey(ours)
            if not ours.conf.rekey:
                ldevid_rekey.give_up(ours)
            return "renewed", ldevid_renewal.renew(ours)
        except RenewalBringsNothing:
            raise
        except Refused as e:
            if not self.overdue or not ours.conf.recover:
                raise
            return "recovered", self._recovered(e)

    def _recovered(self, refused: Refused) -> str:
        """While the one in use still works, nothing of this is a person's matter yet."""
        try:
            return ldevid_recover.recover(self.ours)
        except (Refused, TpmError, ConfigError) as e:
            refused.args = (f"{refused}; nor is another to be had: {e} [{e.code}]",)
            raise refused from e
