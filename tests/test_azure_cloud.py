"""The lab's Azure is judged by Azure's own SDKs, before it judges the operator's tool: what they
ask it answers as they expect, and what is wrong it refuses. It was never compared with Azure."""

import base64
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.identity import ClientSecretCredential
from azure.iot.deviceprovisioning import DeviceProvisioningClient
from azure.mgmt.iothub import IotHubClient
from azure.mgmt.iothubprovisioningservices import IotDpsClient
from azure.mgmt.resource.resources import ResourceManagementClient

from tests.lab import pki
from tests.lab.azure import Azure
from tests.lab.azure_eks import endorsement_key

PLACE = "westeurope"
S1 = {"name": "S1", "capacity": 1}


@dataclass
class Sdk:
    """Azure's clients, for one who has the secret; what they make is in the group `group`."""

    azure: Azure
    trust: Path
    group: str

    def credential(self, secret: str | None = None) -> ClientSecretCredential:
        return ClientSecretCredential(
            self.azure.tenant,
            self.azure.client_id,
            secret or self.azure.client_secret,
            authority=self.azure.authority,
            disable_instance_discovery=True,
            connection_verify=str(self.trust),
        )

    def of(self, client: Any, **more: Any) -> Any:
        given = {
            "credential": self.credential(),
            "subscription_id": self.azure.subscription,
            "base_url": self.azure.url,
            "credential_scopes": [f"{self.azure.url}/.default"],
            "connection_verify": str(self.trust),
            "retry_backoff_factor": 0.01,
        }
        return client(**{**given, **more})

    @property
    def groups(self) -> Any:
        return self.of(ResourceManagementClient).resource_groups

    @property
    def hubs(self) -> Any:
        return self.of(IotHubClient).iot_hub_resource

    @property
    def services(self) -> Any:
        return self.of(IotDpsClient).iot_dps_resource

    @property
    def certificates(self) -> Any:
        return self.of(IotDpsClient).dps_certificate

    def make_group(self, name: str | None = None, **tags: str) -> Any:
        return self.groups.create_or_update(name or self.group, {"location": PLACE, "tags": tags})

    def make_hub(self, name: str, **more: Any) -> Any:
        body = {"location": PLACE, "sku": S1, "properties": {}}
        begun = self.hubs.begin_create_or_update(self.group, name, body | more)
        return begun.result()

    def opens(self, hub: str, policy: str = "iothubowner") -> str:
        """Its connection string."""
        host = self.hubs.get(self.group, hub).properties.host_name
        key = self.hubs.get_keys_for_key_name(self.group, hub, policy).primary_key
        return f"HostName={host};SharedAccessKeyName={policy};SharedAccessKey={key}"

    def make_service(self, name: str, *links: str, **more: Any) -> Any:
        linked = [{"connectionString": link, "location": PLACE} for link in links]
        body = {"location": PLACE, "sku": S1, "properties": {"iotHubs": linked}, **more}
        return self.services.begin_create_or_update(self.group, name, body).result()

    def enrolments(self, service: str, credential: Any = None, **more: Any) -> Any:
        """The client of the service API."""
        found = self.services.get(service, self.group)
        host = found.properties.service_operations_host_name
        given = {"connection_verify": str(self.trust), "retry_backoff_factor": 0.01, **more}
        return DeviceProvisioningClient(host, credential or self.credential(), **given)


@pytest.fixture(scope="module")
def azure(tls: pki.Tls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azure]:
    with Azure(tmp_path_factory.mktemp("azure") / "azure", tls).running() as azure:
        yield azure


@pytest.fixture(scope="module")
def site(azure: Azure, tls: pki.Tls) -> Sdk:
    """With a hub, a provisioning service that it is linked to, and a CA there that is verified."""
    sdk = Sdk(azure, tls.trust, "site")
    sdk.make_group()
    sdk.make_hub("site-hub")
    sdk.make_service("site-dps", sdk.opens("site-hub"))
    upload(sdk, "site-dps", "ca", pki.authority("Operations CA"), verified=True)
    return sdk


@pytest.fixture
def sdk(site: Sdk, azure: Azure) -> Iterator[Sdk]:
    """The same, well-behaved, and nothing has happened yet."""
    azure.behave()
    azure.forget()
    yield site
    azure.behave()


def upload(sdk: Sdk, service: str, name: str, ca: pki.Authority, *, verified: bool) -> Any:
    der = base64.b64encode(pki.der(ca.certificate)).decode()
    body: Any = {"properties": {"certificate": der, "isVerified": verified}}
    return sdk.certificates.create_or_update(sdk.group, service, name, body)


def tpm(name: str, number: int = 1, **more: Any) -> dict[str, Any]:
    attestation = {"type": "tpm", "tpm": {"endorsementKey": endorsement_key(number)}}
    return {"registrationId": name, "attestation": attestation, **more}


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


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"location": "northeurope"}, "InvalidResourceLocation"),
        ({"location": None}, "LocationRequired"),
        ({"sku": {"name": "S9", "capacity": 1}}, "InvalidSku"),
        ({"sku": {"name": "S1", "capacity": 201}}, "InvalidSku"),
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


def group(name: str, reference: str) -> dict[str, Any]:
    x509 = {"caReferences": {"primary": reference}}
    return {"enrollmentGroupId": name, "attestation": {"type": "x509", "x509": x509}}


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
