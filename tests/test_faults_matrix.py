"""Some of the faults of the matrix, each put into a whole device: the true code, one verdict, the
right one, a remedy that helps, and no secret anywhere. All of them: `./tests/prove faults`."""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import every_error
from tests.conftest import Tell
from tests.lab.fault import KINDS, Town
from tests.lab.fault_rows import ROWS
from tests.lab.process import TOP
from tests.matrices import faults

SAMPLE = [
    "A wrong password at the EST server",
    "The disk of the state is full",
    "A gap in the TPM maker's chain",
    "An ECC SRK, and attestation by TPM",
    "The TPM is not enrolled",
    "An EST server that quotes what it is sent",
]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with Town(tmp_path_factory.mktemp("town")) as town:
        yield town


@pytest.mark.parametrize("name", SAMPLE)
def test_a_fault_gets_its_verdict_and_the_remedy_helps(town: Town, name: str, tell: Tell) -> None:
    [row] = [row for row in ROWS if row.name == name]
    found = faults.tried(town, row)
    assert not list(found.wrong())
    tell(f"fault: {name}: provision {found.stopped.code}, check {found.before.code}")


def test_a_crash_leaves_no_core_with_secrets_in_it(town: Town) -> None:
    """On a terminal, too, where no unit says so."""
    [row] = [row for row in ROWS if row.name == SAMPLE[0]]
    with town.case(row) as case:
        command, env = case.device.agent_command("provision"), case.device.environment()
        with subprocess.Popen(command, env=env, stderr=subprocess.PIPE) as run:
            assert run.stderr is not None
            assert run.stderr.readline().startswith(b"tpm ")  # it is at work
            limits = Path(f"/proc/{run.pid}/limits").read_text()
            run.kill()
    assert re.search(r"Max core file size +0 +0 ", limits), limits


def test_there_are_many_faults_of_all_kinds_and_no_two_of_one_name() -> None:
    names = Counter(row.name for row in ROWS)
    assert names.total() >= 100
    assert not [name for name, count in names.items() if count > 1]
    assert {row.on for row in ROWS} == set(KINDS)
    codes = {error.code for error in every_error()}
    assert {row.code for row in ROWS} | {row.expected for row in ROWS} <= codes


def documented() -> dict[str, list[str]]:
    """The rows of the table in docs, by their first cell."""
    page = Path(TOP, "docs/faults.md").read_text()
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return {cells[0]: cells for cells in lines if len(cells) > 3}


def test_the_page_in_docs_tells_of_all() -> None:
    told = documented()
    assert [row.name for row in ROWS if row.name not in told] == []
    for row in ROWS:
        assert f"`{row.code}`" in told[row.name][2]
        assert told[row.name][3] == f"`{row.expected}`"
