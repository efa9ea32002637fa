"""The operator makes the cloud that devices come to: plan, deploy, destroy; in the lab's Azure,
which was made of Azure's published reference, and is not Azure."""

import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from agent import config
from agent.config_files import effective
from agent.operator import cas, settings
from tests.lab import pki, process
from tests.lab.azure import Azure
from tests.lab.desk import DPS, GROUP, HUB, Desk, Tool, until

STEPS = ["resource group", "iot hub", "provisioning service", "operational CA", "enrolment group"]
# What is written, in this order: a regular expression for "METHOD /path", each.
WRITES = [
    f"PUT .*/{GROUP}$",
    f"PUT .*/{HUB}$",
    f"PUT .*/{DPS}$",
    "PUT .*/certificates/",
    "PUT /enrollmentGroups/",
]


def test_a_cloud_is_planned_made_found_done_and_taken_away_twice(
    tool: Tool, azure: Azure, operations: pki.Authority, tmp_path: Path
) -> None:
    planned = tool("plan", "--json")
    assert planned.status == 3
    assert planned.json["steps"] == [{"step": name, "done": None} for name in STEPS]
    assert azure.wishes() == []

    made = tool("deploy")
    assert made.status == 0, made.err
    assert [line.partition(":")[0] for line in made.err.splitlines()] == STEPS
    file = tmp_path / "config.toml"
    file.write_text("[device]\ntarget = 'device'\n" + made.out + "attestation = 'tpm'\n")
    scope = azure.resources()[f"provisioningServices/{DPS}"]["properties"]["idScope"]
    assert config.load(file).dps.id_scope == scope
    [group] = azure.groups(DPS)
    name = cas.name(operations.certificate)
    assert group["attestation"]["x509"]["caReferences"] == {"primary": name}
    certificates = [x for at, x in azure.resources().items() if "/certificates/" in at]
    assert len(certificates) == 2  # the root, and the one that issues
    assert all(each["properties"]["isVerified"] for each in certificates)

    azure.forget()
    assert tool("plan").status == 0
    again = tool("deploy", "--json")
    assert {step["was"] for step in again.json["steps"]} == {"already done"}
    assert again.json["dps"] == tomllib.loads(made.out)["dps"]
    assert azure.wishes() == []

    assert tool("destroy", "-y").status == 0
    assert azure.resources() == {}
    azure.forget()
    assert tool("destroy", "-y").status == 0
    assert azure.wishes() == []


def test_a_run_that_is_stopped_before_any_write_is_gone_on_with(tool: Tool, azure: Azure) -> None:
    for n, write in enumerate(WRITES):
        azure.behave(forbidden=write)
        stopped = tool("deploy")
        assert stopped.status == 76
        assert "[azure-forbidden]" in stopped.err
        assert len(re.findall(": (?:already )?done:", stopped.err)) == n
    azure.behave()
    assert tool("deploy").status == 0
    assert len(azure.changes()) == len(WRITES) + 1  # two certificates


def test_a_run_that_is_killed_while_azure_is_at_work_is_gone_on_with(
    desk: Desk, tool: Tool, azure: Azure
) -> None:
    azure.behave(polls=4)
    command = [sys.executable, "-m", "agent.operator.cli", "--config", str(desk.file), "deploy"]
    begun = subprocess.Popen(command, cwd=process.TOP, stderr=subprocess.DEVNULL)
    until(lambda: any(f"/IotHubs/{HUB}" in each for each in azure.wishes()))
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    azure.behave()
    assert tool("deploy").status == 0
    assert len([each for each in azure.wishes() if each.endswith(f"/IotHubs/{HUB}")]) == 1


def test_answers_that_get_lost_and_a_busy_server_do_no_harm(tool: Tool, azure: Azure) -> None:
    azure.behave(throttle_every=5, cut_at=[7, 16, 23])
    assert tool("deploy").status == 0
    azure.behave()
    azure.forget()
    assert tool("plan").status == 0
    azure.behave(fail_every=6)
    assert tool("destroy", "-y").status == 0
    assert azure.resources() == {}


def test_what_is_not_ours_is_used_as_it_is_and_never_changed_or_removed(
    desk: Desk, tool: Tool, azure: Azure
) -> None:
    desk.write(enrolment="group = 'others'")
    assert tool("deploy").status == 0
    desk.write()
    azure.forget()
    refused = tool("deploy")
    assert refused.status == 78
    assert "[azure-differs]" in refused.err
    desk.write(enrolment="group = 'others'", azure="", hub="units = 2")
    assert tool("deploy").status == 0  # of ours, what can be changed is
    assert azure.resources()[f"IotHubs/{HUB}"]["sku"]["capacity"] == 2
    azure.forget()
    desk.write()
    stays = tool("destroy", "-y")
    assert stays.status == 0
    assert stays.err.count("stays: it is not ours") == 3
    assert azure.wishes() == []


