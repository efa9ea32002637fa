"""Messages to the hub, each until it is acknowledged, through whatever comes in between.

A message is sent again, under the same id, until the hub has acknowledged it: at least once. What
stands in the way is told once, and waited out: from a second, doubled each time, to 5 minutes,
never in step with other devices. A device that the hub refuses tries a fresh token first, for a
clock may have been set; then it asks DPS anew; if that does not help, in 15 minutes again, and less
and less often.
"""

import logging
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent import journal
from agent.backoff import jitter
from agent.errors import (
    MAYBE_THE_CLOCK,
    AgentError,
    HubRefused,
    Later,
    MessageTooLarge,
    NeverProvisioned,
    Refused,
    ResetUnderWay,
    ResetWaits,
    TelemetryUnfinished,
    TlsClientRefused,
    TpmError,
)
from agent.hub import LIMIT
from agent.telemetry_lines import FOREVER, Source, Wake
from agent.telemetry_link import Device, Link
from agent.telemetry_message import Message, Shelf

log = logging.getLogger(__name__)
FIRST, LONGEST = 1.0, 300.0  # seconds to wait before it is tried again
ASK, ASK_LONGEST = 900.0, 86400.0  # seconds between questions at DPS that did not help
STEADY = 60.0  # seconds that a connection lasts before the troubles that it had are forgotten
SOON = 30.0  # seconds; another run may have ended by then, and DPS may be there
PASSING = {Later.status, Refused.status, TpmError.status}  # a TPM is reset, its daemon restarted
NOT_US = (HubRefused, TlsClientRefused)
LET_GO = (ResetUnderWay, ResetWaits)


@dataclass
class Tally:
    """`told`: for a person. Of a pipe it is not known what has not been read yet. `begun`: a line
    without its end. `kept`: what is left of these is sent by the next run."""

    acknowledged: int = 0
    too_large: int = 0
    unfinished: int = 0
    begun: bool = False
    kept: bool = True

    @property
    def told(self) -> str:
        where = "kept for the next run" if self.kept else "not kept"
        more = {
            "too large": self.too_large,
            f"not acknowledged ({where})": self.unfinished,
            f"not ended ({where})": int(self.begun),
        }
        parts = [f"{count} {what}" for what, count in more.items() if count]
        return ", ".join([f"{self.acknowledged} acknowledged", *parts])


