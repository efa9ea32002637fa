"""What Resource Manager is to have: resource group, IoT hub, DPS with the hub linked, CAs.

A step looks, acts and looks again. What is there without our tag is somebody else's: it is used as
it is if it will do, and never changed or removed.
"""

import logging
import time
from base64 import b64encode
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NoReturn

from azure.core import MatchConditions
from azure.core.exceptions import ResourceNotFoundError
from azure.mgmt.iothub import IotHubClient
from azure.mgmt.iothub.v2023_06_30 import models
from azure.mgmt.iothubprovisioningservices import IotDpsClient
from azure.mgmt.resource.resources import ResourceManagementClient

from agent.errors import AzureChanged, AzureDiffers, AzureFailed, AzureRefused
from agent.operator import azure
from agent.operator.link import LINK, OWNER, Link, opening
from agent.operator.settings import TAG, Operator

log = logging.getLogger(__name__)
HUBS, SERVICES = "Microsoft.Devices/IotHubs", "Microsoft.Devices/provisioningServices"
DONE, BROKEN = "Succeeded", {"Failed", "Canceled"}
NEEDED = "properties.provisioning_state", "sku.name", "sku.capacity"  # to be judged by
SAY = 15  # seconds: so often long work is told of


class Arm:
    """The clients of Resource Manager, and what `config` names there. Every call raises what
    `azure.speaking` does."""

    def __init__(self, config: Operator) -> None:
        self.config, self.group = config, config.azure.resource_group
        self._poll = config.cloud.poll.total_seconds()
        who, how = config.azure.subscription, azure.arm(config.cloud)
        self.groups = ResourceManagementClient(subscription_id=who, **how)
        self.hubs = IotHubClient(subscription_id=who, **how)
        self.services = IotDpsClient(subscription_id=who, **how)

    @property
    def _dps_path(self) -> dict[str, Any]:
        """By their names: of the two, now one comes first in the SDK and now the other."""
        name = self.config.dps.name
        return {"resource_group_name": self.group, "provisioning_service_name": name}

    def dps_keys(self) -> list[Any]:
        """The policies of the provisioning service, with their keys."""
        return list(self.services.iot_dps_resource.list_keys(**self._dps_path, **azure.ASKING))

    # --- looking ---

    def resource_group(self) -> Any | None:
        with azure.speaking(f"look at the resource group {self.group}"):
            return _found(lambda: self.groups.resource_groups.get(self.group), "name", "location")

    def hub(self) -> Any | None:
        """In none of a group that is not there, either."""
        with azure.speaking(f"look at the IoT hub {self.config.hub.name}"):
            ask = self.hubs.iot_hub_resource.get
            return _found(lambda: ask(self.group, self.config.hub.name), *NEEDED)

    def dps(self) -> Any | None:
        name = self.config.dps.name
        with azure.speaking(f"look at the provisioning service {name}"):
            return _found(lambda: self.services.iot_dps_resource.get(**self._dps_path), *NEEDED)

    def certificates(self) -> dict[str, Any]:
        """Those of the provisioning service, by their names."""
        name = self.config.dps.name
        with azure.speaking(f"look at the certificates of {name}"):
            found = _found(lambda: self.services.dps_certificate.list(**self._dps_path))
            return {each.name: each for each in (found.value or [] if found else [])}

    def others_in_group(self) -> list[str]:
        """What is in the resource group besides the hub and the provisioning service that are
        configured, if they are ours: names and types. What has our tag under another name is
        another fleet's, of a configuration with the same enrolment group. An answer without any
        list is none: the group would be removed for it."""
        with azure.speaking(f"look into the resource group {self.group}"):
            every = self.groups.resources.list_by_resource_group
            found = list(every(self.group, raw_response_hook=azure.has_list))
        return sorted(f"{x.name} ({x.type})" for x in found if not self._configured(x))

    def _configured(self, found: Any) -> bool:
        names = f"{HUBS}/{self.config.hub.name}", f"{SERVICES}/{self.config.dps.name}"
        asked = f"{found.type}/{found.name}".lower()  # types are written in either case
        return asked in map(str.lower, names) and ours(found, self.config)

    # --- acting ---

    def make_group(self) -> None:
        """Without a condition: Resource Manager has none for groups."""
        body = {"location": self.config.azure.location, "tags": self.config.tags}
        with azure.speaking(f"make the resource group {self.group}"):
            self.groups.resource_groups.create_or_update(self.group, body)

    def make_hub(self) -> None:
        wanted = self.config.hub
        body = models.IotHubDescription(
            location=self.config.azure.location,
            tags=self.config.tags,
            sku=models.IotHubSkuInfo(name=wanted.sku, capacity=wanted.units),
            properties=models.IotHubProperties(
                event_hub_endpoints={
                    "events": models.EventHubProperties(
                        retention_time_in_days=1, partition_count=wanted.partitions
                    )
                }
            ),
        )
        if (there := self.hub()) is not None:
            self.still_ours(f"the IoT hub {wanted.name}", there)
            body = there
            body.sku.name, body.sku.capacity = wanted.sku, wanted.units
        doing, headers = f"make the IoT hub {wanted.name}", _unchanged(there)
        start = self.hubs.iot_hub_resource.begin_create_or_update
        self._through(
            doing, lambda: start(self.group, wanted.name, body, headers=headers), self.hub
        )

    def make_dps(self) -> None:
        """With the hub linked to it; of one that is there, links of others stay."""
        wanted, there, link = self.config.dps, self.dps(), self._link()
        if link is None:
            foreign(f"the IoT hub {self.config.hub.name}", "it is not there any more")
        if there is None:
            body: Any = {
                "location": self.config.azure.location,
                "tags": {**self.config.tags, LINK: link.mark},
                "sku": {"name": "S1", "capacity": wanted.units},
                "properties": {"iotHubs": [link.body], "allocationPolicy": "Hashed"},
            }
        else:
            self.still_ours(f"the provisioning service {wanted.name}", there)
            body = there
            body.sku.capacity = wanted.units
            body.tags = {**(there.tags or {}), LINK: link.mark}
            body.properties.iot_hubs = link.among(there.properties.iot_hubs or [])
        start, headers = self.services.iot_dps_resource.begin_create_or_update, _unchanged(there)
        self._through(
            f"make the provisioning service {wanted.name}",
            lambda: start(**self._dps_path, iot_dps_description=body, headers=headers),
            self.dps,
        )

    def _link(self) -> Link | None:
        """None as long as there is no hub."""
        found, name = self.hub(), self.config.hub.name
        if found is None or state(found) != DONE:
            return None
        with azure.speaking(f"get the key of the IoT hub {name}"):
            key = self.hubs.iot_hub_resource.get_keys_for_key_name(
                self.group, name, OWNER, **azure.ASKING
            ).primary_key
        return opening(str(found.properties.host_name), str(key), self.config.azure.location)

    def hub_host(self) -> str:
        found = self.hub()
        return str(found.properties.host_name or "") if found else ""

    def linked(self, dps: Any) -> bool:
        """With the key that the hub has today: that of a hub that was made again, or of one whose
        keys were changed, is another. By which key it is linked DPS does not show: of ours, a tag
        does; without one it is linked once more."""
        host = self.hub_host().lower()
        there = [str(each.name).lower() for each in dps.properties.iot_hubs or []]
        if not host or host not in there or not ours(dps, self.config):
            return bool(host) and host in there
        link = self._link()
        return link is not None and (dps.tags or {}).get(LINK) == link.mark

    def upload(self, name: str, der: bytes) -> None:
        """A CA certificate, of which the operator says that it is the right one: `isVerified`."""
        there = self.certificates().get(name)
        body: Any = {"properties": {"certificate": b64encode(der).decode(), "isVerified": True}}
        asked: dict[str, Any] = {"certificate_name": name, "certificate_description": body}
        asked["match_condition"] = MatchConditions.IfMissing
        if there is not None:
            asked |= {"etag": there.etag, "match_condition": MatchConditions.IfNotModified}
        with azure.speaking(f"upload the certificate {name}"):
            self.services.dps_certificate.create_or_update(**self._dps_path, **asked)

    def still_ours(self, what: str, found: Any | None) -> None:
        """Before a write. Raises AzureDiffers."""
        if found is None or not ours(found, self.config):
            foreign(what, f"it is not ours (no tag {TAG})")

    # --- removing ---

    def remove_hub(self) -> None:
        start, name = self.hubs.iot_hub_resource.begin_delete, self.config.hub.name
        self._away(f"remove the IoT hub {name}", lambda: start(self.group, name), self.hub)

    def remove_dps(self) -> None:
        start, name = self.services.iot_dps_resource.begin_delete, self.config.dps.name
        doing = f"remove the provisioning service {name}"
        self._away(doing, lambda: start(**self._dps_path), self.dps)

    def remove_group(self) -> None:
        start = self.groups.resource_groups.begin_delete
        doing = f"remove the resource group {self.group}"
        self._away(doing, lambda: start(self.group), self.resource_group)

    # --- long work ---

    def _through(
        self, doing: str, start: Callable[[], Any], look: Callable[[], Any | None]
    ) -> None:
        """To its end, be it begun by us, by an earlier run that was cut off, by somebody else who
        was faster, or by a request whose answer got lost: what refused us is raised then."""
        refused = None
        if not self._at_work(look()):
            try:
                with azure.speaking(doing):
                    self._wait(doing, start())
            except (AzureChanged, AzureRefused) as e:
                refused = e
        since = time.monotonic()
        while self._at_work(now := look()):
            since = _told(doing, since)
            time.sleep(self._poll)
        if refused is not None:
            raise refused
        if now is not None and state(now) in BROKEN:
            raise AzureFailed(f"cannot {doing}: Azure says '{state(now)}' of it")

    def _away(self, doing: str, start: Callable[[], Any], look: Callable[[], Any | None]) -> None:
        """As `_through`, until it is gone."""
        refused = None
        try:
            with azure.speaking(doing):
                self._wait(doing, start())
        except AzureRefused as e:
            refused = e
        since = time.monotonic()
        while (now := look()) is not None:
            if refused is not None and not self._at_work(now):
                raise refused
            since = _told(doing, since)
            time.sleep(self._poll)

    def _at_work(self, found: Any | None) -> bool:
        return found is not None and state(found) not in {DONE, *BROKEN}

    def _wait(self, doing: str, poller: Any) -> None:
        since = time.monotonic()
        while not poller.done():
            poller.wait(timeout=1)
            since = _told(doing, since)
        poller.result()


