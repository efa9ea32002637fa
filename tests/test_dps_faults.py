"""Whatever is in the way of a registration gets a code, a sentence and a remedy of its own, and the
device goes on with the hub key and the assignment that it had: all that docs/faults-dps.md tells.

One device for each way to attest goes through all of it, one trouble after the other: each leaves
it as it was.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import every_error
from tests.lab import dps_faults, matrix
from tests.lab.dps_faults import Row, Town, got_over, provoked
from tests.lab.dps_faults_rows import GOT_OVER, ROWS
from tests.lab.dps_faults_table import HEALED, REFUSED, either, healed, refused, told


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with dps_faults.town(tmp_path_factory.mktemp("faults")) as town:
        yield town


@pytest.fixture(scope="module")
def shown(pytestconfig: pytest.Config) -> Iterator[matrix.Rows]:
    with matrix.shown(pytestconfig, "In the way of a registration", "What comes of it") as rows:
        yield rows


def each(rows: dict[str, list[Row]]) -> list[object]:
    return [
        pytest.param(kind, row, id=f"{kind}: {row.what}")
        for kind, those in rows.items()
        for row in those
        if not row.costs
    ]


@pytest.mark.parametrize(("kind", "row"), each(ROWS))
def test_it_is_told_and_nothing_is_lost(
    town: Town, shown: matrix.Rows, kind: str, row: Row
) -> None:
    found = provoked(town.devices[kind], row)
    shown.append((f"{row.what} ({kind})", f"{found.status} {found.code}"))
    assert (found.status, found.code) == (row.status, row.code), found
    assert any(refused(row, found, by) in told() for by in either(kind)), refused(row, found, "")


@pytest.mark.parametrize(("kind", "row"), each(GOT_OVER))
def test_the_agent_gets_over_it(town: Town, shown: matrix.Rows, kind: str, row: Row) -> None:
    steps = got_over(town.devices[kind], row)
    shown.append((f"{row.what} ({kind})", f"0 {', '.join(steps)}"))
    assert any(healed(row, steps, by) in told() for by in either(kind)), healed(row, steps, "")


def test_the_document_tells_of_nothing_else() -> None:
    known = {row.what for rows in (ROWS, GOT_OVER) for those in rows.values() for row in those}
    lines = [line for line in told() if line not in (REFUSED, HEALED)]
    assert {line.split(" | ")[0].removeprefix("| ") for line in lines} == known
    codes = {code for line in lines for code in re.findall(r"\| \d+ \| `([a-z0-9-]+)` \|", line)}
    assert codes <= {kind.code for kind in every_error()}
    assert codes == {row.code for those in ROWS.values() for row in those}


def test_nobody_but_its_owner_reads_what_is_kept(town: Town) -> None:
    for device in town.devices.values():
        kept = Path(device.device.state, "assignment.json")
        assert kept.stat().st_mode & 0o077 == 0
