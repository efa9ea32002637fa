"""EST servers and provisioning services that misbehave: each way has a name, and the section of the
standard that it breaks or stretches.

A device whose next step is to ask that server asks it. What is looked at: the verdict; memory, over
that of a run in which all goes well; time, against what an exchange may take; that the files of the
device and its TPM are as before, no password is told, and that with good servers it goes on from
there, in one run. An answer that is odd and is accepted has its reason in the table; there the
device gets to its hub.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.lab import (
    hostile_body,
    hostile_certs,
    hostile_dps,
    hostile_est,
    hostile_fields,
    hostile_identity,
    hostile_status,
    hostile_tls,
    hostile_tpm,
)
from tests.lab.factory import Board
from tests.lab.hostile_bench import WELL, Bench, Found, Row, bench
from tests.lab.world import World
from tests.matrices import Count, Report, Tell

GROUPS = {
    "TLS, before there is any and once there is": hostile_tls.ROWS,
    "Server certificates": hostile_identity.ROWS,
    "HTTP: the status": hostile_status.ROWS,
    "HTTP: fields": hostile_fields.ROWS,
    "HTTP: bodies": hostile_body.ROWS,
    "EST: CA certificates, attributes, encodings": hostile_est.ROWS,
    "EST: issued certificates": hostile_certs.ROWS,
    "DPS, asked by certificate": hostile_dps.ROWS,
    "DPS, asked by TPM": hostile_tpm.ROWS,
}
AT_ONCE = 2
HEAD = (
    "| What the server does | Of | Exit | Code | Why it is accepted | Memory, MB | Seconds |",
    "|---|---|---:|---|---|---:|---:|",
)
Results = dict[str, tuple[Found, list[str]]]


def every(only: str = "") -> dict[str, list[Row]]:
    """The rows by their groups; all that have this in their name."""
    found = {g: [r for r in rows if only in named(g, r)] for g, rows in GROUPS.items()}
    return {group: rows for group, rows in found.items() if rows}


def named(group: str, row: Row) -> str:
    return f"{group}: {row.what}"


def wrong(row: Row, found: Found) -> list[str]:
    """What did not come out as it should."""
    told = [] if found.verdict == (row.status, row.code) else [f"{found.verdict}: {found.said}"]
    return [*told, *found.odd]


def line(row: Row, found: Found) -> str:
    code = f"`{found.code}`" if found.code else ""
    cost = (f"{found.cost.kilobytes / 1024:.0f}", f"{found.cost.seconds:.1f}")
    cells = (row.what, row.of, str(found.status), code, row.why, *cost)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def prove(base: Path, tell: Tell, only: str = "") -> Report:
    groups, results = every(only), Results()
    points = [(named(group, row), row) for group, rows in groups.items() for row in rows]
    waiting: queue.SimpleQueue[tuple[str, Row]] = queue.SimpleQueue()
    for point in sorted(points, key=lambda point: not point[1].slow):  # those first
        waiting.put(point)
    with World(base / "world", hub=True) as world:
        world.dps.behave(**WELL)
        for virgin in (True, False):  # now: two cannot make the same one at a time
            world.board(Board(virgin=virgin))
        names = [f"bench-{n}" for n in range(min(AT_ONCE, len(points)))]
        workers = [
            threading.Thread(target=_work, args=(base / name, world, waiting, results, tell))
            for name in names
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return _report(groups, results)


def _work(
    directory: Path,
    world: World,
    waiting: "queue.SimpleQueue[tuple[str, Row]]",
    results: Results,
    tell: Tell,
) -> None:
    with bench(directory, world) as here:
        while not waiting.empty():
            try:
                name, row = waiting.get_nowait()
            except queue.Empty:  # the other was faster
                return
            results[name] = found = _tried(here, row)
            if found[1]:
                tell(f"{name}: {'; '.join(found[1])}")
            elif len(results) % 50 == 0:
                tell(f"{len(results)} ways tried")


def _tried(here: Bench, row: Row) -> tuple[Found, list[str]]:
    found = here.tried(row)
    return found, wrong(row, found)


def _report(groups: dict[str, list[Row]], results: Results) -> Report:
    counts = [
        Count(group, len(rows), sum(_passed(results, named(group, row)) for row in rows))
        for group, rows in groups.items()
    ]
    failed = [f"{name}: {'; '.join(odd)}" for name, (_, odd) in results.items() if odd]
    failed += [
        f"{named(group, row)}: not tried"
        for group, rows in groups.items()
        for row in rows
        if named(group, row) not in results
    ]
    return Report("Hostile servers", counts, list(_table(groups, results)), failed)


def _passed(results: Results, name: str) -> bool:
    return name in results and not results[name][1]


def _table(groups: dict[str, list[Row]], results: Results) -> Iterator[str]:
    yield from _most([found for found, _ in results.values()])
    for group, rows in groups.items():
        yield f"### {group}"
        yield from HEAD
        for row in rows:
            if named(group, row) in results:
                yield line(row, results[named(group, row)][0])


def _most(found: Sequence[Found]) -> Iterator[str]:
    if found:
        memory = max(each.cost.kilobytes for each in found) / 1024
        seconds = max(each.cost.seconds for each in found)
        accepted = sum(each.status == 0 for each in found)
        yield (
            f"{len(found)} ways, of which {accepted} are accepted. At most {memory:.0f} MB more "
            f"than a quiet run, and {seconds:.0f} seconds."
        )
