"""One step, brought to its end: look, act, look again."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from agent import journal
from agent.errors import AgentError
from agent.events import STEP_ALREADY_DONE, STEP_DONE, Event
from agent.steps import Step

T = TypeVar("T")


def at(step: Step, act: Callable[[], T]) -> T:
    """An AgentError leaves with the name of its step."""
    try:
        return act()
    except AgentError as e:
        e.step = step.name
        raise


def complete(steps: Iterable[Step]) -> None:
    """Each is done afterwards, without a word where all goes well. Raises what one fails of."""
    for step in steps:
        at(step, partial(converge, step))


def converge(step: Step) -> tuple[Event, str, str]:
    """It is done afterwards: the event, in words, and the evidence. Raises what it fails of."""
    if was := step.done():
        return STEP_ALREADY_DONE, "already done", was
    journal.tell_systemd(f"STATUS={step.name}: at work")
    step.apply()
    if now := step.done():
        return STEP_DONE, "done", now
    raise AgentError(f"cannot complete '{step.name}': applied, but still not done")
