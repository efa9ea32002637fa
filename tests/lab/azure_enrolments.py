"""The service API of the lab's provisioning services (2021-10-01): enrolments and groups of them.

As the reference of the Device Provisioning Service has it: single ones, bulk operations of at most
ten, queries by pages. Who creates what is there already gets 409 (seen at the real one: a PUT
without If-Match is for what is new); an ETag is a quoted text, or *.
"""

import base64
import re
import time
import uuid
from typing import Any

from tests.lab import dps_sas
from tests.lab.azure_attestation import Attestations
from tests.lab.azure_bridge import Bridge
from tests.lab.azure_entra import SERVICE, Entra
from tests.lab.azure_store import Document, Store
from tests.lab.azure_wire import Error, Reply, Request, Script, utc

VERSIONS = {"2019-03-31", "2021-06-01", "2021-10-01"}
PATHS = re.compile(r"/(enrollments|enrollmentGroups)(?:/([^/]+))?(?:/(attestationmechanism))?")
IDS = {"enrollments": "registrationId", "enrollmentGroups": "enrollmentGroupId"}
ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:-]{0,126}[A-Za-z0-9])?")
QUERY = re.compile(r"\s*select\s+\*(\s+from\s+enrollments?(groups?)?)?\s*", re.IGNORECASE)
PAGE, BULK = 100, 10
ETAG = re.compile(r'"[^"]+"|\*')


