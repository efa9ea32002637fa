"""The operator enrols devices by their TPMs, from what `tpm2cloud identity` writes; in the lab's
Azure, which was made of Azure's published reference, and is not Azure."""

import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import identity_csv
from agent.operator import enrol, exports, settings
from agent.operator.enrol import TABLE
from agent.operator.resources import Arm
from agent.operator.service import Service
from tests.lab import pki
from tests.lab.azure import Azure
from tests.lab.azure_eks import blob
from tests.lab.desk import DPS, Desk, Tool, exported, made_up, of_blob

MANY = 120


@pytest.fixture(scope="module")
def azure(tls: pki.Tls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azure]:
    with Azure(tmp_path_factory.mktemp("azure") / "azure", tls).running() as azure:
        yield azure


@pytest.fixture
def tool(
    azure: Azure,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Tool]:
    """A cloud without any enrolment."""
    azure.behave()
    desk = Desk(tmp_path / "desk", azure)
    for name, value in desk.environment.items():
        monkeypatch.setenv(name, value)
    tool = Tool(desk, capsys)
    assert tool("deploy").status == 0
    azure.forget()
    yield tool
    azure.behave()
    assert tool("destroy", "-y").status == 0


def test_new_ones_are_enrolled_and_found_the_next_time(
    tool: Tool, azure: Azure, tmp_path: Path
) -> None:
    devices = [made_up(n) for n in range(12)]
    (tmp_path / "line.json").write_text(exported(devices[:6]))
    rows = [identity_csv.row(each) for each in devices[6:]]
    (tmp_path / "line.csv").write_text(identity_csv.table(rows) + "\n")
    files = [tmp_path / "line.json", tmp_path / "line.csv"]
    first = tool("enrol", *files)
    assert first.status == 0, first.err
    assert first.out.endswith("12 new, 0 changed, 0 unchanged, 0 refused\n")
    assert "new device-000000 (" in first.out
    for device, found in zip(devices, azure.enrolments(DPS), strict=True):
        assert found["registrationId"] == found["deviceId"] == device["registration_id"]
        key = device["endorsement_key"]["public"]
        assert found["attestation"]["tpm"]["endorsementKey"] == key
        assert found["capabilities"]["iotEdge"]
    azure.forget()
    assert tool("enrol", *files).out == "0 new, 0 changed, 12 unchanged, 0 refused\n"
    assert azure.wishes() == []


def test_what_is_set_otherwise_is_changed_and_what_was_added_or_forbidden_stays(
    tool: Tool, azure: Azure, tmp_path: Path
) -> None:
    file = tmp_path / "one.json"
    file.write_text(exported([made_up(1)]))
    assert tool("enrol", file).status == 0
    twin = {"tags": {"site": "north"}, "properties": {"desired": {}}}
    arm = Arm(settings.load(tool.desk.file))
    service = Service(arm, arm.dps())
    there = service.enrolment("device-000001")
    assert there is not None
    forbidden = {"provisioningStatus": "disabled", "initialTwin": twin, "deviceId": "called-so"}
    assert service.bulk("updateIfMatchETag", [there | forbidden]) == {}
    assert "1 unchanged" in tool("enrol", file).out

    tool.desk.write(enrolment="edge = false")
    changed = tool("enrol", "--json", file)
    assert changed.lines[0]["result"] == "changed"
    [found] = azure.enrolments(DPS)
    assert not found["capabilities"]["iotEdge"]
    assert found | forbidden == found


def test_another_key_under_the_same_name_is_only_taken_when_that_is_meant(
    tool: Tool, azure: Azure, tmp_path: Path
) -> None:
    file = tmp_path / "one.json"
    file.write_text(exported([made_up(1)]))
    assert tool("enrol", file).status == 0
    file.write_text(exported([made_up(2, registration_id="device-000001")]))
    refused = tool("enrol", file)
    assert refused.status == 4
    assert "is enrolled with another endorsement key" in refused.out
    assert tool("enrol", "--replace", file).out.endswith("1 changed, 0 unchanged, 0 refused\n")
    [found] = azure.enrolments(DPS)
    assert found["attestation"]["tpm"]["endorsementKey"] == made_up(2)["endorsement_key"]["public"]


def test_what_cannot_be_enrolled_is_told_with_its_reason_and_the_others_are_enrolled(
    tool: Tool, azure: Azure, tmp_path: Path
) -> None:
    cut = made_up(3)
    cut["endorsement_key"] = {**cut["endorsement_key"], "public": "AAEA"}
    twin = made_up(4, registration_id="DEVICE-000005")
    same = made_up(6, registration_id="device-000007")
    devices = [made_up(1), cut, twin, made_up(5), made_up(6), same, {"no": "export"}]
    file = tmp_path / "mixed.json"
    file.write_text(exported(devices) + "{broken")
    azure.behave(refused={"device-000001": "As the test wishes"})
    done = tool("enrol", "--json", file, tmp_path / "there-is-none")
    assert done.status == 4
    *told, total = done.lines
    why = {each["why"] for each in told if each["result"] == "refused"}
    assert len(told) == 9
    for part in (
        "endorsement key is", "with different endorsement keys", "under different names",
        "is no export", "is no JSON", "cannot be read", "As the test wishes",
    ):  # fmt: skip
        assert any(part in each for each in why), part
    assert total["refused"] == 9
    assert azure.enrolments(DPS) == []


