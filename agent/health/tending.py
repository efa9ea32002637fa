"""What one run does, in this order: the LDevID, for all else is got by it; the CAs, that vouch for
the servers; IoT Edge's configuration, where that depends on either; IoT Edge's own certificates.

What fails of one does not keep the others from their turn; it is told, and the next run tries again
as each part sees fit. Where nothing is due, nobody is asked.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial

from agent import deviceid, journal, plan, traffic
from agent.config import Config
from agent.errors import AgentError, DataLimit, IssuedByAnother, TlsUntrusted
from agent.events import RENEWED, failed
from agent.health import certd, look, remedies, renewal, rollover, services
from agent.health.judge import Condition, Judged
from agent.health.memory import Memory
from agent.health.renewal import Backoff
from agent.health.services import Unit
from agent.state import State
from agent.steps import Step, aziot
from agent.steps.registration import is_applied, registration
from agent.tpm import Tpm

log = logging.getLogger(__name__)
IDLE: tuple[Condition, ...] = ("fresh", "not yet valid")  # nothing to do, or that can be done
LATE: tuple[Condition, ...] = ("overdue", "expired", "untrusted issuer", "missing", "unreadable")
UNTRUSTED = (TlsUntrusted, IssuedByAnother)


@dataclass(frozen=True)
class Device:
    conf: Config
    tpm: Tpm
    state: State

    @cached_property
    def id(self) -> str:
        return deviceid.resolve(self.conf.device.id)

    def who(self) -> str:
        return self.id


@dataclass(frozen=True)
class Look:
    """What is seen at one moment. `units`: as systemd has them, if it can be asked."""

    at: datetime
    certificates: list[Judged]
    units: Mapping[str, Unit] = field(default_factory=dict)

    def of(self, name: str) -> Judged | None:
        return next((each for each in self.certificates if each.name == name), None)

    def of_iotedge(self) -> list[Judged]:
        return [each for each in self.certificates if each.by in certd.UNITS and each.needed]


@dataclass
class Tending:
    """`problem`: the first that a part of it ran into."""

    device: Device
    known: Memory
    seen: Look
    dry: bool
    problem: AgentError | None = None

    def is_due(self) -> bool:
        """There is something to be done, and not only to be waited for."""
        wanting = [each for each in self.seen.of_iotedge() if each.state not in IDLE]
        return bool(
            self._wants_ldevid()
            or [each for each in wanting if each.state != "due"]
            or any(unit.fails for unit in self.seen.units.values())
            or self._cas_due()
            or self._behind()
        )

    def all(self, again: Callable[[], Look]) -> list[str]:
        """What was done, or would be, in sentences. `again`: looks once more, at what IoT Edge has
        when our own part is done."""
        said, was = list[str](), self._ldevid()
        for part in (self._renewal, self._cas, self._configuration):
            said += self._guarded(part)
        if said and not self.dry:
            self.seen = again()
        back = not self.dry and was is not None and was.state not in (*IDLE, "due", "overdue")
        back = back and self._ldevid_state() == "fresh"
        said += self._guarded(self._awakened if back else self._healed)
        return said

    def _guarded(self, part: Callable[[], Iterator[str]]) -> Iterator[str]:
        try:
            yield from part()
        except AgentError as e:
            self._trouble(e)

    def _trouble(self, e: AgentError) -> None:
        """One entry in the journal each time it is another than the last."""
        self.problem = self.problem or e
        if self.dry or self.known.trouble == e.code:
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
        if found and found.state not in IDLE:
            return f"the LDevID is {found.state}: {found.why}"
        return renewal.unfinished(device.conf, device.state, device.who) or ""

    def _renewal(self) -> Iterator[str]:
        if not (why := self._wants_ldevid()):
            return
        device, backoff = self.device, Backoff.of(self.known.backoff)
        if self.dry:
            waits = backoff.waits(self.seen.at)
            until = f", but not before {backoff.not_before:%Y-%m-%d %H:%M}Z" if waits else ""
            yield f"would see to the LDevID{until}: {why}"
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
            due=state not in IDLE,
        )
        self.known.backoff = outcome.backoff.as_json()
        if outcome.error:
            self._trouble(outcome.error)
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
        bad = isinstance(self.problem, UNTRUSTED) or self._ldevid_state() == "untrusted issuer"
        return [est.url] if est and bad else []

    def _behind(self) -> bool:
        """IoT Edge's configuration does not say what it must, or IoT Edge was not told of it. That
        depends on what changes here only where there was a second slot, or a CA was followed: most
        devices have neither."""
        state = self.device.state
        if not (state.ldevid_slot.exists() or (state.anchors / "operational.json").exists()):
            return False
        conf, who = self.device.conf, self.device.who
        written = aziot.configuration(conf, state, who).done() is not None
        return not (written and is_applied(conf, state))

    def _of_iotedge(self) -> list[Step]:
        conf, state, who = self.device.conf, self.device.state, self.device.who
        return [aziot.configuration(conf, state, who), registration(conf, state, who)]

    def _configuration(self) -> Iterator[str]:
        if not self._behind():
            return
        if not self.dry:
            for step in self._of_iotedge():
                plan.at(step, partial(plan.converge, step))
        yield f"IoT Edge {'would be' if self.dry else 'was'} told of another configuration"

    # --- IoT Edge's own certificates ---

    def _healed(self) -> Iterator[str]:
        judged, units = self.seen.certificates, self.seen.units
        return self._helped(remedies.heal(self._helper(), judged, units, services.moment()))

    def _awakened(self) -> Iterator[str]:
        """The LDevID has come back: IoT Edge could not help itself before."""
        judged = self.seen.certificates
        return self._helped(remedies.awaken(self._helper(), judged, services.moment()))

    def _helper(self) -> remedies.Device:
        device = self.device
        return remedies.Device(device.conf, device.tpm, device.state, self.known, self.dry)

    def _helped(self, outcome: remedies.Outcome) -> Iterator[str]:
        self.problem = self.problem or outcome.problem  # in the journal already
        yield from outcome.said

    # --- bytes ---

    def data(self) -> dict[str, int]:
        """Of this day (UTC), this run's with it."""
        return {**self._spent(), "limit": self.device.conf.health.data_limit}

    def _spent(self) -> dict[str, int]:
        kept, now = self.known.traffic, traffic.traffic()
        today = kept if kept.get("day") == f"{self.seen.at:%Y-%m-%d}" else {}
        earlier = {name: int(today.get(name, 0)) for name in ("sent", "received")}
        return {"sent": earlier["sent"] + now.sent, "received": earlier["received"] + now.received}

    def remember(self) -> None:
        """For the next run; a day without traffic needs no line."""
        spent = self._spent()
        if any(spent.values()):
            self.known.traffic = {"day": f"{self.seen.at:%Y-%m-%d}", **spent}
        self.known.trouble = self.problem.code if self.problem else ""

    def _may_ask(self, *, late: bool) -> None:
        """Raises DataLimit; a device that would be lost is worth more than what its bytes cost."""
        limit, spent = self.device.conf.health.data_limit, sum(self._spent().values())
        if not limit or spent < limit:
            return
        why = f"{spent} bytes were sent and received today, and {limit} are allowed"
        if not late:
            raise DataLimit(f"cannot ask a server: {why}")
        log.warning("%s; going on all the same: it is late", why)
