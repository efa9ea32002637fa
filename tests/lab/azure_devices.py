"""Microsoft.Devices of the lab's Resource Manager: what IoT hubs and provisioning services have
in common. What is special is in azure_hubs and azure_services, certificates of services in
azure_certificates.

From the specifications IotHubResource (2023-06-30) and IotDpsResource (2022-02-05 to 2026-11-01).
"""

import re
from dataclasses import dataclass
from typing import Any, Protocol

from tests.lab.azure_certificates import Certificates
from tests.lab.azure_hubs import Hubs
from tests.lab.azure_operations import Operations
from tests.lab.azure_services import Services
from tests.lab.azure_store import Document, Store, change, new_etag, shown
from tests.lab.azure_wire import Error, Reply, Request, Script, known, place_of

NAME = re.compile(r"(?!-)[A-Za-z0-9-]{3,64}(?<!-)")
KEYS = re.compile(r"(?:(?:IotHubKeys|keys)/([^/]+)/)?listkeys", re.IGNORECASE)
CERTIFICATES = re.compile(r"certificates(?:/([^/]+)(?:/(\w+))?)?", re.IGNORECASE)


class Kind(Protocol):
    """What is special of a type of resource."""

    type: str
    versions: set[str]
    skus: set[str]

    def made(self, name: str, body: dict[str, Any], old: Document | None) -> Document:
        """`properties`, and `lab`, of what is asked for; raises 400."""


@dataclass(frozen=True)
class Place:
    """Where a resource is: the id of its group, its type as asked for, its name, and what of it."""

    group: str
    kind: str
    name: str
    rest: str


