"""What the operator's tool writes into DPS, and what it believes of the answers."""

from pathlib import Path

import pytest

from agent.operator import service, settings
from agent.operator.resources import Arm
from agent.operator.service import Service
from tests.lab import pki
from tests.lab.desk import DPS, HUB, Tool, exported, made_up


@pytest.fixture
def tool(tool: Tool) -> Tool:
    """Of a cloud that is there."""
    assert tool("deploy").status == 0
    return tool


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "one.json"
    file.write_text(exported([made_up(1)]))
    return file


def served(tool: Tool) -> Service:
    arm = Arm(settings.load(tool.desk.file))
    return Service(arm, arm.dps())


def test_who_may_read_no_keys_enrols_as_who_is_logged_in(tool: Tool, file: Path) -> None:
    azure = tool.desk.azure
    azure.behave(forbidden="provisioningServices/.*listkeys$")
    assert "[azure-forbidden]" in tool("enrol", file).err
    tool.desk.write(dps="login = 'entra'")
    assert tool("enrol", file).out.endswith("1 new, 0 changed, 0 unchanged, 0 refused\n")


def test_a_change_whose_answer_got_lost_is_a_change(tool: Tool, file: Path) -> None:
    azure = tool.desk.azure
    assert tool("enrol", file).status == 0
    tool.desk.write(enrolment="edge = false")
    azure.behave(only="POST /enrollments$", cut_at=[1])
    changed = tool("enrol", file)
    assert changed.status == 0, changed.out
    assert changed.out.endswith("0 new, 1 changed, 0 unchanged, 0 refused\n")


def test_who_is_to_go_to_one_hub_is_enrolled_for_that(tool: Tool, file: Path) -> None:
    tool.desk.write(enrolment="allocation = 'static'")
    assert tool("deploy").status == 0
    assert tool("enrol", file).status == 0
    azure, host = tool.desk.azure, f"{HUB}.azure-devices.net"
    for [found] in (azure.groups(DPS), azure.enrolments(DPS)):
        assert (found["allocationPolicy"], found["iotHubs"]) == ("static", [host])


def test_what_is_known_of_the_same_tpm_stays(tool: Tool, file: Path) -> None:
    assert tool("enrol", file).status == 0
    dps = served(tool)
    there = dps.enrolment("device-000001")
    assert there is not None
    there["attestation"]["tpm"]["storageRootKey"] = "AAEA"
    assert dps.bulk("updateIfMatchETag", [there]) == {}
    tool.desk.write(enrolment="edge = false")
    assert "1 changed" in tool("enrol", file).out
    [found] = tool.desk.azure.enrolments(DPS)
    assert found["attestation"]["tpm"]["storageRootKey"] == "AAEA"


def test_a_group_of_another_kind_is_not_made_into_ours(tool: Tool) -> None:
    dps, root = served(tool), pki.pem(pki.root("Somebody").certificate).decode()
    there = dps.group("tpm2cloud")
    assert there is not None
    signing = {"signingCertificates": {"primary": {"certificate": root}}}
    dps.put_group(there | {"attestation": {"type": "x509", "x509": signing}})
    tool.desk.azure.forget()
    refused = tool("deploy")
    assert refused.status == 78
    assert "[azure-differs] " in refused.err.replace("\n", " ")
    assert tool.desk.azure.wishes() == []


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"isSuccessful": False, "errors": []},
        {"isSuccessful": True, "errors": [{"registrationId": "a", "errorCode": 400004}]},
        {"isSuccessful": False, "errors": [{"registrationId": "b", "errorCode": 400004}]},
    ],
)
def test_an_answer_that_contradicts_itself_is_no_success(answer: object) -> None:
    with pytest.raises((ValueError, KeyError)):
        service._result(answer, {"a"})
