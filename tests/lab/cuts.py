"""Cut off again and again: at places of one scene, by several workers, each with a device of its
own; and how each time ended.

The agent alone is killed, and all else goes on; or the power fails: the agent, what it started,
IoT Edge's services and the TPM are gone at once. A TPM that is at work at that moment has or has
not done what it was told, and which of the two, nobody can say: both are tried, for the one is what
is there just before the request, and the other what is there before the next effect.
"""

import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

from tests.lab.crash import Place


@dataclass(frozen=True)
class Moment:
    """So long after something that is of another program, or of another thread, has begun."""

    seconds: float

    def __str__(self) -> str:
        return f"{self.seconds:.3f} s into it"


At = Place | Moment


@dataclass(frozen=True)
class Cut:
    """Where; and whether the power fails, too."""

    at: At
    power: bool

    def __str__(self) -> str:
        return f"{self.at}, {'power' if self.power else 'kill'}"


class Actor(Protocol):
    """A scene on a device that can be put back to where it begins; it has been played once, with
    nobody to disturb it."""

    @property
    def places(self) -> Sequence[Place]: ...

    def survives(self, cut: Cut) -> bool:
        """Whether it was cut off just there; raises what went wrong."""

    def said(self) -> str:
        """The last words of whoever else was on the device."""


@dataclass(frozen=True)
class Ended:
    """`just`: it was cut off just there. `told`: what went wrong, if anything."""

    cut: Cut
    just: bool
    told: str


def both(places: Sequence[At]) -> list[Cut]:
    return [Cut(at, power) for at in places for power in (False, True)]


def survive(
    actors: Sequence[Actor], cuts: Sequence[Cut], tell: Callable[[Ended], None] = lambda _: None
) -> list[Ended]:
    """All that went wrong is found, not the first alone; `tell` hears of each when it has ended."""
    free: SimpleQueue[Actor] = SimpleQueue()
    for each in actors:
        free.put(each)

    def one(cut: Cut) -> Ended:
        actor = free.get()
        try:
            ended = Ended(cut, actor.survives(cut), "")
        except Exception:  # told by the caller, with all others
            ended = Ended(cut, False, f"--- {cut}:\n{traceback.format_exc()}\n{actor.said()}")
        finally:
            free.put(actor)
        tell(ended)
        return ended

    with ThreadPoolExecutor(len(actors)) as workers:
        return list(workers.map(one, cuts))


def summary(ended: Sequence[Ended]) -> str:
    """In words; raises AssertionError with all that went wrong."""
    failed = [each.told for each in ended if each.told]
    assert not failed, f"{len(failed)} of {len(ended)}:\n" + "\n".join(failed)
    power, there = sum(each.cut.power for each in ended), sum(each.just for each in ended)
    kills = f"{len(ended) - power} kills and {power} power cuts"
    return f"{kills}, {there} just where they should be: all survived"
