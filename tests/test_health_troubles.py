"""What goes wrong around the companion's work: it looks all the same, and says so; and what it says
does not change from hour to hour."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from agent import store
from agent.config import Config, Dps
from agent.errors import EstForbidden, ServerBusy, TokenUnreadable
from agent.health import memory, tending
from agent.health.judge import Condition
from agent.health.services import Unit
from agent.health.waits import waits
from agent.state import State
from agent.steps.registration import was_provisioned
from tests.lab import edge, pki
from tests.lab.clock import Clock
from tests.lab.device import Device
from tests.lab.world import World

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PROBLEMS: list[dict[str, Any]] = [
    {"cases": {"restarts": ["x"]}},
    {"cases": {"restarts": {"aziot-certd": "1"}}},
    {"traffic": {"day": "TODAY", "sent": None}},
    {"traffic": {"day": "TODAY", "sent": "x", "received": -1}},
    {"asked": {"https://est.example/": "yesterday"}},
    {"asked": {"https://est.example/": 1e18}},
    {"trouble": {"_renewal": "x"}, "states": {"ldevid": ["x"]}},
    {"trouble": "unreachable", "backoff": {"failures": "x", "not_before": 1e99}},
]


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("troubles") / "w", clock=clock, renewing=True) as world:
        yield world


@pytest.fixture(scope="module")
def device(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """Whoever changes something of it puts it back."""
    with Device(world, tmp_path_factory.mktemp("troubled") / "device") as device:
        done = device.agent("provision")
        assert done.returncode == 0, done.stderr
        device.configure({"aziot": {"timeout": "6s"}})
        yield device


def summary(device: Device) -> dict[str, Any]:
    """What it left for others to read."""
    found: dict[str, Any] = json.loads((device.socket.parent / "health.json").read_text())
    return found


def states(device: Device) -> dict[str, str]:
    return {each["name"]: each["state"] for each in summary(device)["certificates"]}


def iotedge_is_done(device: Device) -> bool:
    """It has renewed its own, that were as old as ours."""
    found = json.loads(device.agent("health", "--dry-run", "--json").stdout)["certificates"]
    return {each["state"] for each in found if each["name"] in ("est-id", "device-id")} == {"fresh"}


# --- what it remembers ---


@pytest.mark.parametrize("wrong", PROBLEMS, ids=lambda wrong: "-".join(wrong))
def test_a_memory_that_makes_no_sense_is_none(tmp_path: Path, wrong: Mapping[str, Any]) -> None:
    state, good = State(tmp_path), {"day": "2026-01-01", "sent": 1, "received": 2}
    kept = {"traffic": good, "asked": {"https://other.example/": 5.5}, **wrong}
    state.health.write_text(json.dumps(kept))
    known = memory.load(state)
    assert all(isinstance(each, int) and each >= 0 for _, each in numbers(known.traffic))
    assert all(0 <= each < memory.LAST for each in known.asked.values())
    assert all(isinstance(each, str) for each in known.states.values())
    assert all(isinstance(each, dict) for each in known.trouble.values())
    for name in ("traffic", "asked"):
        assert name in wrong or getattr(known, name) == kept[name]


def numbers(traffic: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in traffic.items() if name != "day"]


def test_a_memory_of_another_version_stops_no_run(device: Device, clock: Clock) -> None:
    file = device.state / "health.json"
    good = json.loads(file.read_text()) if file.exists() else {}
    for wrong in PROBLEMS:
        text = json.dumps({**good, **wrong}).replace("TODAY", f"{clock.now():%Y-%m-%d}")
        file.write_text(text)
        done = device.agent("health")
        assert done.returncode == 0, (wrong, done.stderr)


def test_a_problem_is_remembered_as_what_it_was() -> None:
    for error in (
        EstForbidden("cannot enroll: it answers 403", host="est.example"),
        ServerBusy("cannot enroll: busy", seconds=5, host="est.example"),
        TokenUnreadable("cannot read it", path="/there"),
    ):
        again = memory.as_error(json.loads(json.dumps(memory.as_trouble(error))))
        assert again is not None
        assert (type(again), str(again), again.remedy) == (type(error), str(error), error.remedy)
    damaged: list[dict[str, Any]] = [{}, {"code": "x"}, {"code": "est-forbidden", "message": 1}]
    for each in damaged:
        assert memory.as_error(each) is None


# --- one bad file ---


def test_a_ca_file_with_a_root_of_the_future_beside_others_is_fine(
    device: Device, clock: Clock
) -> None:
    file = device.etc / "est-ca.pem"
    whole = file.read_bytes()
    root = pki.root("Next", starts=clock.now() - datetime.now(UTC) + 20 * DAY)
    file.write_bytes(whole + pki.pem(root.root))
    assert device.agent("health").returncode == 0
    file.write_bytes(whole)


def test_one_damaged_file_keeps_nobody_from_looking_at_the_others(device: Device) -> None:
    for file, code in {
        device.etc / "est-ca.pem": "",
        device.pkcs11 / "tpm2_pkcs11.sqlite3": "token-unreadable",
    }.items():
        whole = file.read_bytes()
        file.write_bytes(b"garbage" * 999)
        said = [device.agent("health") for _ in "12"]
        file.write_bytes(whole)
        assert [each.returncode for each in said] == [4, 4], said[0].stderr
        assert states(device)["device-id"] == states(device)["ldevid"] == "fresh"
        told = summary(device)["problem"]
        assert (told or {"code": ""})["code"] == code
        assert code in said[0].stderr
        assert "Remedy" not in said[1].stderr  # once
    assert device.agent("health").returncode == 0


# --- what others are told ---


def test_a_run_that_comes_to_nothing_leaves_no_good_news_behind(device: Device) -> None:
    prometheus = device.directory / "tpm2cloud.prom"
    device.configure({"health": {"textfile": str(prometheus)}})
    assert device.agent("health").returncode == 0
    assert summary(device)["state"] == "well"
    assert "health_verdict 0" in prometheus.read_text()
    with store.lock(device.state):
        assert device.agent("health").returncode == 75
    assert summary(device)["state"] == "well"  # that of the other run
    away = {"tcti": f"swtpm:path={device.directory}/none", "wait": "0s"}
    device.configure({"health": {"textfile": str(prometheus)}, "tpm": away})
    assert device.agent("health").returncode == 69
    told = summary(device)
    assert (told["state"], told["problem"]["code"]) == ("a person is needed", "tpm-unavailable")
    assert "health_verdict 4" in prometheus.read_text()
    device.configure({})
    assert device.agent("health").returncode == 0


def test_a_textfile_that_cannot_be_written_is_told_once(device: Device) -> None:
    device.configure({"health": {"textfile": str(device.directory / "none/x.prom")}})
    said = [device.agent("health").stderr.count("x.prom") for _ in "123"]
    device.configure({})
    assert said == [1, 0, 0]


def test_a_service_that_fails_is_not_well(device: Device) -> None:
    edge.broken(device, crash=["aziot-edged"])
    device.run(["systemctl", "restart", "aziot-edged"])
    done = device.agent("health", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 3
    assert found["waits"] or "aziot-edged active" in str(found["services"])
    edge.broken(device)
    device.run(["systemctl", "restart", "aziot-edged"])


def test_what_is_not_done_yet_is_told(tmp_path: Path) -> None:
    conf, state = Config(dps=Dps(id_scope="0ne")), State(tmp_path)

    def told(*units: Unit, **cases: Any) -> list[str]:
        return list(waits(conf, state, lambda: "d", {each.name: each for each in units}, cases))

    state.registration.write_text('{"given": "of a first boot that failed"}')
    assert not was_provisioned(state)
    assert told() == ["IoT Edge is not provisioned with its configuration yet"]
    state.registration.write_text('{"config": "digest"}')
    assert was_provisioned(state)
    assert told() == []
    state.ldevid_next.write_text("a certificate")
    down = Unit("aziot-edged", "failed", "failed", "exit-code", 0, "")
    found = told(down, **{"aziot-edged": {}, "aziot-keyd": {}})
    assert found == [
        "A renewed LDevID has not taken its place yet",
        "aziot-edged fails",
        "aziot-keyd is being helped",
    ]


# --- one refusal ---


def test_states_that_are_late_are_all_but_those_that_can_wait() -> None:
    can_wait = {*tending.IDLE, "due", "no longer auto-renewed"}
    assert {*tending.LATE} == {*get_args(Condition)} - can_wait


def test_a_refusal_stays_the_same_matter_until_it_is_asked_again(
    device: Device, world: World, clock: Clock
) -> None:
    """Told once, and whoever asks by `needs-renewal` is not called every hour."""
    world.owner_server.behave("refuse", "simplereenroll")
    clock.advance(73 * DAY)
    edge.until(lambda: iotedge_is_done(device))
    verdicts, needs, told = list[int](), list[int](), 0
    for _ in range(5):
        done = device.agent("health")
        verdicts.append(done.returncode)
        told += done.stderr.count("[est-")
        needs.append(device.agent("needs-renewal").returncode)
        clock.advance(HOUR / 2)
    world.owner_server.behave()
    assert (verdicts, needs, told) == ([4] * 5, [1] * 5, 1)
    assert summary(device)["problem"]["code"].startswith("est-")
