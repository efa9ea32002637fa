"""What one run does, in this order: the LDevID, for all else is got by it; the CAs, that vouch for
the servers; IoT Edge's configuration, where that depends on either; IoT Edge's own certificates.

What fails of one does not keep the others from their turn; it is told, and the next run tries again
as each part sees fit. Where nothing is due, nobody is asked.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from agent import journal, plan
from agent.backoff import Backoff, pause
from agent.errors import MAYBE_THE_CLOCK, AgentError, IssuedByAnother, Later, TlsUntrusted
from agent.events import RENEWED, failed
from agent.health import acts, look, memory, remedies, renewal, rollover
from agent.health import spent as spent_
from agent.health.judge import Condition, Judged
from agent.health.memory import Memory
from agent.health.seen import Device, Look
from agent.health.waits import waits
from agent.moment import moment
from agent.steps import Step, aziot, azure
from agent.steps.registration import is_applied

log = logging.getLogger(__name__)
IDLE: tuple[Condition, ...] = ("fresh", "not yet valid")  # nothing to do, or that can be done
LATE: tuple[Condition, ...] = (
    *("overdue", "expired", "untrusted issuer", "missing", "unreadable", "key mismatch"),
)
UNTRUSTED = (TlsUntrusted, IssuedByAnother)


@dataclass
class Tending:
    """`problems`: by its part, what one ran into, or did lately, and waits for that. `waits`: what
    is not done yet and is no certificate, in words."""

    device: Device
    known: Memory
    seen: Look
    dry: bool
    problems: dict[str, AgentError] = field(default_factory=dict)
    waits: list[str] = field(default_factory=list)

    @property
    def problem(self) -> AgentError | None:
        """The first that needs a person; else the first."""
        found = list(self.problems.values())
        return next((e for e in found if not isinstance(e, Later)), found[0] if found else None)

    def is_due(self) -> bool:
        """There is something to be done, and not only to be waited for."""
        wanting = [each for each in self.seen.of_iotedge() if each.state not in IDLE]
        return bool(
            (self._wants_ldevid() and not self._backoff().waits(self.seen.at))
            or [each for each in wanting if each.state != "due"]
            or any(unit.fails for unit in self.seen.units.values())
            or acts.is_nobody(self.device.conf, self.device.state)
            or self._cas_due()
            or self._behind()
        )

    def all(self, again: Callable[[], Look]) -> list[str]:
        """What was done, or would be, in sentences. `again`: looks once more, at what IoT Edge has
        when our own part is done."""
        said, was = list[str](), self._ldevid()
        if self.seen.trouble:
            self._trouble("look", self.seen.trouble)
        for part in (self._renewal, self._cas, self._configuration):
            said += self._guarded(part)
        if said and not self.dry:
            self.seen = again()
        back = not self.dry and was is not None and was.state not in (*IDLE, "due", "overdue")
        back = back and self._ldevid_state() == "fresh"
        helped = [*self._guarded(self._awakened if back else self._healed)]
        if helped and not self.dry:
            self.seen = again()
        self.waits += self._guarded(self._open)
        return said + helped

    def _open(self) -> Iterator[str]:
        device, certificates = self.device, {each.name for each in self.seen.certificates}
        cases = self.known.cases.get("cases") or {}
        others = {name: case for name, case in cases.items() if name not in certificates}
        yield from waits(device.conf, device.state, device.who, self.seen.units, others)

    def _guarded(self, part: Callable[[], Iterator[str]]) -> Iterator[str]:
        try:
            yield from part()
        except AgentError as e:
            self._trouble(part.__name__, e)

    def _wait(self, part: str, words: str) -> None:
        """What this part failed of lately is still the matter, though nothing is tried now."""
        self.waits.append(words)
        if before := memory.as_error(self.known.trouble.get(part, {})):
            self.problems.setdefault(part, before)

    def _trouble(self, part: str, e: AgentError) -> None:
        """One entry in the journal each time it is another than the last."""
        self.problems[part] = e
        if self.dry or self.known.trouble.get(part, {}).get("code") == e.code:
            log.debug("as before: %s", e, exc_info=e)
            return
        fields = {**e.fields, "step": e.step or "health", "code": e.code, "remedy": e.remedy}
        about = journal.about(failed(type(e)), **fields)
        log.error("%s [%s]\nRemedy: %s", e, e.code, e.remedy, extra=about)

    # --- our own certificate ---

    def _ldevid(self) -> Judged | None:
        return self.seen.of(look.LDEVID)

    def _ldevid_state(self) -> Condition | None:
        found = self._ldevid()
        return found.state if found else None

    def _wants_ldevid(self) -> str:
        """Why it is its turn, in words; empty if it is not."""
        found, device = self._ldevid(), self.device
        if found and (found.state not in IDLE or self._misdated()):
            return f"the LDevID is {found.state}: {found.why}"
        return renewal.unfinished(device.conf, device.state, device.who) or ""

    def _misdated(self) -> bool:
        """By a CA on this device, whose clock was ahead: it is for us to issue a better one."""
        conf = self.device.conf.ldevid
        return self._ldevid_state() == "not yet valid" and conf is not None and conf.ca is not None

    def _backoff(self) -> Backoff:
        return Backoff.of(self.known.backoff)

    def _renewal(self) -> Iterator[str]:
        if not (why := self._wants_ldevid()):
            return
        device, backoff, until = self.device, self._backoff(), ""
        if backoff.waits(self.seen.at):
            until = f", but not before {backoff.not_before:%Y-%m-%d %H:%M}Z"
            self._wait("_renewal", f"The LDevID is to be seen to{until}")
        if self.dry:
            yield f"would see to the LDevID{until}: {why}"
        if self.dry or until:
            return
        state = self._ldevid_state()
        self._may_ask(late=state in LATE)
        outcome = renewal.renew(
            device.tpm,
            device.conf,
            device.state,
            device.who,
            backoff,
            self.seen.at,
            overdue=state == "overdue",
            due=state not in IDLE or self._misdated(),
        )
        self.known.backoff = outcome.backoff.as_json()
        if outcome.error:
            self._trouble("_renewal", outcome.error)
        if outcome.what in ("renewed", "recovered", "completed"):
            log.info("LDevID: %s", outcome.words, extra=journal.about(RENEWED, how=outcome.words))
            yield f"LDevID: {outcome.words}"

    # --- whom we trust, and what IoT Edge is told of it ---

    def _cas_due(self) -> bool:
        device = self.device
        seed = look.seed(device.state)
        return bool(rollover.due(device.conf, device.state, self.known.asked, self.seen.at, seed))

    def _cas(self) -> Iterator[str]:
        device, untrusted = self.device, self._untrusted()
        if not self.dry:
            rollover.settle(device.conf, device.state, self.seen.at)
        if not (untrusted or self._cas_due()):
            return
        if self.dry:
            yield "would ask for the CAs that come after those of the configuration"
            return
        self._may_ask(late=False)
        yield from rollover.follow(
            device.tpm,
            device.conf,
            device.state,
            self.known.asked,
            self.seen.at,
            look.seed(device.state),
            untrusted,
        )

    def _untrusted(self) -> list[str]:
        """The URL of the EST server that was not trusted in this run, or issued by who is not."""
        est = self.device.conf.ldevid.est if self.device.conf.ldevid else None
        bad = any(isinstance(e, UNTRUSTED) for e in self.problems.values())
        bad = bad or self._ldevid_state() == "untrusted issuer"
        return [est.url] if est and bad else []

    def _behind(self) -> bool:
        """IoT Edge's configuration does not say what it must, or IoT Edge was not told of it. That
        depends on what changes here only where there was a second slot, or a CA was followed: most
        devices have neither. Without IoT Edge: what this device was registered with has changed, or
        its hub key is lost."""
        state = self.device.state
        if not self.device.conf.for_edge:
            return self._unregistered()
        if not (state.ldevid_slot.exists() or (state.anchors / "operational.json").exists()):
            return False
        conf, who, tpm = self.device.conf, self.device.who, self.device.tpm
        written = aziot.configuration(conf, tpm, state, who).done() is not None
        return not (written and is_applied(conf, state))

    def _unregistered(self) -> bool:
        """A renewed LDevID is registered by who renews it, and the first time is for a boot."""
        conf, state, who = self.device.conf, self.device.state, self.device.who
        if not azure.registered(conf, state) or azure.registered_with_another(conf, state, who()):
            return False
        return any(step.done() is None for step in self._last())

    def _last(self) -> list[Step]:
        device = self.device
        return azure.last(device.conf, device.tpm, device.state, device.who)

    def _configuration(self) -> Iterator[str]:
        """With pauses that grow: to apply it restarts all of IoT Edge."""
        if not self._behind():
            self.known.configuration = {}
            return
        backoff, whose, what = Backoff.of(self.known.configuration), *self._words()
        if not self.dry:
            if backoff.waits(self.seen.at):
                until = f"{backoff.not_before:%Y-%m-%d %H:%M}Z"
                self._wait("_configuration", f"{whose} is to be {what}, but not before {until}")
                return
            self._told(backoff)
        yield f"{whose} {'would be' if self.dry else 'was'} {what}"

    def _words(self) -> tuple[str, str]:
        if self.device.conf.for_edge:
            return "IoT Edge", "told of another configuration"
        return "The registration of this device", "completed"

    def _told(self, before: Backoff) -> None:
        try:
            plan.complete(self._last())
        except AgentError as e:
            if not isinstance(e, MAYBE_THE_CLOCK):
                failures = before.failures + 1
                until = self.seen.at + pause(failures, self.device.who(), overdue=True)
                self.known.configuration = Backoff(failures, until).as_json()
            raise
        self.known.configuration = {}

    # --- IoT Edge's own certificates ---

    def _healed(self) -> Iterator[str]:
        judged, units = self.seen.certificates, self.seen.units
        return self._helped(remedies.heal(self._helper(), judged, units, moment()))

    def _awakened(self) -> Iterator[str]:
        """The LDevID has come back: IoT Edge could not help itself before."""
        judged = self.seen.certificates
        return self._helped(remedies.awaken(self._helper(), judged, moment()))

    def _helper(self) -> remedies.Device:
        device = self.device
        return remedies.Device(
            *(device.conf, device.tpm, device.state, self.known),
            may_ask=lambda late: self._may_ask(late=late),
            dry=self.dry,
        )

    def _helped(self, outcome: remedies.Outcome) -> Iterator[str]:
        if outcome.problem:  # in the journal already
            self.problems["iotedge"] = outcome.problem
        yield from outcome.said

    # --- bytes ---

    def data(self) -> dict[str, int]:
        """Of this day (UTC), this run's with it."""
        spent = spent_.today(self.known.traffic, self.seen.at)
        return {**spent, "limit": self.device.conf.health.data_limit}

    def remember(self) -> None:
        """For the next run."""
        self.known.traffic = spent_.to_keep(self.known.traffic, self.seen.at)
        self.known.trouble = {part: memory.as_trouble(e) for part, e in self.problems.items()}

    def _may_ask(self, *, late: bool) -> None:
        """Raises DataLimit."""
        spent = spent_.today(self.known.traffic, self.seen.at)
        spent_.may_ask(self.device.conf.health.data_limit, sum(spent.values()), late=late)
