"""The lab's Azure is judged by Azure's own SDKs, before it judges the operator's tool: what they
ask it answers as they expect, and what is wrong it refuses. It was never compared with Azure."""

import base64
import time
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
)
from azure.mgmt.iothub import IotHubClient
from azure.mgmt.resource.resources import ResourceManagementClient

from tests.lab import pki
from tests.lab.azure import Azure
from tests.lab.azure_sdk import PLACE, S1, Sdk, tpm, upload

# --- who asks ---


def test_who_has_the_secret_gets_a_token_and_others_get_none(sdk: Sdk) -> None:
    scope = "https://management.azure.com/.default"
    assert sdk.credential().get_token(scope).expires_on > time.time() + 3000
    with pytest.raises(ClientAuthenticationError, match="AADSTS7000215"):
        sdk.credential("wrong").get_token(scope)
    with pytest.raises(ClientAuthenticationError, match="AADSTS500011"):
        sdk.credential().get_token("https://vault.azure.net/.default")


def test_a_token_is_good_where_it_is_meant_for_and_until_it_expires(sdk: Sdk, azure: Azure) -> None:
    other = {"credential_scopes": ["https://azure-devices-provisioning.net/.default"]}
    with pytest.raises(ClientAuthenticationError, match="InvalidAuthenticationToken"):
        sdk.of(ResourceManagementClient, **other).resource_groups.get(sdk.group)
    groups = sdk.groups
    groups.get(sdk.group)
    azure.behave(revoked=time.time())
    with pytest.raises(ClientAuthenticationError, match="ExpiredAuthenticationToken"):
        groups.get(sdk.group)
    sdk.groups.get(sdk.group)  # by a new one


def test_who_lacks_a_role_is_told_so(sdk: Sdk, azure: Azure) -> None:
    azure.behave(forbidden="PUT .*/IotHubs/|/enrollmentGroups")
    with pytest.raises(HttpResponseError, match="AuthorizationFailed") as refused:
        sdk.make_hub("another-hub")
    assert refused.value.status_code == 403
    with pytest.raises(HttpResponseError) as refused:
        sdk.enrolments("site-dps").enrollment_group.get("group")
    assert refused.value.status_code == 403


# --- Resource Manager ---


def test_a_group_is_there_until_it_is_deleted_with_all_that_is_in_it(
    sdk: Sdk, azure: Azure, tls: pki.Tls
) -> None:
    mine = Sdk(azure, tls.trust, "short-lived")
    assert not mine.groups.check_existence(mine.group)
    assert mine.make_group(made="here").tags == {"made": "here"}
    mine.make_hub("short-hub")
    mine.make_service("short-dps", mine.opens("short-hub"))
    mine.enrolments("short-dps").enrollment.create_or_update("a", tpm("a"))
    inside = mine.of(ResourceManagementClient).resources.list_by_resource_group(mine.group)
    assert [(each.name, each.type) for each in inside] == [
        ("short-hub", "Microsoft.Devices/IotHubs"),
        ("short-dps", "Microsoft.Devices/provisioningServices"),
    ]
    azure.behave(polls=9)
    deleting = mine.groups.begin_delete(mine.group)
    assert mine.groups.get(mine.group).properties.provisioning_state == "Deleting"
    deleting.result()
    assert not mine.groups.check_existence(mine.group)
    with pytest.raises(ResourceNotFoundError, match="ResourceGroupNotFound"):
        mine.hubs.get(mine.group, "short-hub")
    mine.make_group()
    assert mine.make_service("short-dps").properties.iot_hubs == []
    assert azure.enrolments("short-dps") == []


def test_what_takes_long_is_seen_under_way_and_comes_to_its_end_without_whoever_began_it(
    sdk: Sdk, azure: Azure
) -> None:
    azure.behave(polls=2)
    body = {"location": "West Europe", "sku": S1, "properties": {"minTlsVersion": "1.2"}}
    sdk.hubs.begin_create_or_update(sdk.group, "slow-hub", body, polling=False)
    seen = [sdk.hubs.get(sdk.group, "slow-hub").properties.provisioning_state for _ in range(3)]
    assert seen == ["Activating", "Activating", "Succeeded"]
    assert sdk.hubs.get(sdk.group, "slow-hub").location == PLACE
    sdk.hubs.begin_delete(sdk.group, "slow-hub", polling=False)
    with pytest.raises(HttpResponseError, match="Deleting"):
        sdk.make_hub("slow-hub")
    assert sdk.hubs.get(sdk.group, "slow-hub").properties.state == "Deleting"
    with pytest.raises(ResourceNotFoundError):
        sdk.hubs.get(sdk.group, "slow-hub")


def test_what_cannot_be_made_fails_in_the_end_and_can_be_made_another_time(
    sdk: Sdk, azure: Azure
) -> None:
    azure.behave(failing=["ill-hub"])
    with pytest.raises(HttpResponseError, match="As the test wishes"):
        sdk.make_hub("ill-hub")
    assert sdk.hubs.get(sdk.group, "ill-hub").properties.provisioning_state == "Failed"
    azure.behave()
    assert sdk.make_hub("ill-hub").properties.provisioning_state == "Succeeded"


def test_who_asks_for_what_is_there_changes_nothing(sdk: Sdk, azure: Azure) -> None:
    hub = sdk.hubs.get(sdk.group, "site-hub")
    assert sdk.make_hub("site-hub").etag == hub.etag
    shown = sdk.services.get("site-dps", sdk.group).properties.iot_hubs[0].connection_string
    assert shown.endswith(";SharedAccessKey=****")
    sdk.make_service("site-dps", shown)
    sdk.make_group()
    assert azure.changes() == []
    assert len(azure.wishes()) == 3
    assert sdk.make_hub("site-hub", tags={"a": "b"}).etag != hub.etag
    (change,) = azure.changes()
    assert change.startswith("update PUT ")
    assert change.endswith("/IotHubs/site-hub")