@dataclass
class Post:
    """`patience`: seconds to try before it is given up; inf: never, as long as time or somebody
    elsewhere may heal it. `kept_in`: a file, for what was read and is not acknowledged."""

    link: Link
    wake: Wake
    patience: float
    kept_in: Path
    session: str = field(default_factory=lambda: uuid.uuid4().hex)
    tally: Tally = field(default_factory=Tally)
    _failures: int = 0
    _since: float | None = None  # when we last got on, or began to try
    _connected: float | None = None  # since when
    _told: str | None = None
    _refusals: int = 0
    _asked: int = 0
    _not_before: float = 0.0
    _clock: AgentError | None = None  # why DPS could not help, if it is this device's clock
    _hand: Message | None = None
    _let_go: bool = False  # what was read is its owner's, and not for the next one's hub
    _shelf: Shelf = field(init=False)

    def run(self, source: Source) -> Tally:
        """All that `source` has, after what an earlier run has left. Raises what stood in the way;
        TelemetryUnfinished if stopped before (if patience is infinite, only if something is lost by
        that); MessageTooLarge if there was one."""
        self._shelf = Shelf(self.kept_in, source)
        try:
            self._hold(self._shelf.take())
            self._all(source)
        finally:
            self.tally.begun = bool(source.part)
            self.tally.kept = not self._let_go and self._shelf.put(self._hand)
        if not self.wake.stopped:
            return self._end()
        lost = not self.tally.kept or (source.pipe is None and not source.ended)
        if lost or self.patience < FOREVER:
            why = f"it was stopped: {self.tally.told}"
            raise TelemetryUnfinished(f"cannot send all: {why}", hub=self.link.name)
        return self.tally

    def _all(self, source: Source) -> None:
        number = 0
        self._until(lambda: None)
        if self._hand:
            self._one(self._hand)
        while not self.wake.stopped:
            line = source.take()
            if line is not None and line.strip():
                number += 1
                self._one(Message(line, f"{self.session}-{number}"))
            elif line is None and source.ended:
                return
            elif line is None:
                self._shelf.follow(None)
                self.wake.wait(min(source.due(), self.link.due()), source.fd)
                self._until(lambda: None)

    def _end(self) -> Tally:
        if self.tally.too_large:
            why = f"messages of more than {LIMIT} bytes: {self.tally.told}"
            raise MessageTooLarge(f"cannot send all: {why}")
        return self.tally

    def _one(self, message: Message) -> None:
        if len(message.data) > LIMIT:
            self._hold(None)
            self.tally.too_large += 1
            log.warning("cannot send a message of more than %d bytes, skipping it", LIMIT)
            return
        self._hold(message)
        self._shelf.follow(message)
        if self._until(lambda: self.link.send(message.data, message.id, message.kind)):
            self._hold(None)
            self._shelf.follow(None)
            self.tally.acknowledged += 1

    def _hold(self, message: Message | None) -> None:
        self._hand = message
        self.tally.unfinished = int(message is not None)

    # --- through whatever comes in between ---

    def _until(self, act: Callable[[], None]) -> bool:
        """Connected, and `act` went well. False: stopped."""
        while not self.wake.stopped:
            self._since = self._since or now()
            try:
                if self.link.keep():
                    self._ready()
                act()
            except AgentError as e:
                self._trouble(e)
            else:
                self._went_well()
                return True
        return False

    def _went_well(self) -> None:
        self._refusals = self._asked = 0
        self._since = None

    def _ready(self) -> None:
        self._connected = now()
        log.info("connected to %s", self.link.name)
        journal.tell_systemd(f"READY=1\nSTATUS=connected to {self.link.name}")

    def _trouble(self, error: AgentError) -> None:
        """Waits, or raises what cannot be waited for."""
        self.link.close()
        self._let_go = isinstance(error, LET_GO)
        if self._let_go:
            raise error
        self._shelf.put(self._hand)
        self._count()
        try:
            if isinstance(error, NOT_US) and self._something_new():
                return
        except AgentError as e:
            error = e
        if self.wake.stopped:
            return
        if self._hopeless(error):
            raise error
        self._tell(error)
        self.wake.rest(pause(self._failures, self.session))

    def _count(self) -> None:
        """Two who share an identity end each other's connection, so that alone makes none well."""
        if self._connected is not None and now() - self._connected >= STEADY:
            self._failures, self._told = 0, None
        self._connected = None
        self._failures += 1

    def _hopeless(self, error: AgentError) -> bool:
        if error.status not in PASSING:
            return True
        late = now() - (self._since or now()) >= self.patience
        needs_others = isinstance(error, Refused | NeverProvisioned)
        return self.patience < FOREVER and (late or needs_others)

    def _something_new(self) -> bool:
        """The hub said no: there is something else to try at once. Raises what DPS says."""
        self._refusals += 1
        if self._refusals == 1:
            return True
        if now() < self._not_before:
            if self._clock:
                raise self._clock
            return False
        if self._told is None:
            log.warning("%s does not let this device in: DPS is asked anew", self.link.name)
        self._not_before, self._clock = now() + min(ASK * 2**self._asked, ASK_LONGEST), None
        try:
            self.link.register_again()
        except Later as e:
            self._not_before = now() + max(e.seconds or 0, SOON)
            self._clock = e if isinstance(e, MAYBE_THE_CLOCK) else None
            raise
        self._asked += 1
        return True

    def _tell(self, error: AgentError) -> None:
        """Once, until something else happens, or all is well again."""
        journal.tell_systemd(journal.one_line(f"STATUS={error} [{error.code}]"))
        if self._told != error.code:
            self._told = error.code
            about = journal.about(None, **error.fields, code=error.code, remedy=error.remedy)
            log.warning("%s [%s]; trying again", error, error.code, extra=about)


@contextmanager
def posting(device: Device, patience: float) -> Iterator[Post]:
    """From here to the hub; SIGTERM and SIGINT stop it."""
    wake = Wake()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, wake.stop)
    link = Link(device, wake)
    try:
        yield Post(link, wake, patience, device.state.telemetry)
    finally:
        link.close()


def pause(failures: int, seed: str) -> float:
    """Seconds to wait after so many failures in a row (1, 2, ...)."""
    doubled = min(FIRST * (1 << min(failures - 1, 20)), LONGEST)
    return doubled * (0.5 + jitter(f"{seed}\n{failures}".encode()) / 2)


def now() -> float:
    """Of a clock that goes on in a suspended device, and that nobody sets."""
    found: float = time.clock_gettime(time.CLOCK_BOOTTIME)
    return found
