"""The device that is looked after, and what is seen of it at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from agent.config import Config
from agent.errors import AgentError
from agent.health import certd
from agent.health.judge import Judged
from agent.health.services import Unit
from agent.state import State
from agent.steps import preflight
from agent.tpm import Tpm


@dataclass(frozen=True)
class Device:
    conf: Config
    tpm: Tpm
    state: State

    @cached_property
    def id(self) -> str:
        return preflight.who(self.conf, self.tpm)

    def who(self) -> str:
        return self.id


@dataclass(frozen=True)
class Look:
    """What is seen at one moment. `units`: as systemd has them, if it can be asked. `trouble`: what
    kept some of it from being looked at."""

    at: datetime
    certificates: list[Judged]
    units: Mapping[str, Unit] = field(default_factory=dict)
    trouble: AgentError | None = None

    def of(self, name: str) -> Judged | None:
        return next((each for each in self.certificates if each.name == name), None)

    def of_iotedge(self) -> list[Judged]:
        return [each for each in self.certificates if each.by in certd.UNITS and each.needed]
