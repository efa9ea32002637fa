"""What else is odd where a clock is wrong: servers that say another time, or whose certificates are
not valid; clocks that are set in the midst of something; what is kept of the time.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from agent.clock import Bound, Times
from agent.state import State
from tests.lab.clocks import DAY, WELL, YEAR, Adrift, Town
from tests.lab.relay import Relay, Said
from tests.lab.world import USER

Odd = Callable[[Town, Adrift], AbstractContextManager[None]]


def nothing(town: Town, device: Adrift) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


@dataclass(frozen=True)
class Jump:
    """`at`: "handshake", in the midst of the first one; else a word in the path of a request, which
    has not come yet. `by`: how far the clock of the device is set forward."""

    at: str
    by: timedelta


def before_est(
    date: Said = lambda said: said,
    *,
    starts: timedelta = -30 * DAY,
    lasts: timedelta = YEAR,
    jump: Jump | None = None,
) -> Odd:
    """In front of the EST server, with a certificate of its own that is valid from `starts` on,
    counted from what time it is."""

    @contextmanager
    def odd(town: Town, device: Adrift) -> Iterator[None]:
        site, trust = town.world.owner_est, town.world.tls.trust
        with Relay(town.tls(starts, lasts), site.port, trust, date) as relay:
            _jump(town, relay, jump)
            url = f"{relay.url}/.well-known/est/basic"
            device.configure({"ldevid": {"est": {"url": url, "username": USER}}})
            try:
                yield
            finally:
                device.configure({})

    return odd


def before_dps(
    date: Said = lambda said: said,
    *,
    starts: timedelta = -30 * DAY,
    lasts: timedelta = YEAR,
    jump: Jump | None = None,
) -> Odd:
    """In front of DPS, the same; it assigns at the second poll."""

    @contextmanager
    def odd(town: Town, device: Adrift) -> Iterator[None]:
        dps = town.world.dps
        with Relay(town.tls(starts, lasts), dps.port, town.world.tls.trust, date) as relay:
            _jump(town, relay, jump)
            dps.behave(polls=2, retry_after=0)
            device.configure({"dps": {"endpoint": relay.url}})
            try:
                yield
            finally:
                device.configure({})
                dps.behave(**WELL)

    return odd


def _jump(town: Town, relay: Relay, jump: Jump | None) -> None:
    if jump is None:
        return
    act = once(lambda: town.clock.jump(jump.by))
    if jump.at == "handshake":
        relay.heard = act
    else:
        relay.asked = lambda path: act() if jump.at in path else None


# --- what came before ---


def told_to_come_back(town: Town, device: Adrift) -> AbstractContextManager[None]:
    """202, with Retry-After; that time has passed."""
    server = town.world.owner_server
    server.behave("pending", "simpleenroll", retry_after=60)
    done = town.ready(device, "provision")
    assert "[est-pending]" in done.stderr, done.stderr
    server.behave()
    town.served.advance(timedelta(minutes=2))
    return contextlib.nullcontext()


def boots(times: int, at: Callable[[datetime], datetime]) -> Odd:
    """Each time with the same time on its clock, that has no battery."""

    def odd(town: Town, device: Adrift) -> AbstractContextManager[None]:
        for _ in range(times):
            town.set(at(town.right))
            town.ready(device, "provision")
        return contextlib.nullcontext()

    return odd


def kept(by: timedelta) -> Odd:
    """What an earlier run was told, while its clock said no less: so much later than now."""

    def odd(town: Town, device: Adrift) -> AbstractContextManager[None]:
        Times(State(device.state).clock).put(Bound(town.right + by, "another.example"))
        return contextlib.nullcontext()

    return odd


def damaged(how: Callable[[str], str]) -> Odd:
    """What was kept, by whatever happens to files."""

    def odd(town: Town, device: Adrift) -> AbstractContextManager[None]:
        file = State(device.state).clock
        Times(file).put(Bound(town.right, "another.example"))
        file.write_text(how(file.read_text()))
        return contextlib.nullcontext()

    return odd


def forgotten(town: Town, device: Adrift) -> AbstractContextManager[None]:
    """rm /var/lib/tpm2cloud/clock.json"""
    State(device.state).clock.unlink()
    return contextlib.nullcontext()


def once(act: Callable[[], object]) -> Callable[[], None]:
    left = [act]

    def do() -> None:
        if left:
            left.pop()()

    return do
