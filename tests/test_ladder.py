"""The ladder of remedies: each after the milder one had its time, and never more than so many in
any 24 hours, whatever becomes of clocks, of power, and of what is kept."""

import json
import random
from collections.abc import Sequence

import pytest

from agent.health.ladder import DAY, RUNGS, Case, Ladder, Rung, Trouble, of_json
from agent.moment import Moment

HOUR = 3600.0
STUCK = Trouble("est-id", HOUR)


class Machine:
    """Real time goes on; uptime starts at each boot, and the rest of what a program could ask is as
    wrong as you like. What is known lives in a file, between the runs."""

    def __init__(self, limit: int = 3) -> None:
        self.time, self.booted, self.boots, self.limit = 0.0, 0.0, 0, limit
        self.kept = "{}"
        self.acts: list[tuple[float, str, Rung]] = []

    def reboot(self, off: float = 0.0) -> None:
        self.time += off
        self.booted, self.boots = self.time, self.boots + 1

    def run(self, troubles: Sequence[Trouble], *, killed: bool = False) -> Ladder:
        rungs = of_json(json.loads(self.kept))
        rungs.tick(Moment(f"boot-{self.boots}", self.time - self.booted))
        for name, _ in rungs.unfinished():
            rungs.end(name)
        rungs.see(troubles)
        turn = rungs.turn(troubles)
        if turn and rungs.free(self.limit):
            rungs.begin(turn[0].name, turn[1], {})
            self.kept = json.dumps(rungs.as_json())
            self.acts.append((self.time, turn[0].name, turn[1]))
            if killed:
                return rungs
            rungs.end(turn[0].name)
        self.kept = json.dumps(rungs.as_json())
        return rungs

    def most_in_a_day(self) -> int:
        times = [at for at, _, _ in self.acts]
        return max((sum(at <= t < at + DAY for t in times) for at in times), default=0)

    def taken(self) -> list[Rung]:
        return [rung for _, _, rung in self.acts]


def test_each_remedy_has_its_time_before_the_next() -> None:
    machine = Machine(limit=10)
    for _ in range(5 * 60):
        machine.run([STUCK])
        machine.time += 60
    assert machine.taken() == ["restart", "reprovision", "remove"]
    times = [at for at, _, _ in machine.acts]
    assert times == [HOUR, 2 * HOUR, 3 * HOUR]


def test_a_patience_of_its_own_is_kept_to_as_well() -> None:
    machine = Machine()
    for _ in range(10):
        machine.run([Trouble("est-id", 120)])
        machine.time += 60
    assert [at for at, _, _ in machine.acts] == [120, 240, 360]


def test_rungs_that_cannot_help_are_left_out() -> None:
    machine = Machine(limit=10)
    for _ in range(5):
        machine.run([Trouble("est-id", HOUR, ("wait", "restart", "remove"))])
        machine.time += HOUR
    assert machine.taken() == ["restart", "remove"]


def test_what_is_tried_more_often_has_its_own_pause() -> None:
    machine = Machine(limit=10)
    for _ in range(25):
        machine.run([Trouble("registration", HOUR, ("wait", "reprovision"), 8 * HOUR)])
        machine.time += HOUR
    assert [at for at, _, _ in machine.acts] == [HOUR, 9 * HOUR, 17 * HOUR]


def test_what_is_well_again_begins_from_below_the_next_time() -> None:
    machine = Machine()
    for stuck in (True, True, False, True, True, True):
        machine.run([STUCK] if stuck else [])
        machine.time += HOUR
    assert machine.taken() == ["restart", "restart", "reprovision"]


def test_a_case_is_closed_by_name() -> None:
    rungs = Ladder()
    assert rungs.see([STUCK]) == []
    assert rungs.see([]) == ["est-id"]
    assert rungs.as_json() == {}


def test_one_remedy_at_a_time_and_what_comes_first_has_the_first() -> None:
    machine = Machine(limit=10)
    both = [STUCK, Trouble("device-id", HOUR)]
    for _ in range(7):
        machine.run(both)
        machine.time += HOUR
    assert [(name, rung) for _, name, rung in machine.acts] == [
        ("est-id", "restart"),
        ("device-id", "restart"),
        ("est-id", "reprovision"),
        ("device-id", "reprovision"),
        ("est-id", "remove"),
        ("device-id", "remove"),
    ]
    assert len({at for at, _, _ in machine.acts}) == 6


def test_while_a_remedy_has_its_time_nothing_is_done_about_others() -> None:
    rungs = Ladder()
    rungs.tick(Moment("boot", 0))
    rungs.see([STUCK])
    rungs.tick(Moment("boot", HOUR))
    rungs.begin("est-id", "restart", {})
    rungs.end("est-id")
    quick = Trouble("device-id", 60)
    rungs.see([STUCK, quick])
    rungs.tick(Moment("boot", HOUR + 120))
    assert rungs.turn([STUCK, quick]) is None


@pytest.mark.parametrize(("limit", "a_day"), [(1, 1), (2, 2), (3, 3), (10, 3)])
def test_a_service_that_is_broken_for_good_for_a_month(limit: int, a_day: int) -> None:
    """Asked every hour: each day it gets its share, and no more; and all begins again when the last
    remedy did not help, either."""
    machine = Machine(limit)
    for _ in range(30 * 24):
        machine.run([STUCK])
        machine.time += HOUR
    assert machine.most_in_a_day() == a_day
    assert 29 <= len(machine.acts) <= 30 * a_day
    assert set(machine.taken()) == set(RUNGS) - {"wait"}


