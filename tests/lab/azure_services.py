"""Provisioning services of the lab's Resource Manager: what is special of them.

Each has a port of this machine, where its enrolments are (azure_enrolments).
"""

import os
from typing import Any

from tests.lab.azure_hubs import new_keys, set_of
from tests.lab.azure_store import Document, Store
from tests.lab.azure_wire import Error

VERSIONS = {
    "2021-10-15", "2022-02-05", "2022-12-12", "2025-02-01-preview", "2026-04-01", "2026-08-01",
    "2026-11-01",
}  # fmt: skip
KEYS = {"provisioningserviceowner": "ServiceConfig, DeviceConnect, EnrollmentWrite"}
# What may be set, of IotDpsPropertiesDescription.
SETTINGS = {
    "publicNetworkAccess", "ipFilterRules", "privateEndpointConnections", "iotHubs",
    "allocationPolicy", "authorizationPolicies", "enableDataResidency", "disableLocalAuth",
    "portalOperationsHostName",
}  # fmt: skip
SAID = {
    "state", "provisioningState", "serviceOperationsHostName", "deviceProvisioningHostName",
    "idScope", "deviceRegistryNamespaces",
}  # fmt: skip
POLICIES = {"Hashed", "GeoLatency", "Static"}
HIDDEN = "****"


class Services:
    """`settings`: `service_ports`, one for each service that there may be; `scopes` of the first
    services, and `device_host`, the host that devices go to."""

    def __init__(self, settings: dict[str, Any], store: Store) -> None:
        self.type, self.versions, self.skus = "provisioningServices", VERSIONS, {"S1"}
        self._ports: list[int] = settings["service_ports"]
        self._scopes: list[str] = settings["scopes"]
        self._device_host, self._store = settings["device_host"], store

    def made(self, name: str, body: dict[str, Any], old: Document | None) -> Document:
        asked = set_of(body, SETTINGS, SAID)
        policy = asked.get("allocationPolicy", "Hashed")
        if policy not in POLICIES:
            raise Error(400, "InvalidRequestContent", f"No allocation policy is '{policy}'.")
        lab = old["lab"] if old else self._new()
        linked = [self._link(each, lab["links"]) for each in asked.get("iotHubs", [])]
        lab = {**lab, "links": {each["name"]: each["connectionString"] for each in linked}}
        properties = {
            "state": "Active",
            "provisioningState": "Succeeded",
            "allocationPolicy": policy,
            "iotHubs": [each | {"connectionString": hidden(each)} for each in linked],
            "serviceOperationsHostName": f"localhost:{lab['port']}",
            "deviceProvisioningHostName": self._device_host,
            "idScope": lab["scope"],
        }
        asked = {"enableDataResidency": False, "publicNetworkAccess": "Enabled"} | asked
        return {"properties": asked | properties, "lab": lab}

    def _new(self) -> dict[str, Any]:
        used = {body["lab"].get("port") for _, body in self._store.below("resource", "/")}
        free = [port for port in self._ports if port not in used]
        if not free:
            raise Error(409, "QuotaExceeded", "There are as many provisioning services as may be.")
        index = self._ports.index(free[0])
        scope = self._scopes[index] if index < len(self._scopes) else f"0ne00{os.urandom(3).hex()}"
        keys = {"keys": new_keys(KEYS), "operation": None}
        return {**keys, "port": free[0], "scope": scope, "links": {}}

    def _link(self, asked: dict[str, Any], links: dict[str, str]) -> dict[str, Any]:
        """A linked hub, whole; raises 400 for one that the service cannot manage."""
        if not asked.get("location"):
            raise Error(400, "InvalidRequestContent", "A linked hub needs a location.")
        text = asked.get("connectionString") or ""
        parts = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
        host = parts.get("HostName", "").lower()
        if parts.get("SharedAccessKey") == HIDDEN and host in links:
            text = links[host]  # as the service showed it
        elif not self._opens(host, parts):
            words = "The IoT hub connection string is invalid, or lacks rights at the hub."
            raise Error(400, "InvalidConnectionString", words)
        weight, applied = asked.get("allocationWeight"), asked.get("applyAllocationPolicy")
        link: dict[str, Any] = {"name": host, "connectionString": text}
        link |= {"location": asked["location"].replace(" ", "").lower()}
        link |= {"applyAllocationPolicy": True if applied is None else applied}
        return link | ({} if weight is None else {"allocationWeight": weight})

    def _opens(self, host: str, parts: dict[str, str]) -> bool:
        """Whether there is such a hub, and this is a key of it that may write to its registry."""
        hubs = [body for _, body in self._store.below("resource", "/")]
        for hub in hubs:
            if hub["properties"].get("hostName", "").lower() != host:
                continue
            for key in hub["lab"]["keys"]:
                right = {"RegistryWrite", "ServiceConnect"} <= set(key["rights"].split(", "))
                known = parts.get("SharedAccessKey") in (key["primaryKey"], key["secondaryKey"])
                if key["keyName"] == parts.get("SharedAccessKeyName") and known and right:
                    return True
        return False


def hidden(link: dict[str, Any]) -> str:
    """The connection string as it is shown: without its key."""
    text: str = link["connectionString"]
    before, _, _ = text.partition("SharedAccessKey=")
    return f"{before}SharedAccessKey={HIDDEN}"
