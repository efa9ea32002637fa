"""Operations of the lab's Resource Manager that take long: begun, looked at, finished.

As in the Resource Manager's guide to asynchronous operations: the answer that begins one has
Azure-AsyncOperation (`{"status": ...}` until it ends) or Location (202 until it ends). An
operation moves on when somebody looks at it, or at its resource.
"""

import uuid
from collections.abc import Callable
from typing import Any

from tests.lab.azure_store import Document, Store
from tests.lab.azure_wire import Error, Reply, Script

MOVING = "Transitioning"


class Operations:
    """`gone` is told the key of each resource that is deleted, before it is."""

    def __init__(self, store: Store, script: Script, gone: Callable[[str], None]) -> None:
        self._store, self._script, self._gone = store, script, gone

    def begin(self, key: str, then: str) -> str | None:
        """`then`: "finish", "fail" or "delete" the resource. The operation's id, or None if it is
        over already."""
        polls, name = self._script.wish.polls, uuid.uuid4().hex
        self._store.put("operation", name, {"resource": key, "then": then, "left": polls})
        self._of(key, name)
        if polls > 0:
            return name
        self.look(name)
        return None

    def _of(self, key: str, name: str | None) -> None:
        found = self._store.get("resource", key)
        if found is not None:
            found["lab"]["operation"] = name
            self._store.put("resource", key, found)

    def running(self, resource: Document) -> bool:
        return resource["lab"].get("operation") is not None

    def settle(self, key: str) -> Document | None:
        """The resource as it is at this look."""
        found = self._store.get("resource", key)
        if found is None or not self.running(found):
            return found
        self.look(found["lab"]["operation"])
        return self._store.get("resource", key)

    def look(self, name: str) -> dict[str, Any]:
        """The status, as JSON has it. Raises 404."""
        operation = self._store.get("operation", name)
        if operation is None:
            raise Error(404, "OperationNotFound", f"The operation '{name}' was not found.")
        if operation["left"] > 0:
            operation["left"] -= 1
            self._store.put("operation", name, operation)
            return {"status": "Running"}
        if "status" not in operation:
            operation["status"] = self._end(operation["resource"], operation["then"])
            self._store.put("operation", name, operation)
        status: dict[str, Any] = operation["status"]
        return status

    def _end(self, key: str, then: str) -> dict[str, Any]:
        self._of(key, None)
        if then == "delete":
            self._gone(key)
            self._store.delete("resource", key)
            return {"status": "Succeeded"}
        found = self._store.get("resource", key) or {"properties": {}}
        good = then == "finish"
        found["properties"]["provisioningState"] = "Succeeded" if good else "Failed"
        if "state" in found["properties"]:
            found["properties"]["state"] = "Active" if good else "ActivationFailed"
        self._store.put("resource", key, found)
        if good:
            return {"status": "Succeeded"}
        words = {"code": "InternalServerError", "message": "As the test wishes"}
        return {"status": "Failed", "error": words}

    def result(self, name: str) -> Reply:
        """What Azure-AsyncOperation is answered."""
        status = self.look(name)
        over = status["status"] != "Running"
        return Reply(200, {"id": name, **status}, {} if over else self._script.retry_after())

    def location(self, name: str, url: str) -> Reply:
        """What Location is answered."""
        if self.look(name)["status"] == "Running":
            return Reply(202, None, {"Location": url, **self._script.retry_after()})
        return Reply(204)
