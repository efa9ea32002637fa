"""What is looked at, causes before their effects; and the one verdict that comes of it."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from agent import plan
from agent.check import certificates, chip, dps, edge, est, hub, network, surroundings
from agent.check.left import LAST, Plan
from agent.check.probe import Probe
from agent.config import Config
from agent.errors import AgentError, NoPermission, ReadOnly
from agent.state import State
from agent.tpm import Tpm

Who = Callable[[], str]
FINE, WAITS, WRONG, UNKNOWN = 0, 3, 4, os.EX_NOPERM
Verdict = Literal["fine", "waits", "wrong", "unknown", "not looked at"]
STATUS: dict[str, int] = {"waits": WAITS, "wrong": WRONG, "unknown": UNKNOWN}


@dataclass(frozen=True)
class Found:
    """What came of a probe: 'fine' with its evidence; 'waits' (what is wrong is tried again by
    itself), 'wrong' (a person is needed) or 'unknown' (this user may not see it), each with a code
    and a remedy; or 'not looked at', after another that is not fine."""

    probe: str
    state: Verdict
    detail: str
    code: str | None = None
    remedy: str | None = None


def examine(probes: Iterable[Probe]) -> list[Found]:
    """Each, in its turn; one after another that is not fine is left out."""
    found: dict[str, Found] = {}
    for probe in probes:
        found[probe.name] = _after(probe, found) or _look(probe)
    return list(found.values())


def _after(probe: Probe, found: dict[str, Found]) -> Found | None:
    for name in probe.after:
        if name in found and found[name].state != "fine":
            return Found(probe.name, "not looked at", f"after {name}")
    return None


def _look(probe: Probe) -> Found:
    try:
        return Found(probe.name, "fine", probe.look())
    except AgentError as e:
        return Found(probe.name, _state(e), str(e), e.code, e.remedy)


def _state(e: AgentError) -> Verdict:
    if isinstance(e, NoPermission) and not isinstance(e, ReadOnly) and os.geteuid() != 0:
        return "unknown"
    return "waits" if e.status == os.EX_TEMPFAIL else "wrong"


def verdict(found: Sequence[Found]) -> Found | None:
    """The first that is not fine: what comes after it may come of it. None if all is well."""
    return next((each for each in found if each.state in STATUS), None)


def also(found: Sequence[Found]) -> list[Found]:
    """What else is not fine, each code once: it may be the same thing in other words."""
    others = {each.code: each for each in reversed(found) if each.state in STATUS}
    first = verdict(found)
    if first is not None:
        others.pop(first.code)
    return list(reversed(others.values()))


def status(found: Sequence[Found]) -> int:
    """Of the process: 0 nothing wrong, 3 it is tried again by itself, 4 a person is needed, 77 this
    user may not see what is needed to tell."""
    first = verdict(found)
    return FINE if first is None else STATUS[first.state]


def probes(conf: Config, tpm: Tpm, state: State, who: Who) -> Iterator[Probe]:
    """In the order of causes; what comes late may depend on what came of the probes before."""
    yield from surroundings.probes(conf, state)
    ours = Plan(state, partial(plan.plan, conf, tpm, state))
    yield from surroundings.token(conf)
    if conf.for_edge:
        yield edge.file(conf)
    yield from _part("tpm", lambda: chip.probes(conf, tpm))
    yield from _part("steps", ours.first)
    for name, part in {"proxy": network, "est": est, "dps": dps, "hub": hub}.items():
        yield from _part(name, partial(part.probes, conf, tpm, state, who))
    yield from _part("steps", ours.last)
    yield surroundings.lock(state)
    yield Probe("last-run", ours.failure)
    if conf.for_edge:
        yield from edge.probes(conf, state, who, asked=LAST not in ours.left)
    yield from certificates.probes(conf, tpm, state)
    yield Probe("provisioned", ours.whole)


def _part(name: str, make: Callable[[], Iterator[Probe]]) -> Iterator[Probe]:
    """Where it cannot even be told what there is to look at, that is what is found."""
    try:
        yield from make()
    except AgentError as e:
        yield Probe(name, partial(_told, e))


def _told(e: AgentError) -> str:
    raise e
