"""One file for each thing that must be true of this device."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One thing that must be true.

    `done` examines the world (TPM, token, file): the evidence, or None if there is something to do.
    It is local, cheap and changes nothing; where the world holds what we must not touch, it raises
    an AgentError. `apply` makes it true, converging from wherever an earlier run was cut off.
    `after_us`: it needs services that systemd starts once we say that we are ready.
    """

    name: str
    done: Callable[[], str | None]
    apply: Callable[[], None]
    after_us: bool = False
