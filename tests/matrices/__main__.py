"""Proves the matrices, prints them with their counts, and keeps what came out in docs.

Exit status: 0 if every point of every matrix passed.
"""

import argparse
import importlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.lab.process import TOP
from tests.matrices import Report

# The matrices, and where in docs their tables are.
PAGES = {
    "kill": "guarantees.md",
    "disk": "guarantees.md",
    "faults": "faults.md",
    "clock": "clock.md",
    "hostile": "hostile-servers.md",
    "fuzz": "guarantees.md",
    "mutations": "guarantees.md",
    "enrolments": "guarantees.md",
}
SUMMARY = "guarantees.md"
HEAD = ("| Matrix | Points | Passed | Tried on | Of | Minutes |", "|---|---:|---:|---|---|---:|")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/prove", description=__doc__)
    parser.add_argument(
        "matrix",
        nargs="*",
        help=f"of {', '.join(PAGES)}; kill=rename is the kill matrix, but only points whose name "
        "has 'rename' in it (docs stay as they are). All, if none is named",
    )
    args = parser.parse_args()
    wanted = dict(_wish(parser, each) for each in args.matrix or PAGES)
    reports = {name: _prove(name, only) for name, only in wanted.items()}
    for report in reports.values():
        print(f"{report.title}: {report.passed} of {report.points} points passed")
    return 0 if all(report.green for report in reports.values()) else 1


def _wish(parser: argparse.ArgumentParser, text: str) -> tuple[str, str]:
    name, _, only = text.partition("=")
    if name not in PAGES:
        parser.error(f"there is no matrix {name!r}")
    return name, only


def _prove(name: str, only: str) -> Report:
    print(f"--- {name} ---", flush=True)
    started = time.monotonic()
    module = importlib.import_module(f"tests.matrices.{name}")
    with tempfile.TemporaryDirectory(prefix=f"prove-{name}-") as base:
        report: Report = module.prove(Path(base), _tell, only)
    _show(report)
    if not only:
        if report.table:
            written(TOP / "docs" / PAGES[name], name, report.table)
        _keep(name, report, (time.monotonic() - started) / 60)
    return report


def _tell(text: str) -> None:
    print(text, flush=True)


def _show(report: Report) -> None:
    print("\n".join(report.table))
    for count in report.counts:
        print(f"{count.passed:6} of {count.points:6}  {count.what}")
    for each in report.failed:
        print(f"FAILED: {each}", file=sys.stderr)
    sys.stderr.flush()


def _keep(name: str, report: Report, minutes: float) -> None:
    """The numbers of this run, in place of those of the last one."""
    page = TOP / "docs" / SUMMARY
    last = [line for line in block(page, "numbers") if not line.startswith(f"| {name} ")]
    told = (name, report.points, report.passed, f"{datetime.now(UTC):%Y-%m-%d}", _commit(), minutes)
    rows = [*last[len(HEAD) :], "| {} | {} | {} | {} | {} | {:.0f} |".format(*told)]
    order = [f"| {each} " for each in PAGES]
    rows.sort(key=lambda row: next(n for n, start in enumerate(order) if row.startswith(start)))
    written(page, "numbers", [*HEAD, *rows])


def _commit() -> str:
    """What was tried: a commit, with a + if files were changed since."""
    git = ["git", "-C", str(TOP), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()


# --- blocks of a page ---


def block(page: Path, name: str) -> list[str]:
    """The lines between <!-- NAME --> and <!-- /NAME -->, but for empty ones."""
    text = page.read_text()
    _, begin, rest = text.partition(f"<!-- {name} -->\n")
    inner, end, _ = rest.partition(f"<!-- /{name} -->")
    if not (begin and end):
        raise ValueError(f"{page.name} has no place for {name!r}")
    return [line for line in inner.splitlines() if line]


def written(page: Path, name: str, lines: Sequence[str]) -> None:
    """Puts `lines` there."""
    old = "\n".join(block(page, name))
    text, begin, end = page.read_text(), f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if "\n".join(lines) != old:
        new = "\n".join(["", *lines, "", ""])
        page.write_text(f"{before}{begin}{new}{end}{after}")


if __name__ == "__main__":
    sys.exit(main())
