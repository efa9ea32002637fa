"""The LDevID: renewed when it is due, got back when it does not work any more.

A run that was cut off is gone on with first. What a server refuses, or nobody answers, is tried
again, with pauses that grow; the certificate in use stays in use all the while.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

from agent import plan, store
from agent.config import Config
from agent.errors import (
    AgentError,
    ConfigError,
    EstPending,
    Later,
    Refused,
    RenewalBringsNothing,
    TpmError,
)
from agent.health.judge import jitter
from agent.state import State
from agent.steps import Step, aziot, ldevid_recover, ldevid_rekey, ldevid_renewal
from agent.steps.ldevid import Ldevid
from agent.steps.ldevid_key import HANDLE, ldevid_key
from agent.steps.registration import registered_with_another, registration
from agent.steps.token import Token, token
from agent.tpm import Tpm

FIRST, LONGEST, LONGEST_OVERDUE = timedelta(hours=1), timedelta(days=1), timedelta(hours=6)
NEVER_MIND, SHORTEST, TRIES = timedelta.max, timedelta(minutes=5), 8
SPREAD = 0.1  # of a pause, more or less: a fleet that was refused does not come back as one
CREDIBLE = timedelta(days=8)  # servers are taken at their word for a week
What = Literal["nothing", "renewed", "recovered", "completed", "waiting", "refused"]


@dataclass(frozen=True)
class Backoff:
    """How often it failed in a row, and before when it is not tried again."""

    failures: int = 0
    not_before: datetime | None = None

    def waits(self, now: datetime) -> bool:
        """A clock that was turned back does not make us wait for ever."""
        return self.not_before is not None and now < self.not_before <= now + CREDIBLE

    def as_json(self) -> dict[str, Any]:
        until = self.not_before
        return {"failures": self.failures, "not_before": until.timestamp() if until else None}

    @staticmethod
    def of(kept: Mapping[str, Any]) -> "Backoff":
        """What is damaged is as if never known."""
        try:
            failures, until = int(kept.get("failures", 0)), kept.get("not_before")
            at = None if until is None else datetime.fromtimestamp(float(until), UTC)
            return Backoff(max(failures, 0), at)
        except (TypeError, ValueError, OverflowError, OSError):
            return Backoff()


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

    Raises what is no server's matter (69, 77, 78), LdevidExpired among it.
    """
    if conf.ldevid is None or conf.dps.attestation != "x509":
        return Outcome("nothing", "there is no LDevID", backoff)
    if not due and unfinished(conf, state, who) is None:
        return Outcome("nothing", "it is not due", backoff)
    if backoff.waits(now):
        words = f"tried again from {backoff.not_before:%Y-%m-%d %H:%M}Z on"
        return Outcome("waiting", words, backoff)
    run = _Run(Ldevid(tpm, conf, state, who), overdue)
    try:
        what, how = run.work(due=due)
    except AgentError as e:
        if e.status not in (os.EX_TEMPFAIL, os.EX_PROTOCOL):
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
    if registered_with_another(conf, state, who()):
        return "IoT Edge is not registered with the renewed certificate yet"
    return None


def pause(failures: int, seed: str, overdue: bool, left: timedelta = NEVER_MIND) -> timedelta:
    """After so many failures in a row (1, 2, ...): from an hour, doubled each time, to a day, or to
    6 hours if it is overdue; 10 % more or less, always the same for the same device and number.
    `left`: to the end of the certificate; if that is near, there are some tries before it."""
    longest = (LONGEST_OVERDUE if overdue else LONGEST) / (1 + SPREAD)
    if left > timedelta():
        longest = min(longest, max(left / TRIES, SHORTEST))
    doubled = FIRST * (1 << min(max(failures, 1) - 1, 10))
    own = 1 - SPREAD + 2 * SPREAD * jitter(f"{seed}\n{failures}".encode())
    return min(doubled, longest) * own


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
            _converge(self._of_iotedge())
        return what, how

    def failed(self, error: AgentError, backoff: Backoff, now: datetime) -> Outcome:
        """Who says when to come back is taken at his word; to be told so is no failure."""
        failures = backoff.failures + (not isinstance(error, EstPending))
        ours, works = self.ours, self.ours.works()
        left = ours.chain()[0].not_valid_after_utc - now if works else NEVER_MIND
        wait = pause(failures, ours.who(), self.overdue or not works, left)
        if isinstance(error, Later) and error.seconds is not None:
            wait = timedelta(seconds=error.seconds)
        until = now + wait
        words = f"{error} [{error.code}]; tried again from {until:%Y-%m-%d %H:%M}Z on"
        what: What = "waiting" if isinstance(error, Later) else "refused"
        return Outcome(what, words, Backoff(failures, until), error)

    # --- what an earlier run left ---

    def _completed(self) -> tuple[str | None, AgentError | None]:
        """How a certificate that an earlier run got has proven itself, if there was one, and what
        is wrong with IoT Edge, which is no reason not to renew. Raises what keeps that certificate
        from being proven: until it is, there is no need for another."""
        ours = self.ours
        _converge(self._of_ours())
        if how := ldevid_rekey.resume(ours):
            _converge(self._of_ours())
        how = ldevid_renewal.accept(ours, ours.state, HANDLE) or how
        if not self._iotedge_is_behind():
            return how, None
        try:
            _converge(self._of_iotedge())
        except (Later, Refused) as e:
            return how, e
        if how is None and ldevid_rekey.left_over(ours.state):
            ldevid_rekey.tidy(ours)
        return how, None

    def _iotedge_is_behind(self) -> bool:
        ours = self.ours
        moved = registered_with_another(ours.whole, ours.state, ours.who())
        return moved or ldevid_rekey.left_over(ours.state)

    def _of_ours(self) -> Iterator[Step]:
        tpm, conf, state = self.ours.tpm, self.ours.whole, self.ours.state
        held = Token(conf.pkcs11, state)
        yield ldevid_key(tpm, state, conf.tpm.key, held.recover, lambda: None)
        yield token(tpm, held, state)

    def _of_iotedge(self) -> Iterator[Step]:
        conf, state, who = self.ours.whole, self.ours.state, self.ours.who
        yield from self._of_ours()
        yield aziot.configuration(conf, state, who)
        yield registration(conf, state, who)

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


def _converge(steps: Iterable[Step]) -> None:
    for step in steps:
        plan.at(step, partial(plan.converge, step))
