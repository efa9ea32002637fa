"""The operator's tool where the cloud is not as it was, nobody answers well, or somebody else is at
work there; in the lab's Azure, which was made of Azure's published reference, and is not Azure."""

from pathlib import Path

import pytest

from agent.operator import cas, settings
from agent.operator.link import LINK
from agent.operator.resources import Arm
from tests.lab import pki
from tests.lab.azure import Azure
from tests.lab.azure_sdk import Sdk
from tests.lab.desk import DPS, GROUP, HUB, Tool

HUB_AT, DPS_AT = f"IotHubs/{HUB}", f"provisioningServices/{DPS}"


# --- whom the group lets in ---


def test_the_plan_shows_each_certificate_for_a_person_to_compare(
    tool: Tool, azure: Azure, operations: pki.Authority
) -> None:
    ca, root = operations.chain
    planned = tool("plan", "--json").json["certificates"]
    assert {each["subject"]: each["issuing"] for each in planned} == {
        "CN=Operations CA": True,
        "CN=Operations CA root": False,
    }
    [shown] = [each for each in planned if each["issuing"]]
    assert shown["sha256"] == pki.fingerprint(ca)
    assert shown["not_after"] == ca.not_valid_after_utc.isoformat()
    text = tool("plan").out
    assert "certificate: CN=Operations CA: to be uploaded; whom it certifies is let in\n" in text
    assert all(pki.fingerprint(each) in text for each in (ca, root))
    assert tool("deploy").status == 0
    assert tool("plan").out.count(": is in DPS") == 2


def test_only_the_certificates_that_were_meant_are_uploaded(
    tool: Tool, azure: Azure, operations: pki.Authority
) -> None:
    colons = pki.fingerprint(operations.certificate).upper()
    colons = ":".join(colons[at : at + 2] for at in range(0, 64, 2))
    tool.desk.write(est=f"issuing = ['{colons}', '{'00' * 32}']")
    wrong = tool("deploy")
    assert wrong.status == 76
    assert "[operational-ca-unusable]" in wrong.err
    assert pki.fingerprint(operations.certificate) in wrong.err
    tool.desk.write(est=f"issuing = ['{colons}']")
    assert tool("deploy").status == 0
    assert len([at for at in azure.resources() if "/certificates/" in at]) == 1
    tool.desk.write(est="issuing = ['AB:CD']")
    assert "est.issuing: must be SHA-256 fingerprints" in tool("plan").err


def test_whose_devices_would_be_let_in_no_more_is_said_before_it_is_done(
    tool: Tool, azure: Azure, operations: pki.Authority
) -> None:
    assert tool("deploy").status == 0
    assert tool("plan", "--json").json["leaving"] == []
    ca, root = operations.chain
    tool.desk.write(est=f"issuing = ['{pki.fingerprint(root)}']")
    azure.forget()
    planned = tool("plan")
    assert planned.status == 3
    assert f"{cas.name(ca)}: whom it has certified is not let in any more\n" in planned.out
    assert azure.changes() == []
    assert f"not let in any more: whom {cas.name(ca)} has certified\n" in tool("deploy").err
    assert tool("plan", "--json").json["leaving"] == []


def test_another_ca_under_the_name_of_ours_is_not_taken_for_it(
    tool: Tool, azure: Azure, operations: pki.Authority
) -> None:
    azure.behave(forbidden="PUT .*/certificates/")
    assert tool("deploy").status == 76
    azure.behave()
    name, stranger = cas.name(operations.certificate), pki.root("Somebody else").certificate
    Arm(settings.load(tool.desk.file)).upload(name, pki.der(stranger))
    refused = tool("deploy")
    assert refused.status == 78
    assert "what DPS has by this name is another one" in refused.err
    assert azure.groups(DPS) == []


# --- the link ---


def links(azure: Azure) -> str:
    """The connection string by which DPS goes to the hub, as only DPS knows it."""
    with azure._store() as store:
        [service] = [
            x for _, x in store.below("resource", "/") if x["type"].endswith("provisioningServices")
        ]
        [link] = service["lab"]["links"].values()
    return str(link)


def test_a_hub_that_was_made_again_is_linked_again_however_often_that_is_cut_off(
    tool: Tool, azure: Azure, tls: pki.Tls
) -> None:
    assert tool("deploy").status == 0
    sdk = Sdk(azure, tls.trust, GROUP)
    tag, dead = azure.resources()[DPS_AT]["tags"][LINK], sdk.opens(HUB)
    assert tag not in dead
    sdk.hubs.begin_delete(GROUP, HUB).result()
    azure.behave(forbidden=f"PUT .*/{DPS}$")
    assert "[azure-forbidden]" in tool("deploy").err  # with the new hub there
    assert links(azure) == dead != sdk.opens(HUB)
    azure.behave()
    assert "provisioning service: to be done" in tool("plan").out
    assert "provisioning service: done" in tool("deploy").err
    assert links(azure) == sdk.opens(HUB)
    assert len(azure.resources()[DPS_AT]["properties"]["iotHubs"]) == 1
    azure.forget()
    assert tool("deploy").status == 0
    assert azure.wishes() == []


