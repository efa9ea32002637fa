"""Whatever is in the way of a registration gets a code, a sentence and a remedy of its own, and the
device goes on with the hub key and the assignment that it had: all that docs/faults-dps.md tells.

One device for each way to attest goes through all of it, one trouble after the other: each leaves
it as it was.
"""

import json
import re
import time
from collections.abc import Iterator

import pytest

from agent.errors import every_error
from agent.state import State
from tests.lab import dps_faults, matrix
from tests.lab.dps_faults import AGAIN, Row, Town, got_over, outcome, provoked
from tests.lab.dps_faults_rows import GOT_OVER, ROWS
from tests.lab.dps_faults_table import HEALED, REFUSED, either, healed, refused, told

EK, SRK = "0x81010001", "0x81000001"


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


@pytest.mark.parametrize("kind", ROWS)
def test_the_command_says_the_same_when_it_is_started_afresh(town: Town, kind: str) -> None:
    """The other tests fork one that is loaded already."""
    ours, [row] = town.devices[kind], [row for row in ROWS[kind] if row.code == "dps-scope"]
    ours.heal()
    with row.how(ours):
        done = ours.device.agent(*row.command)
    found = outcome(done.returncode, done.stderr)
    assert refused(row, found, "either") in told()


@pytest.mark.parametrize("dated", [False, True])
def test_how_long_dps_wants_to_be_left_alone_is_known_to_the_next_run(
    town: Town, dated: bool
) -> None:
    ours, day = town.devices["x509"], 24 * 3600
    ours.heal()
    ours.device.world.dps.behave(throttle=1, retry_after=day, retry_date=dated)
    assert ours.agent(*AGAIN).returncode == 75
    asked = len(ours.device.world.dps.requests())
    again = ours.agent(*AGAIN)
    assert outcome(again.returncode, again.stderr).code == "dps-waits"
    assert len(ours.device.world.dps.requests()) == asked
    kept = json.loads(State(ours.device.state).turn.read_text())
    assert day / 2 < kept["not_before"] - time.time() < 2 * day


@pytest.mark.parametrize("kind", ROWS)
def test_a_hub_that_does_not_know_yet_whom_dps_has_told_it_of_is_asked_again(
    town: Town, kind: str
) -> None:
    """For some seconds, and DPS is not."""
    ours = town.devices[kind]
    ours.heal()
    dps, hub = ours.device.world.dps, ours.device.world.hub
    asked, before = len(dps.requests()), len(hub.connections())
    hub.behave(refuse=5, refuse_times=3)
    done = ours.agent(*AGAIN)
    assert done.returncode == 0, done.stderr
    assert [each["accepted"] for each in hub.connections()[before:]] == [False] * 3 + [True]
    once = len(dps.requests()) - asked
    hub.behave(refuse=5, refuse_times=4)
    done = ours.agent(*AGAIN)
    assert outcome(done.returncode, done.stderr).code == "hub-refused"
    assert len(dps.requests()) - asked == 2 * once
    assert ours.sends()


@pytest.mark.parametrize("lost", [[EK], [SRK], [EK, SRK]], ids=["EK", "SRK", "both"])
def test_keys_that_are_lost_while_it_sends_are_made_again_before_dps_is_shown_them(
    town: Town, lost: list[str]
) -> None:
    ours = town.devices["tpm"]
    ours.heal()
    for handle in lost:
        ours.tools("evictcontrol", "-C", "o", "-c", handle)
    ours.device.world.dps.rotate(ours.name)
    done = ours.agent("telemetry", "--count", "1")
    assert done.returncode == 0, done.stderr
    assert ours.sends()


def test_an_ek_that_is_lost_is_made_again_by_who_looks_after_the_device_and_dps_is_not_asked(
    town: Town,
) -> None:
    ours = town.devices["tpm"]
    ours.heal()
    asked = len(ours.device.world.dps.requests())
    ours.tools("evictcontrol", "-C", "o", "-c", EK)
    done = ours.agent("health")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ours.agent("health").returncode == 0
    assert len(ours.device.world.dps.requests()) == asked
    assert ours.sends()
