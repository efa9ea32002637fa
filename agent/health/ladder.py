"""When something is done about a certificate or a service of IoT Edge's that is stuck; pure.

A ladder of remedies, each only after the milder one had its time; and a budget, so that no loop can
come of it. Both count in seconds that this device is known to have lived: what CLOCK_BOOTTIME says
within a boot, and from zero within the next. That is never more than has really passed, whatever
the wall clock is set to, how often the device is restarted, and how long it lay in a drawer: so at
most so many interventions fall into any 24 hours. And a day of uptime later all are free again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from agent.moment import Moment

Rung = Literal["wait", "restart", "reprovision", "remove"]
RUNGS: tuple[Rung, ...] = get_args(Rung)
DAY = 24 * 3600.0
LONGEST = 2.0**33  # seconds; nothing lives for 272 years


@dataclass(frozen=True)
class Trouble:
    """Something that is stuck: `patience`, in seconds, is what a remedy is given before the next;
    `rungs`: those that can help at all, mildest first; `again`: seconds from the last of them until
    all begins anew."""

    name: str
    patience: float
    rungs: Sequence[Rung] = RUNGS
    again: float = DAY


@dataclass
class Case:
    """A trouble that is being dealt with: the last rung that was taken, and when (seconds lived).

    `mark`: not None while that is being done: what the world was like before, so that whoever comes
    after a kill can tell what is left to do. `told`: why nothing is done at present, as it was told
    last, so that it is told once.
    """

    rung: Rung
    since: float
    mark: dict[str, str] | None = None
    told: str = ""


@dataclass
class Ladder:
    """`lived`: seconds, up to `boot_id` and `uptime`. `spent`: when each intervention was begun.
    `restarts`: how often systemd had started each service anew when it was last looked at.
    `asked`: what came of the question whether it is IoT Edge's fault, if that failed (question.py);
    it is the same for all cases."""

    lived: float = 0.0
    boot_id: str = ""
    uptime: float = 0.0
    spent: list[float] = field(default_factory=list)
    cases: dict[str, Case] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)

    def tick(self, now: Moment) -> None:
        """It is now; what was spent a day ago or more is forgotten."""
        before = self.uptime if now.boot_id == self.boot_id else 0.0
        self.lived += max(0.0, now.uptime - before)
        self.boot_id, self.uptime = now.boot_id, max(before, now.uptime)
        self.spent = [at for at in self.spent if self.lived - at < DAY]

    def see(self, troubles: Sequence[Trouble]) -> list[str]:
        """These are stuck now, and nothing else is: cases of what is not are closed, and named."""
        names = {each.name for each in troubles}
        closed = [name for name in self.cases if name not in names]
        for name in closed:
            del self.cases[name]
        for name in names - self.cases.keys():
            self.cases[name] = Case("wait", self.lived)
        self.asked = self.asked if self.cases else {}
        return closed

    def turn(self, troubles: Sequence[Trouble]) -> tuple[Trouble, Rung] | None:
        """Whose turn it is, and the rung: the mildest, of these who has waited longest, then the
        first. None: all have to be waited for. One remedy at a time: until it had its time, nothing
        is done about others."""
        if any(self._at_work(each) for each in troubles):
            return None
        turns = [(each, self.next(each)) for each in troubles if self.left(each) <= 0]
        return min(turns, key=self._order, default=None)

    def _order(self, turn: tuple[Trouble, Rung]) -> tuple[int, float]:
        return RUNGS.index(turn[1]), self.cases[turn[0].name].since

    def next(self, trouble: Trouble) -> Rung:
        """After the last rung, when it had its time, all begins again."""
        taken = RUNGS.index(self.cases[trouble.name].rung)
        later = [rung for rung in trouble.rungs if RUNGS.index(rung) > taken]
        return later[0] if later else next(rung for rung in trouble.rungs if rung != "wait")

    def left(self, trouble: Trouble) -> float:
        """Seconds until the next rung may be taken, 0 or less if it may."""
        case = self.cases[trouble.name]
        exhausted = RUNGS.index(case.rung) >= RUNGS.index(trouble.rungs[-1])
        return case.since + (trouble.again if exhausted else trouble.patience) - self.lived

    def _at_work(self, trouble: Trouble) -> bool:
        case = self.cases[trouble.name]
        return case.rung != "wait" and self.lived - case.since < trouble.patience

    def free(self, limit: int) -> bool:
        """One more intervention is within the `limit` per day."""
        return len(self.spent) < limit

    def until_free(self, limit: int) -> float:
        """Seconds until then, if the device is on."""
        return 0.0 if self.free(limit) else sorted(self.spent)[-limit] + DAY - self.lived

    def begin(self, name: str, rung: Rung, mark: dict[str, str]) -> None:
        """The intervention is spent, and begun: to be kept on disk before anything is done."""
        self.spent.append(self.lived)
        self.cases[name] = Case(rung, self.lived, mark)

    def end(self, name: str) -> None:
        """It is done, whatever came of it; its time begins now."""
        self.cases[name].mark, self.cases[name].since = None, self.lived

    def unfinished(self) -> list[tuple[str, Case]]:
        """What was begun, and cut off."""
        return [(name, case) for name, case in self.cases.items() if case.mark is not None]

    # --- kept ---

    def as_json(self) -> dict[str, Any]:
        """Without the time if nothing depends on it: what does not change need not be written."""
        if self.cases or self.spent:
            return asdict(self)
        return {"restarts": dict(self.restarts)} if self.restarts else {}


def of_json(kept: Mapping[str, Any]) -> Ladder:
    """What `as_json` made; of anything else, a new one."""
    try:
        cases = {name: Case(**case) for name, case in kept.get("cases", {}).items()}
        rest = {each.name: kept[each.name] for each in fields(Ladder) if each.name in kept}
        made = Ladder(**{**rest, "cases": cases})
        return made if _sound(made) else Ladder()
    except (TypeError, AttributeError):
        return Ladder()


def _sound(ladder: Ladder) -> bool:
    lived = [ladder.uptime, *ladder.spent, *(case.since for case in ladder.cases.values())]
    return (
        _number(ladder.lived, LONGEST)
        and all(_number(each, ladder.lived) for each in lived)
        and isinstance(ladder.boot_id, str)
        and isinstance(ladder.spent, list)
        and all(map(_sound_case, ladder.cases.values()))
        and all(_number(each, LONGEST) for each in ladder.restarts.values())
        and isinstance(ladder.asked, dict)
    )


def _sound_case(case: Case) -> bool:
    texts = [case.told, *(case.mark or {}).values()]
    return case.rung in RUNGS and all(isinstance(each, str) for each in texts)


def _number(value: object, most: float) -> bool:
    """Which NaN is not, either."""
    return type(value) in (int, float) and 0 <= value <= most  # type: ignore[operator]
