"""The way back: what deploy made goes, in an order in which nothing is left that nobody pays for.

Only what is configured and has our tag; a resource group that holds anything else stays.
Enrolments, groups and certificates go with the provisioning service, devices and their messages
with the hub.
"""

from collections.abc import Callable
from typing import Any

from agent.operator.resources import Arm, ours
from agent.operator.settings import TAG
from agent.steps import Step

GONE = "gone"


def steps(arm: Arm) -> list[Step]:
    dps, hub = arm.config.dps.name, arm.config.hub.name
    return [
        _step(arm, f"provisioning service {dps}", arm.dps, arm.remove_dps),
        _step(arm, f"iot hub {hub}", arm.hub, arm.remove_hub),
        _last(arm),
    ]


def _step(arm: Arm, name: str, look: Callable[[], Any | None], remove: Callable[[], None]) -> Step:
    def done() -> str | None:
        found = look()
        if found is None:
            return GONE
        return None if ours(found, arm.config) else f"stays: it is not ours (no tag {TAG})"

    return Step(name, done, remove)


def _last(arm: Arm) -> Step:
    """The resource group, if nothing else is in it than what the steps before it remove."""

    def done() -> str | None:
        found = arm.resource_group()
        if found is None:
            return GONE
        if not ours(found, arm.config):
            return f"stays: it is not ours (no tag {TAG})"
        others = arm.others_in_group()
        return f"stays: it also holds {', '.join(others)}" if others else None

    return Step(f"resource group {arm.group}", done, arm.remove_group)
