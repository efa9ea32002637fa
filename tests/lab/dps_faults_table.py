"""The tables in docs/faults-dps.md, of what was tried: `python -m tests.lab.dps_faults_table` tries
all, what takes long too (two minutes), and writes them anew; its exit status is 1 if something does
not come out as tests/lab/dps_faults_rows.py has it. The tests try what takes a moment, and compare.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.lab import process
from tests.lab.dps_faults import Outcome, Registered, Row, got_over, provoked, town
from tests.lab.dps_faults_rows import GOT_OVER, ROWS

PAGE = process.TOP / "docs" / "faults-dps.md"
BY = {"tpm": "TPM", "x509": "X.509"}
REFUSED = "| What is in the way | Attested by | Exit | Code | What is said | Remedy | The old key |"
HEALED = "| What is in the way | Attested by | What is done |"
Lines = dict[str, list[str]]  # without "Attested by", and by what


def refused(row: Row, found: Outcome, by: str) -> str:
    sends = "sends meanwhile" if row.meanwhile else "sends afterwards"
    said = f"`{found.step}`: {found.why}"
    cells = (row.what, by, str(found.status), f"`{found.code}`", said, found.remedy, sends)
    return _line(*cells)


def healed(row: Row, steps: list[str], by: str) -> str:
    done = ", ".join(f"`{step}`" for step in steps)
    return _line(row.what, by, done or "nothing: the key in the TPM is used")


def _line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def told() -> list[str]:
    """The lines of the tables as they are in the document."""
    return [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]


def either(kind: str) -> tuple[str, str]:
    """How it may be told of a device that attests so: that all do, or those alone."""
    return "either", BY[kind]


def _tried(ours: Registered, lines: Lines, rest: Lines) -> Iterator[str]:
    """What came out as it should not."""
    for row in ROWS[ours.kind]:
        found = provoked(ours, row)
        if (found.status, found.code) != (row.status, row.code):
            yield f"{row.what}: {found}"
        lines.setdefault(refused(row, found, "{}"), []).append(ours.kind)
    for row in GOT_OVER[ours.kind]:
        rest.setdefault(healed(row, got_over(ours, row), "{}"), []).append(ours.kind)


def _table(head: str, lines: Lines) -> str:
    ruler = "|" + "---|" * (head.count("|") - 1)
    found = [
        line.replace("| {} |", f"| {'either' if len(kinds) > 1 else BY[kinds[0]]} |", 1)
        for line, kinds in lines.items()
    ]
    return "\n".join([head, ruler, *found])


def main() -> int:
    lines, rest, odd = Lines(), Lines(), list[str]()
    with tempfile.TemporaryDirectory() as directory, town(Path(directory)) as here:
        for ours in here.devices.values():
            odd += _tried(ours, lines, rest)
    head = PAGE.read_text().partition(REFUSED)[0]
    tables = [_table(REFUSED, lines), "## What the agent gets over", _table(HEALED, rest)]
    PAGE.write_text(head + "\n\n".join(tables) + "\n")
    sys.stderr.writelines(f"{each}\n" for each in odd)
    return int(bool(odd))


if __name__ == "__main__":
    sys.exit(main())