class Enrolments:
    """Those of every provisioning service; which one is meant, the port says."""

    def __init__(
        self, settings: dict[str, Any], script: Script, store: Store, entra: Entra
    ) -> None:
        self._script, self._store, self._entra = script, store, entra
        self._attestations = Attestations(script, store)
        self._bridge = Bridge(settings.get("bridge"))

    def answer(self, request: Request) -> Reply:
        service = self._service(request.port)
        self._admit(request, service)
        if request.version not in VERSIONS:
            raise Error(400, 400000, f"The api-version '{request.version}' is not supported")
        found = PATHS.fullmatch(request.path)
        if found is None:
            raise Error(404, 404000, f"Nothing is at '{request.path}'")
        table, name, what = found.groups()
        if request.method == "POST" and not what:
            if name == "query":
                return self._query(request, service, table)
            if name is None:
                return self._bulk(request, service, table)
        return self._one(request, service, table, name or "", what)

    def _service(self, port: int) -> Document:
        for _, body in self._store.below("resource", "/"):
            if body["lab"].get("port") == port and body["properties"]["state"] == "Active":
                return body
        raise Error(404, 404000, "No provisioning service has this name")

    def _admit(self, request: Request, service: Document) -> None:
        """Raise 401, 403 unless the token, of either kind, is good."""
        token = request.headers.get("Authorization") or ""
        if token.startswith("SharedAccessSignature "):
            verdict = self._signature(token, service)
        else:
            verdict = self._entra.verdict(token, SERVICE)
        if verdict != "good":
            raise Error(401, 401002, f"Unauthorized: token: {verdict}")
        forbidden, asked = self._script.wish.forbidden, f"{request.method} {request.path}"
        if forbidden and re.search(forbidden, asked, re.IGNORECASE):
            raise Error(403, 403000, "Forbidden: the role for this is missing")

    def _signature(self, token: str, service: Document) -> str:
        if service["properties"].get("disableLocalAuth"):
            return "shared access keys are not let in"
        host, verdicts = service["properties"]["serviceOperationsHostName"], []
        for key in service["lab"]["keys"]:
            for value in (key["primaryKey"], key["secondaryKey"]):
                secret, name = base64.b64decode(value), key["keyName"]
                verdicts.append(dps_sas.verdict(token, host, secret, name, time.time()))
        return "good" if "good" in verdicts else verdicts[0]

    def emptied(self, service: Document) -> None:
        """The service is deleted, and whoever is enrolled with it."""
        for table in IDS:
            self._store.drop(kind_of(table, service))
        self._bridge.emptied(service)

    # --- one ---

    def _one(
        self, request: Request, service: Document, table: str, name: str, what: str | None
    ) -> Reply:
        kind = kind_of(table, service)
        there = self._store.get(kind, name)
        if request.method == "PUT" and not what:
            new = self._put(service, table, request.json(), name, request.condition)
            request.log["change"] = new.pop("change")
            return Reply(200, new, {"ETag": new["etag"]})
        if there is None:
            raise Error(404, 404201, f"No {table[:-1]} is called '{name}'")
        if what and request.method == "POST":
            return Reply(200, there["attestation"])
        if request.method == "GET" and not what:
            return Reply(200, there, {"ETag": there["etag"]})
        if request.method == "DELETE" and not what:
            self._delete(service, table, name, request.condition)
            request.log["change"] = "delete"
            return Reply(204)
        raise Error(405, 405000, f"Method {request.method} not allowed")

    def _put(
        self, service: Document, table: str, body: Document, name: str, etag: str | None
    ) -> Document:
        """The new document, and its `change`. Raises 400, 404, 409, 412."""
        if str(body.get(IDS[table], "")).lower() != name.lower() or not ID.fullmatch(name):
            raise Error(400, 400004, f"{IDS[table]} '{body.get(IDS[table])}' is not '{name}'")
        if words := self._script.wish.refused.get(name):
            raise Error(400, 400301, words)
        kind = kind_of(table, service)
        there = self._store.get(kind, name)
        fits(etag, there, name)
        new = self._attestations.whole(service, table, body)
        old = {n: there[n] for n in there if n not in STAMPS} if there else None
        if there is not None and old == new:
            return {**there, "change": "same"}
        made = there["createdDateTimeUtc"] if there else utc()
        stamps = {"etag": f'"{uuid.uuid4()}"', "createdDateTimeUtc": made}
        whole = {**new, **stamps, "lastUpdatedDateTimeUtc": utc()}
        self._store.put(kind, name, whole)
        if table == "enrollmentGroups":
            cas = self._attestations.certificates(service, body)
            self._bridge.group(service, name, whole, cas)
        else:
            self._bridge.individual(service, name, whole)
        return {**whole, "change": "update" if there else "create"}

    def _delete(self, service: Document, table: str, name: str, etag: str | None) -> None:
        kind = kind_of(table, service)
        there = self._store.get(kind, name)
        if there is None:
            raise Error(404, 404201, f"No {table[:-1]} is called '{name}'")
        if etag is not None:
            fits(etag, there, name)
        self._store.delete(kind, name)
        self._bridge.gone(service, table, name)

    # --- many ---

    def _bulk(self, request: Request, service: Document, table: str) -> Reply:
        asked = request.json()
        every, mode = asked.get(table), asked.get("mode")
        if not isinstance(every, list) or not 0 < len(every) <= BULK:
            raise Error(400, 400004, f"A bulk operation is of 1 to {BULK} {table}")
        if mode not in ("create", "update", "updateIfMatchETag", "delete"):
            raise Error(400, 400004, f"The mode '{mode}' is not known")
        errors, changes = [], request.log.setdefault("changes", {})
        for each in every:
            name = str(each.get(IDS[table], ""))
            try:
                change = self._of_bulk(service, table, each, mode)
                changes[change] = changes.get(change, 0) + 1
            except Error as e:
                told = {"errorCode": e.code, "errorStatus": str(e)}
                errors.append({IDS[table]: name, **told})
        return Reply(200, {"isSuccessful": not errors, "errors": errors})

    def _of_bulk(self, service: Document, table: str, each: Document, mode: str) -> str:
        name = str(each.get(IDS[table], ""))
        if mode == "delete":
            self._delete(service, table, name, None)
            return "delete"
        etag = {"create": None, "update": "*", "updateIfMatchETag": each.get("etag", "")}[mode]
        change: str = self._put(service, table, each, name, etag)["change"]
        return change

    def _query(self, request: Request, service: Document, table: str) -> Reply:
        if not QUERY.fullmatch(str(request.json().get("query"))):
            raise Error(400, 400004, "The query is not supported")
        count = request.headers.get("X-Ms-Max-Item-Count") or str(PAGE)
        if not count.isdigit() or int(count) < 1:
            raise Error(400, 400004, f"A page cannot have '{count}' items")
        after = request.headers.get("X-Ms-Continuation") or ""
        last, limit = base64.urlsafe_b64decode(after).decode(), min(int(count), PAGE)
        found = self._store.page(kind_of(table, service), last, limit + 1)
        shown, headers = found[:limit], {"x-ms-item-type": table[:-1]}
        if len(found) > limit:
            end = str(shown[-1][IDS[table]]).lower().encode()
            headers["x-ms-continuation"] = base64.urlsafe_b64encode(end).decode()
        return Reply(200, shown, headers)


STAMPS = {"etag", "createdDateTimeUtc", "lastUpdatedDateTimeUtc"}


def kind_of(table: str, service: Document) -> str:
    return f"{table} {service['id'].lower()}"


def fits(etag: str | None, there: Document | None, name: str) -> None:
    """Raise 400, 409, 412 unless the condition holds (RFC 9110, 13.1.1)."""
    if etag is None:
        if there is not None:
            raise Error(409, 409201, f"'{name}' exists already")
        return
    if not ETAG.fullmatch(etag):
        raise Error(400, 400005, "ETag is invalid")
    if there is None or etag not in ("*", there["etag"]):
        raise Error(412, 412001, f"'{name}' is not the one with this ETag")
