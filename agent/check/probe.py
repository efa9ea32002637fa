"""One look at one thing that a provisioning needs."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Probe:
    """One thing that must be well for this device to be provisioned.

    `look` changes nothing, here or at a server, ends in bounded time, and gives its evidence, or
    raises the AgentError that a provisioning would end with.
    `after`: names of earlier probes; if one of them is not fine, this one is not looked at, for it
    could only say the same once more.
    """

    name: str
    look: Callable[[], str]
    after: tuple[str, ...] = ()
