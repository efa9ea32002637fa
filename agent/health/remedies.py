"""What is done about what is stuck: at most one remedy a run, and not more per day than allowed.

What is going to be done is on disk, and paid for, before it is done: a run that is cut off neither
loses it nor does it twice. Before anything is done it is asked whether it is IoT Edge's fault: if
the EST server does not let this device in, that is the matter, and nothing is done or spent.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from agent import aziot_identity, journal
from agent.config import Config
from agent.errors import AgentError, CertificateStuck, DataLimit
from agent.events import (
    CAUSE_ELSEWHERE,
    INTERVENTION,
    INTERVENTION_DONE,
    INTERVENTION_PUT_OFF,
    Event,
)
from agent.health import acts, certd, ladder, look, memory, question
from agent.health import stuck as stuck_
from agent.health.judge import Condition, Judged, judge
from agent.health.ladder import Rung
from agent.health.memory import Memory
from agent.health.services import Unit
from agent.health.stuck import Stuck, described
from agent.moment import Moment
from agent.state import State
from agent.tpm import Tpm

log = logging.getLogger(__name__)
SETTLES = 20.0  # seconds; a TPM takes some of them to make a key
DATED: Collection[Condition] = ("overdue", "expired", "missing")  # what a start alone may change


@dataclass(frozen=True)
class Outcome:
    """`said`: what was done, or would be; `problem`: why nothing more is."""

    said: tuple[str, ...] = ()
    problem: AgentError | None = None


@dataclass(frozen=True)
class Device:
    """`known`: from run to run; changed here, and on disk around whatever is done; what else is
    changed in it is for the caller to keep. `dry`: nothing is done, told or kept. `may_ask`: called
    before a server is asked, with whether it is late; raises DataLimit."""

    conf: Config
    tpm: Tpm
    state: State
    known: Memory
    may_ask: Callable[[bool], None]
    dry: bool = False


def heal(
    device: Device, judged: Sequence[Judged], units: Mapping[str, Unit], now: Moment
) -> Outcome:
    """`judged`: all certificates; `units`: as systemd has IoT Edge's services, if it was asked.

    What a remedy itself fails of is its result. Raises NoPermission, DiskFull.
    """
    visit = Visit(device, now)
    nobody = acts.is_nobody(device.conf, device.state)
    stuck = stuck_.stuck(device.conf, judged, units, visit.rungs.restarts, nobody=nobody)
    visit.rungs.restarts = {name: unit.restarts for name, unit in units.items() if unit.restarts}
    outcome = visit.resumed(stuck)
    if outcome is None:
        visit.rungs.see([each.trouble for each in stuck])
        outcome = visit.next(stuck)
    visit.remember()
    return outcome


def awaken(device: Device, judged: Sequence[Judged], now: Moment) -> Outcome:
    """Right after an LDevID came back that had not worked: what IoT Edge has may have expired, too,
    and it could not help itself. So its time is over: it is restarted, and reprovisioned if that
    was not enough. What is done is paid for as ever."""
    visit = Visit(device, now)
    dead = [each for each in stuck_.stuck(device.conf, judged, {}, {}) if each.path]
    if not dead:
        return Outcome()
    visit.rungs.see([each.trouble for each in dead])
    units = tuple(dict.fromkeys(each.unit for each in dead))
    first = replace(dead[0], failing=units)
    outcome = visit.spend(first, "restart")
    if outcome.problem is None and not device.dry and visit.is_lost():
        again = visit.spend(first, "reprovision")
        outcome = Outcome((*outcome.said, *again.said), again.problem)
    visit.remember()
    return outcome


@dataclass
class Visit:
    """One run of these, at a moment."""

    device: Device
    now: Moment
    rungs: ladder.Ladder = field(init=False)

    def __post_init__(self) -> None:
        self.rungs = ladder.of_json(self.device.known.cases)
        self.rungs.tick(self.now)

    def remember(self) -> None:
        if not self.device.dry:
            self.device.known.cases = self.rungs.as_json()

    def _keep(self) -> None:
        self.remember()
        memory.save(self.device.state, self.device.known)

    # --- whose turn it is ---

    def next(self, stuck: Sequence[Stuck]) -> Outcome:
        turn = self.rungs.turn([each.trouble for each in stuck])
        if turn is None:
            return Outcome(tuple(map(self._waits, stuck)) if self.device.dry else ())
        return self.spend(next(each for each in stuck if each.trouble == turn[0]), turn[1])

    def _waits(self, stuck: Stuck) -> str:
        minutes = math.ceil(max(0.0, self.rungs.left(stuck.trouble)) / 60)
        doing = _doing(self.rungs.next(stuck.trouble), stuck)
        return f"would {doing}, for {stuck.why}, but not for another {minutes} min"

    def spend(self, stuck: Stuck, rung: Rung) -> Outcome:
        """This remedy, if nothing speaks against it."""
        if problem := self._objection(stuck, rung):
            return Outcome(problem=problem)
        doing = _doing(rung, stuck)
        if self.device.dry:
            return Outcome((f"would {doing}, for {stuck.why}",))
        before = acts.mark(rung, self.device.conf, stuck, self.now.boot_id)
        self.rungs.begin(stuck.name, rung, before)
        self._keep()
        self._tell(INTERVENTION, stuck, f"{doing}, for {stuck.why}", doing)
        return self._acted(stuck, rung, before)

    def _objection(self, stuck: Stuck, rung: Rung) -> AgentError | None:
        device, limit = self.device, self.device.conf.health.interventions
        if not self.rungs.free(limit):
            return self._put_off(stuck, self._spent(limit))
        whole = (device.tpm, device.conf, device.state)
        try:
            if (stuck.by_est or rung == "remove") and not acts.ldevid_works(*whole):
                return self._put_off(stuck, "the LDevID, by which it is got, does not work")
            if stuck.by_est:
                self._ask(stuck)
        except DataLimit as e:
            return self._once(stuck, INTERVENTION_PUT_OFF, e)
        except AgentError as e:
            return self._once(stuck, CAUSE_ELSEWHERE, e)
        return None

    def _ask(self, stuck: Stuck) -> None:
        """Raises what is the true cause; where that was asked lately, what it was then."""
        device, now = self.device, datetime.now(UTC)
        if before := question.answered(self.rungs.asked, now):
            raise before
        device.may_ask(stuck.late)
        try:
            acts.probe(device.tpm, device.conf, device.state)
        except AgentError as e:
            seed = look.seed(device.state).decode()
            self.rungs.asked = question.failed(e, self.rungs.asked, seed, now, stuck.ends)
            raise
        self.rungs.asked = {}

    def _spent(self, limit: int) -> str:
        if limit == 0:
            return "health.interventions is 0"
        hours = math.ceil(self.rungs.until_free(limit) / 3600)
        return f"{limit} interventions per day are spent; the next is in {hours} h"

    def _put_off(self, stuck: Stuck, why: str) -> AgentError:
        problem = CertificateStuck(f"cannot help {stuck.why}: {why}", unit=stuck.unit)
        return self._once(stuck, INTERVENTION_PUT_OFF, problem)

    def _once(self, stuck: Stuck, event: Event, why: AgentError) -> AgentError:
        """Not hour by hour."""
        case, what = self.rungs.cases[stuck.name], f"{event.name} {why.code}"
        if not self.device.dry and case.told != what:
            case.told = what
            self._tell(event, stuck, f"nothing is done for {stuck.why}: {why}", str(why))
        return why

    # --- doing it ---

    def _acted(self, stuck: Stuck, rung: Rung, before: acts.Mark) -> Outcome:
        def keep(mark: acts.Mark) -> None:
            self.rungs.cases[stuck.name].mark = mark
            self._keep()

        device, conf = self.device, self.device.conf
        try:
            hands = acts.Hands(conf, acts.secrets(device.tpm, conf, device.state))
            acts.act(rung, hands, stuck, before, keep)
            result = self._result(stuck.name)
        except AgentError as e:
            result = f"failed: {e}"
        self.rungs.end(stuck.name)
        self._keep()
        said = f"{_doing(rung, stuck)}, for {stuck.why}: {result}"
        self._tell(INTERVENTION_DONE, stuck, said, result)
        return Outcome((said,))

    def resumed(self, stuck: Sequence[Stuck]) -> Outcome | None:
        """What a run that was cut off began is brought to its end, unless it was done, or what it
        was for is well; but for a removal: that has stopped the services."""
        for name, case in self.rungs.unfinished():
            of = next((each for each in stuck if each.name == name), None)
            if of is None and case.rung == "remove":
                of = stuck_.begun(self.device.conf, name)
            if of is None or self._was_done(of, case):
                self.rungs.end(name)
            elif self.device.dry:
                return Outcome((f"would go on to {_doing(case.rung, of)}, for {of.why}",))
            else:
                return self._acted(of, case.rung, case.mark or {})
        return None

    def _was_done(self, stuck: Stuck, case: ladder.Case) -> bool:
        now = acts.mark(case.rung, self.device.conf, stuck, self.now.boot_id)
        return acts.was_done(case.rung, case.mark or {}, now)

    def _result(self, name: str) -> str:
        """The word of the identity service, and the certificate as it is then; both are given a
        while, for a service that has started is not yet done with what it does then."""
        conf = self.device.conf.aziot
        said = aziot_identity.answer(conf.identity_socket, conf.timeout.total_seconds())
        self._settle(name)
        word = str(said)
        if isinstance(said, aziot_identity.Provisioning):
            word = f"the identity service knows '{said.device_id}' at hub '{said.hub}'"
        seen = self._look(name)
        return f"now {described(seen)}; {word}" if seen else word

    def _settle(self, name: str) -> None:
        patience = min(SETTLES, self.device.conf.aziot.timeout.total_seconds())
        until = time.monotonic() + patience
        while self.lacks(name, DATED) and time.monotonic() < until:
            time.sleep(0.2)

    def lacks(self, name: str, states: Collection[Condition] = stuck_.HELPS.keys()) -> bool:
        seen = self._look(name)
        return seen is not None and seen.needed and seen.state in states

    def is_lost(self) -> bool:
        """It is nobody, or has nothing that would show who it is."""
        nobody = acts.is_nobody(self.device.conf, self.device.state)
        return nobody or self.lacks(certd.DEVICE_ID, stuck_.LOST.keys())

    def _look(self, name: str) -> Judged | None:
        found = look.found_kept(self.device.conf, name)
        return judge(found, datetime.now(UTC)) if found else None

    def _tell(self, event: Event, stuck: Stuck, message: str, what: str) -> None:
        about = journal.about(event, name=stuck.name, unit=stuck.unit, reason=stuck.why, what=what)
        log.warning("%s", message, extra=about)


def _doing(rung: Rung, stuck: Stuck) -> str:
    """For a "would ...", and for the record of it."""
    units = " and ".join(dict.fromkeys([*stuck.failing, stuck.unit]))
    return {
        "wait": "wait",
        "restart": f"restart {units}",
        "reprovision": "reprovision",
        "remove": f"remove '{stuck.path}' and reprovision",
    }[rung]