def test_a_change_under_an_old_etag_is_refused(sdk: Sdk) -> None:
    body = {"location": PLACE, "sku": S1, "tags": {"c": "d"}}
    ask = sdk.hubs.begin_create_or_update
    with pytest.raises(HttpResponseError, match="PreconditionFailed"):
        ask(sdk.group, "site-hub", body, if_match="old")
    with pytest.raises(HttpResponseError, match="exists already"):
        ask(sdk.group, "site-hub", body, headers={"If-None-Match": "*"})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"location": "northeurope"}, "InvalidResourceLocation"),
        ({"location": None}, "LocationRequired"),
        ({"sku": {"name": "S9", "capacity": 1}}, "InvalidSku"),
        ({"sku": {"name": "S1", "capacity": 201}}, "InvalidSku"),
        ({"sku": {"name": "F1", "capacity": 1}}, "InvalidPartitionCount"),
    ],
)
def test_a_hub_that_cannot_be_is_refused(sdk: Sdk, change: dict[str, Any], code: str) -> None:
    with pytest.raises(HttpResponseError, match=code):
        sdk.make_hub("site-hub", **change)


def test_a_name_that_others_have_is_not_to_be_had(sdk: Sdk, azure: Azure) -> None:
    azure.behave(taken=["contoso"])
    with pytest.raises(HttpResponseError, match="NameNotAvailable"):
        sdk.make_hub("Contoso")
    for ask in (
        sdk.hubs.check_name_availability,
        sdk.services.check_provisioning_service_name_availability,
    ):
        assert ask({"name": "contoso"}).name_available is False
        assert ask({"name": "fabrikam"}).name_available is True


def test_a_subscription_has_to_register_the_provider(sdk: Sdk, azure: Azure) -> None:
    azure.behave(unregistered=True)
    with pytest.raises(HttpResponseError, match="MissingSubscriptionRegistration"):
        sdk.hubs.get(sdk.group, "site-hub")
    providers = sdk.of(ResourceManagementClient).providers
    assert providers.get("Microsoft.Devices").registration_state == "NotRegistered"
    assert providers.register("Microsoft.Devices").registration_state == "Registered"
    sdk.hubs.get(sdk.group, "site-hub")


def test_versions_and_subscriptions_that_there_are_not_are_refused(sdk: Sdk) -> None:
    with pytest.raises(HttpResponseError, match="InvalidApiVersionParameter"):
        sdk.of(IotHubClient, api_version="2019-03-22").iot_hub_resource.get(sdk.group, "site-hub")
    with pytest.raises(ResourceNotFoundError, match="SubscriptionNotFound"):
        sdk.of(ResourceManagementClient, subscription_id="other").resource_groups.get("site")


def test_a_hub_is_linked_by_a_key_that_may_write_to_it(sdk: Sdk) -> None:
    good = sdk.opens("site-hub")
    for bad in (good[:-8] + "AAAAAAA=", sdk.opens("site-hub", "device"), "HostName=other"):
        with pytest.raises(HttpResponseError, match="InvalidConnectionString"):
            sdk.make_service("site-dps", bad)
    with pytest.raises(HttpResponseError, match="InvalidRequestContent"):
        sdk.make_service("site-dps", properties={"colour": "red"})
    found = sdk.make_service("site-dps", good).properties
    assert [link.name for link in found.iot_hubs] == ["site-hub.azure-devices.net"]
    assert found.id_scope.startswith("0ne")


# --- certificates ---


def test_who_has_the_key_of_a_ca_proves_it_by_a_certificate_for_the_code(sdk: Sdk) -> None:
    ca, stranger = pki.authority("Plant CA"), pki.authority("Stranger")
    there = upload(sdk, "site-dps", "plant", ca, verified=False)
    assert there.properties.is_verified is False
    matches = {"match_condition": MatchConditions.IfNotModified}
    ask = sdk.certificates.generate_verification_code
    told = ask("plant", sdk.group, "site-dps", etag=there.etag, **matches)
    code = told.properties.verification_code
    for issuer, name in ((stranger, code), (ca, "another code")):
        with pytest.raises(HttpResponseError, match="BadRequest"):
            verify(sdk, issuer, name, matches)
    assert verify(sdk, ca, code, matches).properties.is_verified is True


def verify(sdk: Sdk, issuer: pki.Authority, code: str, matches: dict[str, Any]) -> Any:
    proof = issuer.issue(pki.new_key().public_key(), code)
    text = base64.b64encode(pki.der(proof)).decode()
    etag = sdk.certificates.get("plant", sdk.group, "site-dps").etag
    body: Any = {"certificate": text}
    ask = sdk.certificates.verify_certificate
    return ask("plant", sdk.group, "site-dps", body, etag=etag, **matches)


def test_a_certificate_is_replaced_by_who_knows_its_etag_and_must_be_of_a_ca(sdk: Sdk) -> None:
    with pytest.raises(HttpResponseError, match="PreconditionFailed"):
        upload(sdk, "site-dps", "ca", pki.authority("Another"), verified=True)
    ca = pki.authority("Leaf's")
    leaf = pki.Authority(ca.key, (ca.issue(pki.new_key().public_key(), "leaf"), *ca.chain))
    with pytest.raises(HttpResponseError, match="not one of a CA"):
        upload(sdk, "site-dps", "leaf", leaf, verified=True)
