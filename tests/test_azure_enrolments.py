"""Enrolments in the lab's Azure, and how it misbehaves when a test wishes: judged by Azure's own
SDKs, as in test_azure_cloud."""

from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)

from agent.errors import DpsDisabled, DpsUnauthorized
from tests.lab import pki
from tests.lab.azure import Azure
from tests.lab.azure_eks import endorsement_key
from tests.lab.azure_sdk import Sdk, group, tpm, upload
from tests.lab.provisioning import Dps
from tests.lab.registrant import Registrant

# --- the service API ---


def test_a_group_stands_on_a_verified_certificate_of_the_service(sdk: Sdk, azure: Azure) -> None:
    upload(sdk, "site-dps", "unverified", pki.authority("Not verified"), verified=False)
    groups = sdk.enrolments("site-dps").enrollment_group
    for name, why in (("unverified", "not verified"), ("nowhere", "no certificate")):
        with pytest.raises(HttpResponseError, match=why):
            groups.create_or_update("plant", group("plant", name))
    made = groups.create_or_update("plant", group("plant", "ca"))
    assert made["provisioningStatus"] == "enabled"
    assert [each["enrollmentGroupId"] for each in groups.query({"query": "SELECT *"})] == ["plant"]
    assert azure.groups("site-dps") == [made]
    groups.delete("plant")
    with pytest.raises(ResourceNotFoundError):
        groups.get("plant")


def test_an_enrolment_is_made_once_and_changed_by_who_knows_its_etag(sdk: Sdk) -> None:
    ours = sdk.enrolments("site-dps").enrollment
    made = ours.create_or_update("box-1", tpm("box-1"))
    with pytest.raises(ResourceExistsError):
        ours.create_or_update("box-1", tpm("box-1", 2))
    for etag, status in (("unquoted", 400), ('"another"', 412)):
        with pytest.raises(HttpResponseError) as refused:
            ours.create_or_update("box-1", tpm("box-1", 2), if_match=etag)
        assert refused.value.status_code == status
    changed = ours.create_or_update("BOX-1", tpm("BOX-1", 2), if_match=made["etag"])
    assert changed["attestation"]["tpm"]["endorsementKey"] == endorsement_key(2)
    assert ours.get("Box-1")["etag"] == changed["etag"] != made["etag"]
    ours.delete("box-1")
    with pytest.raises(ResourceNotFoundError):
        ours.delete("box-1")


@pytest.mark.parametrize(
    "change",
    [
        {"attestation": {"type": "tpm", "tpm": {"endorsementKey": "AAAA"}}},
        {"attestation": {"type": "symmetricKey"}},
        {"registrationId": "another"},
        {"iotHubs": ["other.azure-devices.net"]},
        {"allocationPolicy": "fairest"},
        {"provisioningStatus": "perhaps"},
        {"colour": "red"},
    ],
)
def test_an_enrolment_that_cannot_be_is_refused(sdk: Sdk, change: dict[str, Any]) -> None:
    with pytest.raises(HttpResponseError) as refused:
        sdk.enrolments("site-dps").enrollment.create_or_update("odd", tpm("odd") | change)
    assert refused.value.status_code == 400


def test_of_a_bulk_operation_each_is_done_or_refused_by_itself(sdk: Sdk, azure: Azure) -> None:
    azure.behave(refused={"bulk-3": "As the test wishes"})
    ours = sdk.enrolments("site-dps").enrollment
    every = [tpm(f"bulk-{number}", number) for number in range(11)]
    with pytest.raises(HttpResponseError, match="1 to 10"):
        ours.run_bulk_operation({"mode": "create", "enrollments": every})
    done = ours.run_bulk_operation({"mode": "create", "enrollments": every[:4]})
    assert done["isSuccessful"] is False
    assert [(e["registrationId"], e["errorStatus"]) for e in done["errors"]] == [
        ("bulk-3", "As the test wishes")
    ]
    again = ours.run_bulk_operation({"mode": "create", "enrollments": every[2:5]})
    assert [e["errorCode"] for e in again["errors"]] == [409201, 400301]
    update = {"mode": "updateIfMatchETag", "enrollments": [tpm("bulk-0", 9, etag='"old"')]}
    assert [e["errorCode"] for e in ours.run_bulk_operation(update)["errors"]] == [412001]
    gone = {
        "mode": "delete",
        "enrollments": [{"registrationId": f"bulk-{n}"} for n in (0, 1, 2, 4)],
    }
    assert ours.run_bulk_operation(gone)["isSuccessful"] is True
    kinds = [change.split()[0] for change in azure.changes()]
    assert kinds == 4 * ["create"] + 4 * ["delete"]


def test_a_query_goes_through_all_of_them_by_pages(sdk: Sdk, azure: Azure) -> None:
    ours = sdk.enrolments("site-dps").enrollment
    names = [f"page-{number:02}" for number in range(25)]
    for start in range(0, 25, 10):
        some = [tpm(name, 7) for name in names[start : start + 10]]
        ours.run_bulk_operation({"mode": "create", "enrollments": some})
    azure.forget()
    found = ours.query({"query": "SELECT * FROM enrollments"}, top=10)
    assert [each["registrationId"] for each in found] == names
    assert [line["path"] for line in azure.requests()].count("/enrollments/query") == 3
    with pytest.raises(HttpResponseError, match="not supported"):
        list(ours.query({"query": "SELECT * FROM enrollments WHERE moon = 'full'"}))