class Devices:
    """All hubs and provisioning services of the subscription."""

    def __init__(
        self, settings: dict[str, Any], script: Script, store: Store, operations: Operations
    ) -> None:
        self._at = f"https://localhost:{settings['port']}"
        self._script, self._store, self._operations = script, store, operations
        self._kinds: dict[str, Kind] = {
            "iothubs": Hubs(settings, store),
            "provisioningservices": Services(settings, store),
        }
        self._certificates = Certificates(script, store)

    def _kind(self, request: Request, name: str) -> Kind:
        kind = self._kinds.get(name.lower())
        if kind is None:
            words = f"The resource type '{name}' could not be found in 'Microsoft.Devices'."
            raise Error(404, "InvalidResourceType", words)
        known(request, kind.versions)
        return kind

    def name(self, request: Request, service: str) -> Reply:
        """Whether a name is to be had, by anybody in the world."""
        asked = request.json().get("name")
        kind = self._kind(request, "provisioningServices" if service else "IotHubs")
        if not isinstance(asked, str) or not NAME.fullmatch(asked):
            words = {"nameAvailable": False, "reason": "Invalid"}
            return Reply(200, {**words, "message": f"'{asked}' is no valid name."})
        if not self._taken(kind, asked):
            return Reply(200, {"nameAvailable": True, "reason": "Invalid", "message": None})
        words = {"nameAvailable": False, "reason": "AlreadyExists"}
        return Reply(200, {**words, "message": f"The name '{asked}' is not available."})

    def _every(self, kind: Kind, below: str) -> list[Document]:
        found = [body for _, body in self._store.below("resource", below)]
        return [body for body in found if body["type"] == f"Microsoft.Devices/{kind.type}"]

    def _taken(self, kind: Kind, name: str) -> bool:
        there = [body["name"].lower() for body in self._every(kind, "/subscriptions/")]
        return name.lower() in [*there, *(taken.lower() for taken in self._script.wish.taken)]

    def listed(self, request: Request, kind: str, below: str) -> Reply:
        every = self._every(self._kind(request, kind), below)
        return Reply(200, {"value": [shown(body) for body in every]})

    def answer(self, request: Request, place: Place) -> Reply:
        kind = self._kind(request, place.kind)
        if not NAME.fullmatch(place.name):
            raise Error(400, "InvalidResourceName", f"'{place.name}' is no valid name.")
        key = f"{place.group}/providers/Microsoft.Devices/{kind.type}/{place.name}"
        there = self._operations.settle(key)
        if not place.rest:
            return self._whole(request, kind, key, there)
        if there is None:
            raise not_found(kind.type, key)
        if match := KEYS.fullmatch(place.rest):
            return self._keys(request, there, match[1])
        if (match := CERTIFICATES.fullmatch(place.rest)) and kind.type == "provisioningServices":
            return self._certificates.answer(request, there, match[1], match[2])
        raise Error(404, "NotFound", f"Nothing is at '{request.path}'.")

    def _whole(self, request: Request, kind: Kind, key: str, there: Document | None) -> Reply:
        if request.method == "PUT":
            return self._put(request, kind, key, there)
        if request.method == "DELETE":
            return self._delete(request, key, there)
        if there is None:
            raise not_found(kind.type, key)
        if request.method == "GET":
            return Reply(200, shown(there))
        if request.method == "PATCH":
            return self._tag(request, there)
        raise Error(405, "MethodNotAllowed", f"{request.method} is not allowed here.")

    def _free(self, request: Request, there: Document | None) -> None:
        """Raise 409 or 412 unless the resource may be changed now."""
        if self._script.wish.busy > 0:
            self._script.wish.busy -= 1
            raise Error(409, "Conflict", "Another operation is in progress. Please retry later.")
        if there is None:
            return
        if self._operations.running(there):
            state = there["properties"]["provisioningState"]
            raise Error(409, "Conflict", f"The resource is in state '{state}'.")
        if request.only_new:
            raise Error(412, "PreconditionFailed", "The resource exists already.")
        if request.etag not in (None, "*", there["etag"]):
            raise Error(412, "PreconditionFailed", "The If-Match header is not the current ETag.")

    def _put(self, request: Request, kind: Kind, key: str, there: Document | None) -> Reply:
        body, name = request.json(), key.rpartition("/")[2]
        where = place_of(body)
        there = self._meanwhile(request, kind, key, there)
        self._free(request, there)
        if there is None and self._taken(kind, name):
            raise Error(409, "NameNotAvailable", f"The name '{name}' is not available.")
        if there is not None and there["location"] != where:
            words = f"The resource '{name}' already exists in location '{there['location']}'."
            raise Error(409, "InvalidResourceLocation", words)
        return self._kept(request, there, wanted(kind, key, body, there))

    def _meanwhile(
        self, request: Request, kind: Kind, key: str, there: Document | None
    ) -> Document | None:
        """What is there at the last moment: somebody else was faster, if a test wishes it."""
        asked, wish = f"{request.method} {request.path}", self._script.wish
        if not wish.meanwhile or not re.search(wish.meanwhile, asked):
            return there
        wish.meanwhile = ""
        new = there or wanted(kind, key, request.json() | {"tags": None}, None)
        new = {**new, "tags": new["tags"] and {**new["tags"], "by": "a colleague"}}
        self._store.put("resource", key, {**new, "etag": new_etag()})
        return self._store.get("resource", key)

    def _kept(self, request: Request, there: Document | None, new: Document) -> Reply:
        """The new document takes the place of the old; "same" if nothing is another."""
        old = None if there is None else {n: v for n, v in there.items() if n != "etag"}
        request.log["change"] = change(old, new)
        fresh = there is None or request.log["change"] != "same"
        new["etag"] = new_etag() if there is None or fresh else there["etag"]
        if not fresh:
            return Reply(200, shown(new))
        if there is None:
            new["properties"] |= {"provisioningState": "Activating", "state": "Activating"}
        self._store.put("resource", new["id"], new)
        bad = there is None and new["name"] in self._script.wish.failing
        headers = self._begun(request, new["id"], "fail" if bad else "finish")
        shown_now = self._store.get("resource", new["id"]) or new
        return Reply(201 if there is None else 200, shown(shown_now), headers)

    def _begun(self, request: Request, key: str, then: str) -> dict[str, str]:
        name = self._operations.begin(key, then)
        if name is None:
            return {}
        subscription = "/".join(key.split("/")[:3])
        url = f"{self._at}{subscription}/providers/Microsoft.Devices/operationresults/{name}"
        where = {"Azure-AsyncOperation": f"{url}?api-version={request.version}"}
        return where | self._script.retry_after()

    def _delete(self, request: Request, key: str, there: Document | None) -> Reply:
        if there is None:
            return Reply(204)
        self._free(request, there)
        there["properties"] |= {"provisioningState": "Deleting", "state": "Deleting"}
        self._store.put("resource", key, there)
        request.log["change"] = "delete"
        headers = self._begun(request, key, "delete")
        return Reply(202 if headers else 200, shown(there) if headers else None, headers)

    def _tag(self, request: Request, there: Document) -> Reply:
        self._free(request, there)
        rest = {n: v for n, v in there.items() if n != "etag"}
        return self._kept(request, there, {**rest, "tags": request.json().get("tags") or {}})

    def _keys(self, request: Request, there: Document, name: str | None) -> Reply:
        if request.method != "POST":
            raise Error(405, "MethodNotAllowed", f"{request.method} is not allowed here.")
        if self._operations.running(there) and there["properties"]["state"] == "Activating":
            raise Error(409, "Conflict", "The resource is being made.")
        keys = there["lab"]["keys"]
        if name is None:
            return Reply(200, {"value": keys})
        one = [key for key in keys if key["keyName"].lower() == name.lower()]
        if not one:
            raise Error(404, "NotFound", f"There is no key '{name}'.")
        return Reply(200, one[0])


def wanted(kind: Kind, key: str, body: dict[str, Any], there: Document | None) -> Document:
    """The resource that is asked for; raises 400."""
    name, where = key.rpartition("/")[2], place_of(body)
    new: Document = {"id": key, "name": name, "type": f"Microsoft.Devices/{kind.type}"}
    new |= {"location": where, "tags": body.get("tags") or {}, "sku": sku(kind, body)}
    new |= {"identity": body["identity"]} if body.get("identity") else {}
    return new | kind.made(name, body, there)


def sku(kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
    """Complete; raises 400 for what is not sold."""
    asked = body.get("sku") or {}
    name, count = asked.get("name"), asked.get("capacity", 1)
    most = 1 if name == "F1" else 200
    if name not in kind.skus or not isinstance(count, int) or not 1 <= count <= most:
        raise Error(400, "InvalidSku", f"The sku '{name}' with capacity {count} is not valid.")
    tiers = {"F": "Free", "B": "Basic", "S": "Standard"}
    return {"name": name, "tier": tiers[name[0]], "capacity": count}


def not_found(kind: str, key: str) -> Error:
    parts = key.split("/")
    words = f"The Resource 'Microsoft.Devices/{kind}/{parts[-1]}' under resource group"
    return Error(404, "ResourceNotFound", f"{words} '{parts[4]}' was not found.")
