"""Azure Resource Manager of the lab: subscription, providers, resource groups, and the way to
the resources of Microsoft.Devices (azure_devices).

As in the published specifications (Microsoft.Resources, Microsoft.Devices): paths in any case of
letters, api-version wanted and known, errors as {"error": {"code", "message"}}.
"""

import re
from collections.abc import Callable
from typing import Any

from tests.lab.azure_devices import Devices, Place
from tests.lab.azure_operations import Operations
from tests.lab.azure_store import Document, Store, change, new_etag, shown
from tests.lab.azure_wire import Error, Reply, Request, Script, known, place_of

GROUPS = {"2021-04-01", "2022-09-01", "2024-03-01", "2025-04-01"}
NAME = re.compile(r"[-\w().]{0,89}[-\w()]")
SUBSCRIPTION = re.compile(r"/subscriptions/([^/]+)(/.*)?", re.IGNORECASE)
DEVICES = r"/resourcegroups/([^/]+)/providers/Microsoft\.Devices/([^/]+)(?:/([^/]+))?(?:/(.+))?"


class Arm:
    """One subscription. `emptied` is told each provisioning service that is deleted."""

    def __init__(
        self,
        settings: dict[str, Any],
        script: Script,
        store: Store,
        emptied: Callable[[Document], None],
    ) -> None:
        self._subscription, self._script, self._store = settings["subscription"], script, store
        self._at = f"https://localhost:{settings['port']}"
        self._operations, self._emptied = Operations(store, script, self._gone), emptied
        self.devices = Devices(settings, script, store, self._operations)
        self._routes: list[tuple[str, Callable[..., Reply]]] = [
            ("", self._about),
            ("/resourcegroups", self._groups),
            ("/resourcegroups/([^/]+)", self._group),
            ("/resourcegroups/([^/]+)/resources", self._resources),
            ("/operationresults/([^/]+)", self._location),
            (r"/providers/Microsoft\.Devices(/register)?", self._provider),
            (r"/providers/Microsoft\.Devices/check(\w*)NameAvailability", self.devices.name),
            (r"/providers/Microsoft\.Devices/(\w+)", self._of_subscription),
            (r"/providers/Microsoft\.Devices/operationresults/([^/]+)", self._asynchronous),
            (DEVICES, self._device),
        ]

    def answer(self, request: Request) -> Reply:
        found = SUBSCRIPTION.fullmatch(request.path)
        if found is None:
            raise Error(404, "NotFound", f"Nothing is at '{request.path}'.")
        if found[1].lower() != self._subscription:
            words = f"The subscription '{found[1]}' could not be found."
            raise Error(404, "SubscriptionNotFound", words)
        self._allow(request)
        for pattern, function in self._routes:
            if match := re.fullmatch(pattern, found[2] or "", re.IGNORECASE):
                return function(request, *match.groups())
        raise Error(404, "InvalidResourceType", f"Nothing is at '{request.path}'.")

    def _allow(self, request: Request) -> None:
        forbidden, asked = self._script.wish.forbidden, f"{request.method} {request.path}"
        if forbidden and re.search(forbidden, asked, re.IGNORECASE):
            words = f"The client does not have authorization to perform this on '{request.path}'."
            raise Error(403, "AuthorizationFailed", words)

    # --- subscription and provider ---

    def _about(self, request: Request) -> Reply:
        known(request, GROUPS)
        at = f"/subscriptions/{self._subscription}"
        words = {"id": at, "subscriptionId": self._subscription, "displayName": "Lab"}
        return Reply(200, {**words, "state": "Enabled"})

    def _provider(self, request: Request, register: str | None) -> Reply:
        known(request, GROUPS)
        if register and request.method == "POST":
            self._store.put("provider", "Microsoft.Devices", {})
            request.log["change"] = "update"
        there = self._store.get("provider", "Microsoft.Devices") is not None
        state = "Registered" if there or not self._script.wish.unregistered else "NotRegistered"
        return Reply(200, {"namespace": "Microsoft.Devices", "registrationState": state})

    def _registered(self) -> None:
        there = self._store.get("provider", "Microsoft.Devices") is not None
        if self._script.wish.unregistered and not there:
            words = "The subscription is not registered to use namespace 'Microsoft.Devices'."
            raise Error(409, "MissingSubscriptionRegistration", words)

    # --- resource groups ---

    def _id(self, name: str) -> str:
        return f"/subscriptions/{self._subscription}/resourceGroups/{name}"

    def _groups(self, request: Request) -> Reply:
        known(request, GROUPS)
        every = [body for _, body in self._store.below("resource", self._id("").lower())]
        groups = [shown(body) for body in every if "/providers/" not in body["id"]]
        return Reply(200, {"value": groups})

    def _group(self, request: Request, name: str) -> Reply:
        known(request, GROUPS)
        there = self._operations.settle(self._id(name))
        if request.method == "PUT":
            return self._put_group(request, name, there)
        if there is None:
            if request.method == "HEAD":
                return Reply(404)
            raise no_group(name)
        if request.method in ("GET", "HEAD"):
            return Reply(204) if request.method == "HEAD" else Reply(200, shown(there))
        if request.method != "DELETE":
            raise Error(405, "MethodNotAllowed", f"{request.method} is not allowed here.")
        return self._delete_group(request, there)

    def _put_group(self, request: Request, name: str, there: Document | None) -> Reply:
        body, at = request.json(), self._id(name)
        if not NAME.fullmatch(name):
            raise Error(400, "InvalidResourceGroup", f"'{name}' is no name of a resource group.")
        where = place_of(body)
        if there is not None and there["location"] != where:
            words = f"The resource group already exists in location '{there['location']}'."
            raise Error(409, "InvalidResourceGroupLocation", words)
        if there is not None and self._operations.running(there):
            raise Error(409, "ResourceGroupBeingDeleted", f"'{name}' is being deleted.")
        new: Document = {"id": at, "name": name, "type": "Microsoft.Resources/resourceGroups"}
        new |= {"location": where, "tags": body.get("tags") or {}}
        new |= {"properties": {"provisioningState": "Succeeded"}}
        request.log["change"] = change(there, new)
        self._store.put("resource", at, {**new, "lab": {"etag": new_etag()}})
        return Reply(201 if there is None else 200, new)

    def _delete_group(self, request: Request, there: Document) -> Reply:
        if self._operations.running(there):
            name = there["lab"]["operation"]
        else:
            there["properties"]["provisioningState"] = "Deleting"
            self._store.put("resource", there["id"], there)
            request.log["change"] = "delete"
            name = self._operations.begin(there["id"], "delete")
        if name is None:
            return Reply(200)
        url = f"{self._at}/subscriptions/{self._subscription}/operationresults/{name}"
        headers = {"Location": f"{url}?api-version={request.version}"}
        return Reply(202, None, headers | self._script.retry_after())

    def _location(self, request: Request, name: str) -> Reply:
        known(request, GROUPS)
        return self._operations.location(name, self._at + request.url)

    def _resources(self, request: Request, group: str) -> Reply:
        known(request, GROUPS)
        if self._store.get("resource", self._id(group)) is None:
            raise no_group(group)
        below = [body for _, body in self._store.below("resource", f"{self._id(group)}/".lower())]
        names = ("id", "name", "type", "location", "tags", "sku")
        top = [body for body in below if body["type"].count("/") == 1]
        return Reply(200, {"value": [{n: b[n] for n in names if n in b} for b in top]})

    # --- what is in them ---

    def _asynchronous(self, request: Request, name: str) -> Reply:
        return self._operations.result(name)

    def _of_subscription(self, request: Request, kind: str) -> Reply:
        return self.devices.listed(request, kind, self._id("").lower())

    def _device(
        self, request: Request, group: str, kind: str, name: str | None, rest: str | None
    ) -> Reply:
        there = self._operations.settle(self._id(group))
        if there is None:
            raise no_group(group)
        if name is None:
            return self.devices.listed(request, kind, f"{self._id(group)}/".lower())
        self._registered()
        if request.method == "PUT" and self._operations.running(there):
            raise Error(409, "ResourceGroupBeingDeleted", f"'{group}' is being deleted.")
        return self.devices.answer(request, Place(self._id(there["name"]), kind, name, rest or ""))

    def _gone(self, key: str) -> None:
        """A service goes with its enrolments, a group with its services."""
        one = self._store.get("resource", key)
        below = [body for _, body in self._store.below("resource", f"{key}/".lower())]
        for each in [*([one] if one else []), *below]:
            if each["type"] == "Microsoft.Devices/provisioningServices":
                self._emptied(each)


def no_group(name: str) -> Error:
    return Error(404, "ResourceGroupNotFound", f"Resource group '{name}' could not be found.")
