"""The power fails, on a disk that forgets what was not synced.

Scenes: first boots with IoT Edge and without, by X.509 and by TPM, also where no directory of ours
is there yet; another registration; a disk that comes into another board; the factory step; what the
companion does about the LDevID. Each is run once, and stopped after every system call that changes
a file, and after every TPM command. At each of these moments a model (tests/lab/disk.py) tells what
POSIX allows to be found on the disk: names that were made, taken away or exchanged since their
directory was synced are as before or as after, each for itself; data that was not synced is lost,
or there in part (sectors of 512 bytes, pages of 4096), or the file has its size and nothing in it.

Each such disk is put into the device, with the TPM as it was at that very moment, and IoT Edge's
own files, which are its own affair. Left out is only what is as if nothing had been forgotten (of
that the kill matrix is made), what was tried already, and what differs from that only in what
nobody reads: files that are not in their place yet.

Each time, before anything else runs, the files tell of nothing that is not so (tests/lab/instant.py
as with the kill matrix). Then the next run ends as if nothing had happened, and the one after it
has nothing to do; of certificates of each CA and of registrations there is at most one more than
was needed.
"""

import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import crash
from tests.lab.disk_plays import FIRST, Act, lived
from tests.lab.disk_stage import Stage
from tests.lab.disk_trace import Point
from tests.matrices import Count, Report, Tell

TITLE = "The power gone, on a disk that forgets"
KINDS = {
    "names and data": lambda name: "not " in name and "data kept" not in name,
    "names": lambda name: "not " in name and "data kept" in name,
    "data": lambda name: "not " not in name,
}
Choose = Callable[[Sequence[Point]], Sequence[Point]]


@dataclass
class Outcome:
    """Of one act: what was tried, what of it passed, and what went wrong with the rest."""

    act: str
    tried: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @contextmanager
    def told(self, stage: Stage, point: str, tell: Tell) -> Iterator[None]:
        """Whatever goes wrong, with all others."""
        try:
            yield
        except Exception as e:
            why = "".join(traceback.format_exception(e)[-3:])
            edge = crash.iotedge_said(stage.play.device.directory)[-500:]
            self.failed.append(f"{self.act}: {point}: {why}\n{edge}")
            tell(self.failed[-1])

    def row(self) -> str:
        kinds = [str(sum(map(is_of, self.tried))) for is_of in KINDS.values()]
        return f"| {self.act} | {' | '.join(kinds)} | {len(self.passed)} of {len(self.tried)} |"


def prove(base: Path, tell: Tell, only: str = "") -> Report:
    """`only`: a part of the names of acts, or else of points: "rename", "TPM: rename"."""
    all_acts = [FIRST, lived()]
    named = any(only in act.name for group in all_acts for act in group)
    of = only if named else only.rpartition(": ")[0]
    groups = [[act for act in group if of in act.name] for group in all_acts]

    def chosen(points: Sequence[Point]) -> Sequence[Point]:
        wanted = "" if named else only.rpartition(": ")[2]
        return [each for each in points if wanted in each.name]

    with ThreadPoolExecutor(len(groups)) as workers:
        futures = [
            workers.submit(lambda *of: list(played(*of)), group, base / str(n), chosen, tell)
            for n, group in enumerate(groups)
        ]
        found = [
            outcome
            for future in futures
            for outcome in future.result()
            if outcome.tried or outcome.failed
        ]
    head = [f"| Scene | Forgotten: {' | '.join(KINDS)} | Passed |", f"|---|{'---:|' * 4}"]
    counts = [Count(each.act, len(each.tried), len(each.passed)) for each in found]
    failed = [told for each in found for told in each.failed]
    return Report(TITLE, counts, [*head, *(each.row() for each in found)], failed)


def played(acts: Sequence[Act], base: Path, choose: Choose, tell: Tell) -> Iterator[Outcome]:
    """One after the other."""
    with ExitStack() as whole:
        for number, act in enumerate(acts):
            here = base / str(number)
            here.mkdir(parents=True)
            with ExitStack() as own:
                stack, at = (whole, base) if act.goes_on else (own, here)
                stage = Stage(act.play(act.name, stack, at), here / "scratch")
                yield _played(act.name, stage, choose, tell)


def _played(name: str, stage: Stage, choose: Choose, tell: Tell) -> Outcome:
    outcome, points = Outcome(name), list[Point]()
    with outcome.told(stage, "the run that nobody disturbs", tell):
        points += choose(stage.record())
        tell(f"{name}: {len(points)} points")
    for point in points:
        outcome.tried.append(point.name)
        with outcome.told(stage, point.name, tell):
            stage.survives(point)
            outcome.passed.append(point.name)
    tell(f"{name}: {len(outcome.passed)} of {len(points)} passed")
    return outcome
