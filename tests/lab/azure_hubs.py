"""IoT hubs of the lab's Resource Manager: what is special of them."""

import base64
import os
from typing import Any

from tests.lab.azure_store import Document, Store
from tests.lab.azure_wire import Error

VERSIONS = {"2021-07-02", "2022-11-15-preview", "2023-06-30", "2023-06-30-preview"}
SKUS = {"F1", "B1", "B2", "B3", "S1", "S2", "S3"}
KEYS = {
    "iothubowner": "RegistryWrite, ServiceConnect, DeviceConnect",
    "service": "ServiceConnect",
    "device": "DeviceConnect",
    "registryRead": "RegistryRead",
    "registryReadWrite": "RegistryWrite",
}
# What may be set, of IotHubProperties.
SETTINGS = {
    "authorizationPolicies", "disableLocalAuth", "disableDeviceSAS", "disableModuleSAS",
    "restrictOutboundNetworkAccess", "allowedFqdnList", "ipFilterRules", "publicNetworkAccess",
    "networkRuleSets", "minTlsVersion", "privateEndpointConnections", "eventHubEndpoints",
    "routing", "storageEndpoints", "messagingEndpoints", "enableFileUploadNotifications",
    "cloudToDevice", "comments", "features", "enableDataResidency",
}  # fmt: skip
# What only the service says; whoever sends it back is not heard.
SAID = {"provisioningState", "state", "hostName", "locations"}


class Hubs:
    """Host names are the real ones, unless `settings` has `hub_hosts`, {name: host name}."""

    def __init__(self, settings: dict[str, Any], store: Store) -> None:
        self.type, self.versions, self.skus = "IotHubs", VERSIONS, SKUS
        self._hosts: dict[str, str] = settings["hub_hosts"]

    def made(self, name: str, body: dict[str, Any], old: Document | None) -> Document:
        asked = set_of(body, SETTINGS, SAID)
        host = self._hosts.get(name, f"{name.lower()}.azure-devices.net")
        where = body["location"]
        properties: dict[str, Any] = {"state": "Active"}
        properties |= {"provisioningState": "Succeeded", "hostName": host}
        properties |= {"locations": [{"location": where, "role": "primary"}], "features": "None"}
        events = {"retentionTimeInDays": 1, "partitionCount": 4, "path": name.lower()}
        events |= old["properties"]["eventHubEndpoints"]["events"] if old else {}
        given = (asked.get("eventHubEndpoints") or {}).get("events") or {}
        events |= {name: value for name, value in given.items() if value is not None}
        partitioned(body["sku"]["name"], events["partitionCount"], old)
        defaults: dict[str, Any] = {
            "eventHubEndpoints": {"events": events},
            "minTlsVersion": "1.2",
        }
        defaults |= {"publicNetworkAccess": "Enabled", "enableFileUploadNotifications": False}
        asked.pop("eventHubEndpoints", None)
        kept = old["lab"] if old else {"keys": new_keys(KEYS), "operation": None}
        return {"properties": defaults | asked | properties, "lab": kept}


def partitioned(sku: str, count: object, old: Document | None) -> None:
    """Raise 400 for partitions that a hub cannot have. Real ones were not asked what they take for
    an F1 that says nothing of them; here that is a mistake."""
    least, most = (2, 2) if sku == "F1" else (2, 32) if sku.startswith("S") else (2, 8)
    if not isinstance(count, int) or not least <= count <= most:
        words = f"The partition count {count} is not valid for the sku '{sku}'."
        raise Error(400, "InvalidPartitionCount", words)
    was = old and old["properties"]["eventHubEndpoints"]["events"]["partitionCount"]
    if was and was != count:
        raise Error(400, "InvalidPartitionCount", "The partition count cannot be changed.")


def set_of(body: dict[str, Any], settings: set[str], said: set[str]) -> dict[str, Any]:
    """The properties that are set, and not null; raises 400 for those that nobody knows."""
    asked = body.get("properties") or {}
    if strange := sorted(set(asked) - settings - said):
        words = f"Could not find member '{strange[0]}' on object of type 'properties'."
        raise Error(400, "InvalidRequestContent", words)
    return {n: value for n, value in asked.items() if n in settings and value is not None}


def new_keys(rights: dict[str, str]) -> list[dict[str, str]]:
    """Shared access keys, 32 bytes each."""
    return [
        {"keyName": name, "primaryKey": _key(), "secondaryKey": _key(), "rights": right}
        for name, right in rights.items()
    ]


def _key() -> str:
    return base64.b64encode(os.urandom(32)).decode()
