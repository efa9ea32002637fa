"""Every fault that we could think of: what the agent says, what `check` says, and that the device
provisions once somebody has done what they are told."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.lab import canaries
from tests.lab.dps_faults import steady
from tests.lab.fault import Case, Row, Said, Town
from tests.lab.fault_rows import ROWS
from tests.matrices import Count, Report, Tell

NONE = "nothing"
WORKERS = 4  # most of the time they wait
TABLE = (
    "| What is wrong | Device | `provision` | `check` | Alone | Remedy | What the test did then |",
    "|---|---|---|---|---|---|---|",
)
CONFUSION = ("| Expected of `check` | Faults | Given |", "|---|---:|---|")


@dataclass(frozen=True)
class Outcome:
    """Of one fault. `alone`: what `check` says before any run, when no failure is remembered that
    it could repeat; `before`: after the run that `stopped`; `after`: after that which `healed`."""

    row: Row
    alone: Said
    stopped: Said
    before: Said
    healed: Said
    after: Said
    leaks: Sequence[str]

    def wrong(self) -> Iterator[str]:
        row, stopped, before = self.row, self.stopped, self.before
        if stopped.code != row.code or not stopped.status:
            yield f"provision: {stopped.code or NONE}, not {row.code}:\n{words(stopped)}"
        if before.code != row.expected:
            yield f"check: {before.code or NONE}, not {row.expected}:\n{shown(before)}"
        if not re.search(row.told, self.remedy):
            yield f"the remedy does not tell '{row.told}': {self.remedy}"
        if self.healed.status:
            yield f"it does not provision afterwards:\n{words(self.healed)}"
        elif self.after.code:
            yield f"check: {self.after.code}, though it is provisioned:\n{shown(self.after)}"
        if not self.alone.status:
            yield "check sees nothing wrong with a device that is not provisioned"
        yield from (f"a secret {leak}" for leak in self.leaks)

    @property
    def remedy(self) -> str:
        return self.before.remedy or self.stopped.remedy


def shown(said: Said) -> str:
    """What is not fine in a JSON of `check`."""
    return said.text[: said.text.find('"probes"')]


def words(said: Said) -> str:
    """What a person would read of it, the end."""
    lines = said.text[-4000:].splitlines()
    noise = re.compile(r"$|[A-Z_]+=(?<!MESSAGE=)|TPM2?CLOUD_|MESSAGE$")
    return "\n".join(line for line in lines if not noise.match(line))[-1500:]


def tried(town: Town, row: Row) -> Outcome:
    with town.case(row) as case:
        person = row.fault(case)
        next(person)
        alone, stopped, before = case.check(), case.provision(), case.check()
        if next(person, "done") != "done":
            raise AssertionError(f"{row.name}: a fault yields once")
        healed, after = case.provision(*retried(case)), case.check()
        found = list(canaries.leaks(case.device, case.secrets, case.said))
        return Outcome(row, alone, stopped, before, healed, after, found)


def retried(case: Case) -> Sequence[str]:
    """A person does not wait until a device asks DPS again by itself."""
    return ["--reregister"] if (case.device.state / "turn.json").exists() else []


def prove(base: Path, tell: Tell, only: str = "") -> Report:
    rows = [row for row in ROWS if only in row.name]
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(WORKERS))
        towns: SimpleQueue[Town] = SimpleQueue()
        for n in range(WORKERS):
            towns.put(stack.enter_context(Town(base / str(n))))
        found = list(pool.map(lambda row: told(towns, row, tell), rows))
    outcomes = [each for each in found if isinstance(each, Outcome)]
    failed = [each for each in found if isinstance(each, str)]
    for outcome in outcomes:
        failed += [f"{outcome.row.name}: {what}" for what in outcome.wrong()]
    lines = [*confusion(outcomes), *table(outcomes)]
    return Report("Faults", counts(rows, outcomes), lines, failed)


def told(towns: "SimpleQueue[Town]", row: Row, tell: Tell) -> Outcome | str:
    town = towns.get()
    try:
        found = tried(town, row)
    except Exception as e:
        tell(f"{row.name}: {e!r}")
        return f"{row.name}: {e!r}"
    finally:
        towns.put(town)
    wrong = list(found.wrong())
    head = f"{'FAILED' if wrong else 'ok'}  {row.name}: {found.stopped.code}, {found.before.code}"
    tell("\n    ".join([head, *wrong]))
    return found


def counts(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> list[Count]:
    def count(what: str, passed: int) -> Count:
        return Count(what, len(rows), passed)

    code = sum(each.stopped.code == each.row.code for each in outcomes)
    verdict = sum(each.before.code == each.row.expected for each in outcomes)
    healed = sum(not each.healed.status and not each.after.code for each in outcomes)
    secret = sum(not each.leaks for each in outcomes)
    return [
        count("faults that stop a first boot with the true code", code),
        count("faults of which check gives the one right verdict", verdict),
        count("faults whose remedy makes the device provision, and check content", healed),
        count("faults in which no secret shows anywhere", secret),
    ]


def confusion(outcomes: Sequence[Outcome]) -> list[str]:
    """The matrix, without its zeros."""
    given: dict[str, Counter[str]] = {}
    for each in outcomes:
        given.setdefault(each.row.expected, Counter())[each.before.code or NONE] += 1
    lines = [
        f"| `{code}` | {found.total()} | {', '.join(f'`{c}` {n}' for c, n in found.items())} |"
        for code, found in sorted(given.items())
    ]
    return [*CONFUSION, *lines, "<!-- and the faults -->"]


def told_of(remedy: str) -> str:
    """Without what is another each time."""
    text = re.sub(r"/[^ ']*/case\d+/", ".../", remedy)
    return steady(re.sub(r"case-\d+", "NAME", text))


def seen(outcome: Outcome) -> str:
    return "yes" if outcome.alone.code == outcome.row.expected else "no"


def table(outcomes: Sequence[Outcome]) -> list[str]:
    lines = []
    for each in outcomes:
        row, stopped = each.row, each.stopped
        cells = (row.name, row.on, f"{stopped.status} `{stopped.code}`", f"`{each.before.code}`")
        text = [*cells, seen(each), told_of(each.remedy), row.does]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in text)} |")
    return [*TABLE, *lines]