def test_a_file_says_nothing_in_our_place_and_keeps_nobody_from_being_enrolled(
    tool: Tool, tmp_path: Path
) -> None:
    """A name in it may be whatever somebody wrote: lines, commands to a terminal, half letters."""
    names = ["a\x1b[2K\nnew b", "a\ud800b", "device-000001"]
    (tmp_path / "odd.json").write_text(exported(made_up(1, registration_id=name) for name in names))
    (tmp_path / "list.json").write_text(json.dumps([made_up(2)]))
    done = tool("enrol", tmp_path / "odd.json", tmp_path / "list.json")
    assert done.status == 4, done.err
    said = done.out.splitlines()
    assert [each.split()[0] for each in said] == ["refused"] * 3 + ["new", "1"]
    assert all(each.isprintable() for each in said)
    assert "is a list; wanted is one device after the other" in done.out


def test_what_has_no_room_on_the_disk_is_told(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the files say is kept in a file of SQLite's."""
    monkeypatch.setattr(enrol, "TABLE", f"PRAGMA cache_size = 1; PRAGMA max_page_count = 9;{TABLE}")
    (tmp_path / "many.json").write_text(exported(made_up(n) for n in range(200)))
    done = tool("enrol", tmp_path / "many.json")
    assert (done.status, "[disk-full]" in done.err) == (75, True), done.err
    assert done.out == "0 new, 0 changed, 0 unchanged, 0 refused\n"


@pytest.mark.parametrize("login", ["key", "entra"])
def test_many_are_enrolled_though_the_service_wants_fewer_and_answers_get_lost(
    tool: Tool, azure: Azure, tmp_path: Path, login: str
) -> None:
    tool.desk.write(dps=f"login = '{login}'")
    file = tmp_path / "many.json"
    file.write_text(exported(made_up(n) for n in range(MANY)))
    azure.behave(throttle_every=6, cut_at=[9, 14])
    done = tool("enrol", file)
    assert done.status == 0, done.err
    assert f"{MANY} new" in done.out
    assert "DPS wants fewer requests" in done.err
    assert len(azure.enrolments(DPS)) == MANY
    azure.behave()
    azure.forget()
    assert f"{MANY} unchanged" in tool("enrol", file).out
    assert azure.wishes() == []


def test_a_run_that_was_stopped_halfway_is_gone_on_with(
    tool: Tool, azure: Azure, tmp_path: Path
) -> None:
    file = tmp_path / "many.json"
    file.write_text(exported(made_up(n) for n in range(MANY)))
    azure.behave(only="POST /enrollments$", cut_at=[5, 6, 7, 8], cut_done=False)
    stopped = tool("enrol", file)
    assert stopped.status == 75
    assert "[azure-unreachable]" in stopped.err
    assert stopped.out.endswith("40 new, 0 changed, 0 unchanged, 0 refused\n")
    azure.behave()
    assert tool("enrol", file).out.endswith("80 new, 0 changed, 40 unchanged, 0 refused\n")
    names = Counter(each["registrationId"] for each in azure.enrolments(DPS))
    assert len(names) == MANY
    assert set(names.values()) == {1}


def test_reading_needs_no_more_memory_for_many_than_for_one(tmp_path: Path) -> None:
    file = tmp_path / "many.json"
    with file.open("w") as out:
        for n in range(2000):
            out.write(json.dumps(made_up(n)) + "\n")
    tracemalloc.start()
    found = sum(isinstance(each, exports.Device) for each in exports.every([file]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == 2000
    assert peak < file.stat().st_size / 2


def test_a_table_that_a_spreadsheet_has_saved_is_read(tmp_path: Path) -> None:
    """They begin their files with a byte order mark."""
    (tmp_path / "devices.csv").write_text(
        identity_csv.table([identity_csv.row(made_up(1))]) + "\n", encoding="utf-8-sig"
    )
    (tmp_path / "devices.json").write_text(exported([made_up(1)]), encoding="utf-8-sig")
    for name in ("devices.csv", "devices.json"):
        [found] = exports.every([tmp_path / name])
        assert isinstance(found, exports.Device), found


def test_an_endorsement_key_is_one(tmp_path: Path) -> None:
    good = b"\xff" * 256
    for public, why in {
        blob(good)[:-1]: "no TPM2B_PUBLIC",
        blob(good, kind=0x23): "is not RSA",
        blob(good, attributes=0x00060072): "is no endorsement key",
        blob(good[:-2]): "no modulus of 2048 bits",
    }.items():
        file = tmp_path / "one.json"
        file.write_text(exported([of_blob(public)]))
        [found] = exports.every([file])
        assert isinstance(found, exports.Bad)
        assert why in found.why
