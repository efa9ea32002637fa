"""Azure's own SDKs as clients of the lab's Azure."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def upload(sdk: Sdk, service: str, name: str, ca: pki.Authority, *, verified: bool) -> Any:
    der = base64.b64encode(pki.der(ca.certificate)).decode()
    body: Any = {"properties": {"certificate": der, "isVerified": verified}}
    return sdk.certificates.create_or_update(sdk.group, service, name, body)


def tpm(name: str, number: int = 1, **more: Any) -> dict[str, Any]:
    attestation = {"type": "tpm", "tpm": {"endorsementKey": endorsement_key(number)}}
    return {"registrationId": name, "attestation": attestation, **more}


def group(name: str, reference: str) -> dict[str, Any]:
    x509 = {"caReferences": {"primary": reference}}
    return {"enrollmentGroupId": name, "attestation": {"type": "x509", "x509": x509}}


@contextmanager
def site(directory: Path, tls: pki.Tls) -> Iterator[Sdk]:
    """The clients of an Azure with a hub, a provisioning service that it is linked to, and a CA
    there that is verified."""
    with Azure(directory, tls).running() as azure:
        sdk = Sdk(azure, tls.trust, "site")
        sdk.make_group()
        sdk.make_hub("site-hub")
        sdk.make_service("site-dps", sdk.opens("site-hub"))
        upload(sdk, "site-dps", "ca", pki.authority("Operations CA"), verified=True)
        yield sdk