def test_everything_broken_for_a_month_shares_one_budget() -> None:
    machine = Machine(3)
    broken = [Trouble(name, HOUR) for name in ("est-id", "device-id", "aziot-edged-ca")]
    for _ in range(30 * 24):
        machine.run(broken)
        machine.time += HOUR
    assert machine.most_in_a_day() == 3
    for each in broken:  # and nobody is forgotten over the others
        assert {rung for _, name, rung in machine.acts if name == each.name} == {*RUNGS} - {"wait"}


def test_who_is_restarted_every_day_leaves_a_turn_to_others() -> None:
    machine = Machine(1)
    mild = [Trouble(name, HOUR, ("wait", "restart")) for name in ("est-id", "device-id")]
    for _ in range(4 * 24):
        machine.run(mild)
        machine.time += HOUR
    assert [name for _, name, _ in machine.acts] == ["est-id", "device-id"] * 2


def test_none_is_spent_where_none_is_allowed() -> None:
    machine = Machine(0)
    for _ in range(48):
        machine.run([STUCK])
        machine.time += HOUR
    assert machine.acts == []


@pytest.mark.parametrize("seed", range(200))
def test_never_more_than_allowed_in_any_24_hours(seed: int) -> None:
    """Power cuts, months in a drawer, runs killed in the middle, troubles that come and go."""
    chance = random.Random(seed)  # noqa: S311
    machine = Machine(chance.randint(1, 4))
    names = ("est-id", "device-id", "aziot-edged-ca")
    for _ in range(400):
        machine.time += chance.choice([0, 1, 60, HOUR, HOUR, 7 * HOUR])
        if chance.random() < 0.2:
            machine.reboot(chance.choice([0, 5, HOUR, DAY / 2, DAY, 400 * DAY]))
        stuck = [Trouble(name, chance.choice([0, 30, HOUR])) for name in names]
        chosen = [each for each in stuck if chance.random() < 0.8]
        machine.run(chosen, killed=chance.random() < 0.1)
    assert machine.most_in_a_day() <= machine.limit
    assert machine.acts


@pytest.mark.parametrize("seed", range(50))
def test_after_a_day_of_uptime_it_can_act_again(seed: int) -> None:
    """However it was spent, and in however many pieces the device is on."""
    chance = random.Random(seed)  # noqa: S311
    machine = Machine(1)
    machine.run([STUCK])
    machine.time += HOUR
    assert machine.run([STUCK]).spent
    up = 0.0
    while up <= DAY:
        piece = chance.uniform(60, 8 * HOUR)
        machine.reboot(chance.uniform(0, DAY))
        machine.time, up = machine.time + piece, up + piece
        rungs = machine.run([])
    assert rungs.free(1)


def test_a_drawer_is_no_uptime() -> None:
    machine = Machine(1)
    machine.run([STUCK])
    machine.time += HOUR
    machine.run([STUCK])
    machine.reboot(off=400 * DAY)
    machine.time += 60
    rungs = machine.run([STUCK])
    assert not rungs.free(1)
    assert rungs.until_free(1) == pytest.approx(DAY - 60)


def test_uptime_that_runs_backwards_proves_nothing() -> None:
    rungs = Ladder()
    for uptime in (1000, 10, 990, 5, 1000):
        rungs.tick(Moment("boot", uptime))
    assert rungs.lived == 1000


def test_when_the_next_is_free_is_known() -> None:
    rungs = Ladder(lived=10 * HOUR, spent=[1 * HOUR, 2 * HOUR, 3 * HOUR])
    assert rungs.until_free(4) == 0
    assert [rungs.until_free(limit) for limit in (3, 2, 1)] == [15 * HOUR, 16 * HOUR, 17 * HOUR]


# --- what is kept ---


def test_it_is_kept_as_json_and_is_the_same_again() -> None:
    rungs = Ladder(lived=5000.5, boot_id="boot", uptime=100, spent=[4000.25])
    rungs.cases["est-id"] = Case("restart", 4000.25, {"invocation": "abc"}, "told")
    rungs.restarts["aziot-certd"] = 3
    rungs.asked = {"failures": 1}
    assert of_json(json.loads(json.dumps(rungs.as_json()))) == rungs


def test_nothing_is_kept_of_a_device_that_is_well() -> None:
    """Flash memory: what has nothing to say is not written anew every hour."""
    rungs = Ladder()
    rungs.tick(Moment("boot", 12345))
    rungs.see([])
    assert rungs.as_json() == {}
    rungs.restarts["aziot-certd"] = 1
    assert rungs.as_json() == {"restarts": {"aziot-certd": 1}}


@pytest.mark.parametrize(
    "kept",
    [
        {"cases": []},
        {"cases": {"est-id": None}},
        {"cases": {"est-id": {"rung": "dance", "since": 0}}},
        {"lived": "long"},
        {"lived": None, "spent": [1]},
        {"spent": [99]},
        {"spent": 7},
        {"lived": -5},
        {"lived": float("nan"), "spent": [0.0]},
        {"boot_id": 1, "uptime": {}},
        {"lived": 10**400, "spent": [1]},
        {"lived": 1e300},
        {"lived": True},
        {"lived": 9, "spent": ["1"]},
        {"lived": 9, "spent": {"1": 2}},
        {"boot_id": 7},
        {"restarts": {"aziot-certd": "3"}},
        {"restarts": {"aziot-certd": -3}},
        {"restarts": ["aziot-certd"]},
        {"cases": {"est-id": {"rung": "wait", "since": 0, "mark": "begun"}}},
        {"cases": {"est-id": {"rung": "wait", "since": 0, "mark": {"file": 7}}}},
        {"cases": {"est-id": {"rung": ["wait"], "since": 0}}},
        {"cases": {"est-id": {"rung": "wait", "since": 0, "told": None}}},
        {"asked": "yes"},
    ],
)
def test_what_makes_no_sense_is_as_if_never_known(kept: dict[str, object]) -> None:
    assert of_json(kept) == Ladder()
