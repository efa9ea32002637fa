"""Some of the ways in which a server may misbehave, tried on a device, and all of them in the
document: `./tests/prove hostile` tries all, and writes it."""

import re
from collections.abc import Iterator
from itertools import chain

import pytest

from tests.lab.hostile_bench import Bench, Row, bench
from tests.lab.process import TOP
from tests.matrices import hostile

# What once was accepted without a bound, or ended as a bug.
ONCE = {
    "A chunk with a negative size",
    "A chunk of -1 bytes, and then no end",
    "A trailer line without end",
    "The last chunk does not come",
    "103 (Early Hints) before the answer",
    "Set-Cookie",
    "90 fields of 60 KB each",
    "Of the year 0000",
}
EACH = 24  # of so many one is tried
ALL = list(chain.from_iterable(hostile.GROUPS.values()))
SOME = [row for n, row in enumerate(ALL) if row.what in ONCE or (n % EACH == 0 and not row.slow)]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("hostile")) as made:
        yield made


@pytest.mark.parametrize("row", SOME, ids=lambda row: row.name)
def test_a_server_misbehaves_and_costs_neither_the_device_nor_what_it_has(
    here: Bench, row: Row
) -> None:
    assert hostile.wrong(row, here.tried(row)) == []


def test_no_way_has_the_name_of_another() -> None:
    for group, rows in hostile.GROUPS.items():
        names = [row.what for row in rows]
        assert len(set(names)) == len(names), group


def test_each_way_has_a_section_and_what_is_accepted_a_reason() -> None:
    for row in ALL:
        assert re.fullmatch(r"(RFC \d+|X\.690|DPS REST|MQTT 3\.1\.1|TPM 2\.0).*", row.of), row.what
        assert row.code or row.why, row.what


def test_the_document_tells_of_all_ways_and_of_no_others() -> None:
    page = (TOP / "docs" / "hostile-servers.md").read_text()
    told = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    rows = {(cells[0].removeprefix("| "), cells[2], cells[3].strip("`")) for cells in told}
    rows.discard(("What the server does", "Exit", "Code"))
    assert rows == {(row.what, str(row.status), row.code) for row in ALL}