def test_a_key_of_the_service_opens_it_too(sdk: Sdk) -> None:
    (key,) = sdk.services.list_keys("site-dps", sdk.group)
    for value in (key.primary_key, key.secondary_key):
        credential = AzureNamedKeyCredential(key.key_name, value)
        list(sdk.enrolments("site-dps", credential).enrollment_group.query({"query": "SELECT *"}))
    wrong = AzureNamedKeyCredential(key.key_name, "d3Jvbmc=")
    with pytest.raises(ClientAuthenticationError, match="wrong signature"):
        sdk.enrolments("site-dps", wrong).enrollment.get("any")


# --- misbehaviour ---


def test_who_is_throttled_and_who_meets_a_broken_server_asks_again(sdk: Sdk, azure: Azure) -> None:
    azure.behave(throttle_every=2, fail=1)
    ours = sdk.enrolments("site-dps").enrollment
    for number in range(3):
        ours.create_or_update(f"patient-{number}", tpm(f"patient-{number}", number))
    asked = [line["status"] for line in azure.requests() if "/enrollments/" in line["path"]]
    assert asked.count(200) == 3
    assert {429} < set(asked)
    assert 500 in [line["status"] for line in azure.requests()]
    assert len(azure.changes()) == 3


@pytest.mark.parametrize("done", [True, False])
def test_an_answer_that_is_lost_says_nothing_of_what_was_done(
    sdk: Sdk, azure: Azure, done: bool
) -> None:
    name = f"lost-{done}"
    ours = sdk.enrolments("site-dps", retry_total=0).enrollment
    azure.behave(only="PUT /enrollments", cut_at=[1], cut_done=done)
    with pytest.raises(Exception, match="Connection aborted"):
        ours.create_or_update(name, tpm(name))
    there = [each["registrationId"] for each in azure.enrolments("site-dps")]
    assert (name in there) is done


def test_changes_that_meet_another_are_refused_for_the_moment(sdk: Sdk, azure: Azure) -> None:
    azure.behave(busy=1)
    with pytest.raises(HttpResponseError, match="Conflict"):
        sdk.make_hub("site-hub", tags={"e": "f"})
    sdk.make_hub("site-hub", tags={"e": "f"})


def test_what_is_there_is_there_after_a_restart(tls: pki.Tls, tmp_path: Path) -> None:
    azure = Azure(tmp_path / "azure", tls)
    sdk = Sdk(azure, tls.trust, "lasting")
    with azure.running():
        sdk.make_group()
        sdk.make_service("lasting-dps")
        sdk.enrolments("lasting-dps").enrollment.create_or_update("a", tpm("a"))
    with azure.running():
        assert sdk.enrolments("lasting-dps").enrollment.get("a")["registrationId"] == "a"


# --- devices ---


def test_who_is_enrolled_here_registers_at_the_service_for_devices(
    tls: pki.Tls, tmp_path: Path
) -> None:
    dps, ca = Dps(tmp_path / "dps", tls, []), pki.authority("Operations CA")
    dps.behave(retry_after=0, polls=0)
    azure = Azure(tmp_path / "azure", tls, dps=dps, hub_hosts={"hub": dps.hubs[0]})
    azure.behave(polls=0)
    sdk = Sdk(azure, tls.trust, "plant")
    with dps.running(), azure.running():
        sdk.make_group()
        sdk.make_hub("hub")
        properties = sdk.make_service("dps", sdk.opens("hub")).properties
        assert properties.id_scope == dps.scope
        assert f"https://{properties.device_provisioning_host_name}" == dps.url
        device = registrant(dps, tls, ca, tmp_path, "device-1")
        with pytest.raises(DpsUnauthorized):
            device.register()
        upload(sdk, "dps", "ca", ca, verified=True)
        api = sdk.enrolments("dps")
        made = api.enrollment_group.create_or_update("all", group("all", "ca"))
        assert device.register().hub == dps.hubs[0]
        off = {**group("all", "ca"), "provisioningStatus": "disabled"}
        api.enrollment_group.create_or_update("all", off, if_match=made["etag"])
        with pytest.raises(DpsDisabled):
            device.register()
        known = {"primary": {"certificate": (tmp_path / "device-1.pem").read_text()}}
        attestation = {"type": "x509", "x509": {"clientCertificates": known}}
        one = {"registrationId": "device-1", "deviceId": "box", "attestation": attestation}
        api.enrollment.create_or_update("device-1", one)
        assert device.register().device_id == "box"
        sdk.services.begin_delete("dps", sdk.group).result()
        with pytest.raises(DpsUnauthorized):
            device.register()


def registrant(dps: Dps, tls: pki.Tls, ca: pki.Authority, directory: Path, name: str) -> Registrant:
    """A device with a certificate of this CA."""
    key, file = pki.new_key(), directory / f"{name}.pem"
    file.write_bytes(pki.pem(ca.issue(key.public_key(), name)))
    secret = pki.write_private(directory / f"{name}.key", pki.private_pem(key))
    identify = lambda context: context.load_cert_chain(file, secret)  # noqa: E731
    return Registrant(dps, tls.trust, name, identify=identify)