def test_what_another_configuration_made_in_the_same_resource_group_stays(
    desk: Desk, tool: Tool, azure: Azure
) -> None:
    """Both have the default enrolment group, and so the same tag."""
    assert tool("deploy").status == 0
    others = desk.file.read_text().replace(HUB, "other-hub").replace(DPS, "other-dps")
    desk.file.write_text(others)
    assert tool("deploy").status == 0
    removed = tool("destroy", "-y")
    assert removed.status == 0
    assert f"it also holds {DPS} (Microsoft.Devices/provisioningServices), {HUB}" in removed.err
    left = {at for at in azure.resources() if "/certificates/" not in at}
    assert left == {GROUP, f"IotHubs/{HUB}", f"provisioningServices/{DPS}"}


def test_a_hub_that_is_taken_or_fails_or_stands_elsewhere_is_told(
    desk: Desk, tool: Tool, azure: Azure
) -> None:
    azure.behave(taken=[HUB])
    assert "[azure-name-taken]" in tool("deploy").err
    azure.behave(unregistered=True)
    assert "az provider register --namespace Microsoft.Devices" in tool("deploy").err
    azure.behave(failing=[HUB])
    failed = tool("deploy")
    assert failed.status == 76, failed.err
    desk.write(enrolment="group = 'others'")
    assert "it is not ours (no tag tpm2cloud), and 'Failed'" in tool("plan").err
    desk.write()
    azure.behave()
    assert tool("deploy").status == 0
    desk.file.write_text(desk.file.read_text().replace("westeurope", "northeurope"))
    moved = tool("plan")
    assert moved.status == 78
    assert "it is in westeurope, and cannot be moved" in moved.err


def test_removing_asks_first(tool: Tool, azure: Azure) -> None:
    assert tool("deploy").status == 0
    azure.forget()
    asked = tool("destroy")
    assert asked.status == 78
    assert "[destroy-unconfirmed]" in asked.err
    assert f"iot hub {HUB}" in asked.err
    assert azure.wishes() == []


# --- whom to believe ---


def test_a_ca_is_only_believed_under_the_trust_anchor_that_was_given(
    desk: Desk, tool: Tool, azure: Azure, tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(pki.pem(pki.root("Somebody else").certificate))
    desk.trust = stranger
    desk.write()
    refused = tool("deploy")
    assert refused.status == 76
    assert "[tls-untrusted]" in refused.err
    assert not [each for each in azure.wishes() if "certificates" in each]
    text = desk.file.read_text()
    desk.file.write_text(re.sub("trust = '.*stranger.pem'", "", text))
    without = tool("plan")
    assert without.status == 78
    assert "est.trust: required" in without.err


def test_an_azure_for_which_nobody_vouches_learns_no_secret(
    desk: Desk, tool: Tool, tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(pki.pem(pki.root("Somebody else").certificate))
    text = desk.file.read_text()
    desk.file.write_text(text.replace(f"'{desk.azure.tls.trust}'\npoll", f"'{stranger}'\npoll"))
    refused = tool("plan")
    assert refused.status in (75, 76)
    assert desk.azure.requests() == []


def test_who_is_not_known_is_told_and_no_secret_is(
    tool: Tool, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "quite-another-secret")
    refused = tool("--debug", "deploy")
    assert refused.status == 76
    assert "[azure-login]" in refused.err
    assert "quite-another-secret" not in refused.err + refused.out
    monkeypatch.setenv("AZURE_CLIENT_SECRET", desk.azure.client_secret)
    made = tool("--debug", "deploy")
    assert made.status == 0
    assert desk.azure.client_secret not in made.err + made.out
    assert "SharedAccess" not in made.err + made.out


def test_without_the_packages_of_azure_it_says_how_to_get_them(desk: Desk) -> None:
    code = (
        "import sys; sys.modules['azure.core'] = None; from agent.operator import cli; "
        f"sys.exit(cli.main(['--config', {str(desk.file)!r}, 'plan']))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=process.TOP, capture_output=True, text=True)
    assert done.returncode == 78
    assert "[operator-software]" in done.stderr


def test_the_guide_shows_every_setting_with_its_default(tmp_path: Path) -> None:
    guide = (process.TOP / "docs/operator.md").read_text()
    blocks = re.findall("```toml\n(.*?)```", guide, re.DOTALL)
    [example] = [block for block in blocks if "[azure]" in block]
    (tmp_path / "operator.toml").write_text(example)
    shown = settings.load(tmp_path / "operator.toml")
    hub, dps = settings.Hub(name=shown.hub.name), settings.Dps(name=shown.dps.name)
    est = shown.est and settings.Est(url=shown.est.url, trust=shown.est.trust)
    assert shown == settings.Operator(azure=shown.azure, hub=hub, dps=dps, est=est)
    for at, _, _ in effective(shown, {}):
        assert re.search(rf"^{at.split('.')[-1]} = ", example, re.MULTILINE), at


def test_a_configuration_says_all_that_is_wrong_with_it(desk: Desk, tool: Tool) -> None:
    desk.file.write_text("[azure]\nsubscription = 'mine'\nlocation = 'West Europe'\n[dsp]\n")
    refused = tool("plan")
    assert refused.status == 78
    for each in ("azure.resource_group: required", "dsp: unknown setting, did you mean dps?"):
        assert each in refused.err
    for hub, what in {
        "sku = 'B1'": "hub.sku: must be S1, S2, S3 or F1 for devices with IoT Edge",
        "sku = 'F1'\nunits = 2": "hub.units: must be 1 for F1",
    }.items():
        desk.write(hub=hub)
        assert what in tool("plan").err
