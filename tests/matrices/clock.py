"""Wrong clocks, of devices and of servers: what is told meanwhile, and that nothing is lost by it.

At each point a device runs with a wrong clock (or a right one, and servers that are wrong), and
ends well or tells why it waits; nothing is spent: no certificate that is not used later, no pause
for what was the clock's fault, none of the companion's interventions. Then its clock is put right,
and the same run once more ends well.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.lab import clocks
from tests.lab.clock import Clock
from tests.lab.clock_points import WELL, Outcome, Point, tried
from tests.lab.clock_rows import BIT, CENTURY, POINTS, RENEWALS, RIGHT
from tests.lab.clocks import DAY
from tests.lab.process import TOP
from tests.matrices import Count, Report, Tell

RENEW = 75 * DAY  # after which an LDevID of 90 days is due

# --- everybody lives then, servers and devices ---

SCENES = (
    *(clocks.FIRST, clocks.FIRST_TPM, clocks.EDGE),
    *(clocks.LATER_BOOT, clocks.HEALTH, clocks.TELEMETRY, clocks.TELEMETRY_TPM, clocks.AGAIN_TPM),
)
ERAS = {"2038": BIT, "2050": CENTURY}


def in_an_era(name: str) -> Iterator[tuple[str, Point]]:
    """Before the moment, and after it: by then, some of the devices were provisioned before."""
    for when in ("before", "after"):
        for scene in SCENES:
            what = f"{scene.name}: for everybody it is {when} {ERAS[name]:%Y-%m-%d %H:%M:%S}"
            yield when, Point(what, scene, RIGHT, WELL)


def live(base: Path, era: str, only: str) -> Iterator[Outcome]:
    """In a process that lives then, too."""
    wanted = [(when, point) for when, point in in_an_era(era) if only in point.name]
    if not wanted:
        return
    clock, by_name = Clock(base / "served"), {point.name: point for _, point in wanted}
    clock.jump(ERAS[era] - DAY - clock.now())
    with subprocess.Popen(
        [sys.executable, "-m", "tests.matrices.clock", str(base), era, only],
        env={**os.environ, **clock.environment()},
        stdout=subprocess.PIPE,
        text=True,
        cwd=TOP,
    ) as there:
        for line in there.stdout or ():
            name, status, code, wrong = json.loads(line)
            yield Outcome(by_name[name], status, code, tuple(wrong))
    if there.returncode:
        raise RuntimeError(f"the town of {era} ended with {there.returncode}")


def main(base: Path, era: str, only: str) -> None:
    """Of that process: it says what came of each point, a line of JSON each."""
    with clocks.town(base, ERAS[era] - DAY - Clock.unset()) as town:
        for when, point in in_an_era(era):
            if only not in point.name:
                continue
            if when == "after" and town.right < ERAS[era]:
                town.served.advance(2 * DAY)
            found = tried(town, point)
            said = [point.name, found.status, found.code, found.wrong]
            sys.stdout.write(f"{json.dumps(said)}\n")
            sys.stdout.flush()


# --- all of it ---


def prove(base: Path, tell: Tell, only: str = "") -> Report:
    found: list[Outcome] = []
    for each in outcomes(base, only):
        found.append(each)
        tell(shown(each))
    return report(found)


def outcomes(base: Path, only: str) -> Iterator[Outcome]:
    yield from in_town(
        base / "town", [point for point in (*POINTS, *RENEWALS) if only in point.name]
    )
    for era in ERAS:
        yield from live(base / era, era, only)


def in_town(base: Path, points: Sequence[Point]) -> Iterator[Outcome]:
    if not points:
        return
    with clocks.town(base) as town:
        for point in points:
            if point in RENEWALS:
                clocks.shelf(town, point.scene)  # it is provisioned before
            else:
                yield tried(town, point)
        town.served.advance(RENEW)
        yield from (tried(town, point) for point in points if point in RENEWALS)


def shown(outcome: Outcome) -> str:
    return f"{outcome.point.name}: {outcome.code}{''.join(f'; {each}' for each in outcome.wrong)}"


def _words(outcome: Outcome) -> str:
    if outcome.wrong:
        return f"**wrong**: `{outcome.code}`"
    return "none of it matters" if outcome.code == WELL else f"`{outcome.code}`"


def report(found: list[Outcome]) -> Report:
    kinds: dict[str, list[Outcome]] = {}
    for each in found:
        kinds.setdefault(each.point.scene.name, []).append(each)
    counts = [Count(n, len(all_), sum(not o.wrong for o in all_)) for n, all_ in kinds.items()]
    rows = [f"| {o.point.name} | {_words(o)} |" for o in found]
    head = ["| What is odd | What follows |", "|---|---|"]
    failed = [shown(o) for o in found if o.wrong]
    return Report("Clocks", counts, [*head, *rows], failed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