# --- somebody else ---


def test_what_somebody_else_changes_meanwhile_is_not_overwritten(tool: Tool, azure: Azure) -> None:
    assert tool("deploy").status == 0
    for at, table in ((HUB_AT, "hub"), (DPS_AT, "dps")):
        tool.desk.write(**{table: "units = 2"})
        azure.behave(meanwhile=f"PUT .*/{at}$")
        stopped = tool("deploy")
        assert stopped.status == 75
        assert "[azure-changed]" in stopped.err
        there = azure.resources()[at]
        assert (there["sku"]["capacity"], there["tags"]["by"]) == (1, "a colleague")
        azure.behave()
        assert tool("deploy").status == 0
        there = azure.resources()[at]
        assert (there["sku"]["capacity"], there["tags"]["by"]) == (2, "a colleague")


@pytest.mark.parametrize("at", [HUB_AT, DPS_AT])
def test_what_somebody_else_makes_meanwhile_is_not_taken_over(
    tool: Tool, azure: Azure, at: str
) -> None:
    azure.behave(meanwhile=f"PUT .*/{at}$")
    made = tool("deploy")
    there = azure.resources()[at]
    assert there["tags"] == {}
    assert made.status == (0 if at == HUB_AT else 78), made.err  # theirs will do; or is not linked


# --- answers ---


def test_a_certificate_that_does_not_count_there_is_told(tool: Tool, azure: Azure) -> None:
    azure.behave(unproven=True)
    refused = tool("deploy")
    assert refused.status == 76
    assert "[azure-ca-unverified]" in refused.err
    assert azure.groups(DPS) == []


def test_a_server_that_stays_busy_is_told_in_the_end(tool: Tool, azure: Azure) -> None:
    azure.behave(throttle=10**6, retry_after=0.001)
    busy = tool("plan")
    assert busy.status == 75
    assert "[azure-busy]" in busy.err


def test_each_write_may_be_done_without_an_answer(tool: Tool, azure: Azure) -> None:
    """It is sent again, and refused for what it has done."""
    azure.behave(only="^PUT ", cut_at=[1, 3, 5, 7, 9, 11], polls=2)
    made = tool("deploy")
    assert made.status == 0, made.err
    assert len([x for x in azure.requests() if x["status"] == 0]) == 6
    assert len(azure.changes()) == 6


def test_each_removal_may_be_done_without_an_answer(tool: Tool, azure: Azure) -> None:
    """And a second one, meanwhile, waits for the first."""
    assert tool("deploy").status == 0
    azure.behave(only="^DELETE ", cut_at=[1, 3, 5], polls=4)
    gone = tool("destroy", "-y")
    assert gone.status == 0, gone.err
    assert len([x for x in azure.requests() if x["status"] == 0]) == 3
    assert azure.resources() == {}


def test_who_enrols_where_there_is_nothing_is_told_to_deploy(tool: Tool, tmp_path: Path) -> None:
    refused = tool("enrol", tmp_path / "any.json")
    assert refused.status == 78
    assert "[azure-absent]\nRemedy: Make it: tpm2cloud-operator deploy" in refused.err


def test_a_key_is_asked_for_again_though_nobody_says_when(tool: Tool, azure: Azure) -> None:
    for of in ("IotHubs", "provisioningServices"):
        azure.behave(only=f"POST .*/{of}/.*/listkeys$", throttle=1, retry_after=None)
        assert tool("deploy").status == 0
        assert [x["path"] for x in azure.requests() if x["status"] == 429]
        azure.forget()


@pytest.mark.parametrize("asked", [f"GET .*/{HUB_AT}", "/enrollmentGroups/"])
def test_what_makes_no_sense_is_no_answer(tool: Tool, azure: Azure, asked: str) -> None:
    assert tool("deploy").status == 0
    for nonsense in ({}, {"nonsense": "[]"}, {"nonsense": '"x"'}, {"nonsense": ""}):
        azure.behave(garble=asked, **nonsense)
        garbled = tool("plan")
        assert garbled.status == 76, nonsense
        assert "[azure-garbled]" in garbled.err


def test_a_resource_group_is_not_removed_for_an_answer_without_a_list(
    tool: Tool, azure: Azure
) -> None:
    assert tool("deploy").status == 0
    azure.behave(garble="GET .*/resources", nonsense="{}")
    garbled = tool("destroy", "-y")
    assert (garbled.status, "[azure-garbled]" in garbled.err) == (76, True), garbled
    azure.behave()
    assert azure.resources()  # the group, at least