def _told(doing: str, since: float) -> float:
    """Says, now and then, that it still lasts; and when it was said last."""
    if time.monotonic() - since < SAY:
        return since
    log.info("%s: Azure is at work", doing)
    return time.monotonic()


def state(found: Any) -> str:
    """provisioningState; where none is said, it is done."""
    return str(found.properties.provisioning_state or DONE)


def ours(found: Any, config: Operator) -> bool:
    return bool((found.tags or {}).get(TAG) == config.tags[TAG])


def same_place(found: Any, config: Operator) -> bool:
    """To Azure, 'West Europe' and 'westeurope' are one."""
    return str(found.location).replace(" ", "").lower() == config.azure.location


def foreign(what: str, why: str) -> NoReturn:
    raise AzureDiffers(f"cannot use {what}: {why}")


def _unchanged(found: Any | None) -> dict[str, str]:
    """The condition of a write: what was looked at is still the same, or still not there."""
    if found is None:
        return {"If-None-Match": "*"}
    return {"If-Match": str(found.etag)} if found.etag else {}


def _found(ask: Callable[[], Any], *parts: str) -> Any | None:
    """None only for what is said not to be there; one without these parts is an AttributeError."""
    try:
        found = ask()
    except ResourceNotFoundError:
        return None
    for part in parts:
        attrgetter(part)(found)
    return found
