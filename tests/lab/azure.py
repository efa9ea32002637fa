"""The lab's Azure (tests/lab/azure_server.py) as a test holds it.

azure = Azure(directory, tls)
with azure.running():
    ...                             # a client of azure.url, with azure.client_secret
    azure.behave(throttle_every=3)  # from now on every third request gets 429
    assert azure.changes() == []    # nothing was changed in what is there
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab import pki, process
from tests.lab.azure_store import Document, Store, shown
from tests.lab.dps_hubs import replace
from tests.lab.provisioning import Dps

TENANT = "7a1f3c52-1a7e-4f0e-9f52-6d2f5a0c1b11"
CLIENT = "c0ffee00-5b8f-4f6e-8a3d-2d1e9b7c4a22"
SUBSCRIPTION = "91d12660-3dec-467a-be2a-213b5544ddc0"
SECRET = "lab~client-secret"  # noqa: S105
SERVICES = 3


class Azure:
    """Entra ID with one tenant and application (`tenant`, `client_id`, `client_secret`), Resource
    Manager with one `subscription`, both at `url`, and up to three provisioning services, each at
    the `serviceOperationsHostName` that Resource Manager tells. All speak TLS with `tls`.

    `dps`: the lab's provisioning service for devices; the first service made here is it: the same
    ID scope, and whoever is enrolled here may register there. `hub_hosts`: the host names of IoT
    hubs by the name of the resource, where they are not name.azure-devices.net."""

    tenant, client_id, client_secret, subscription = TENANT, CLIENT, SECRET, SUBSCRIPTION

    def __init__(
        self,
        directory: Path,
        tls: pki.Tls,
        *,
        dps: Dps | None = None,
        hub_hosts: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True)
        self.directory, self.tls, self.port = directory, tls, process.free_port()
        self._log, self._script = directory / "log.jsonl", directory / "behaviour.json"
        self._forgotten = 0
        settings: dict[str, Any] = {
            "port": self.port,
            "service_ports": [process.free_port() for _ in range(SERVICES)],
            "certificate": str(tls.chain),
            "key": str(tls.key),
            "tenant": TENANT,
            "client_id": CLIENT,
            "client_secret": SECRET,
            "subscription": SUBSCRIPTION,
            "scopes": [dps.scope] if dps else [],
            "device_host": f"localhost:{dps.port}"
            if dps
            else "global.azure-devices-provisioning.net",
            "hub_hosts": dict(hub_hosts or {}),
            "store": str(directory / "azure.db"),
            "log": str(self._log),
            "behaviour": str(self._script),
        }
        if dps is not None:
            settings["bridge"] = {"enrolments": str(dps.enrolments), "scope": dps.scope}
        (directory / "azure.json").write_text(json.dumps(settings, indent=4))
        self._log.touch()

    @property
    def authority(self) -> str:
        """Where Entra ID is, as azure-identity wants it."""
        return self.url

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def behave(self, **behaviour: object) -> None:
        """From now on, all of it: see tests.lab.azure_wire.Behaviour; without arguments, well."""
        replace(self._script, behaviour)

    @contextmanager
    def running(self) -> Iterator["Azure"]:
        """What is there stays for the next time."""
        command = [sys.executable, "-m", "tests.lab.azure_server"]
        command.append(str(self.directory / "azure.json"))
        answers = lambda: process.speaks_tls(self.port, self.tls.trust)  # noqa: E731
        with process.running(command, self.directory / "azure.out", answers, cwd=process.TOP):
            yield self

    # --- what is there ---

    @contextmanager
    def _store(self) -> Iterator[Store]:
        store = Store(self.directory / "azure.db")
        try:
            yield store
        finally:
            store.close()

    def resources(self) -> dict[str, Document]:
        """Resource groups, hubs, services and certificates, as Resource Manager shows them, by the
        end of their path: "group", "IotHubs/hub", "provisioningServices/dps/certificates/ca"."""
        with self._store() as store:
            found = [shown(body) for _, body in store.below("resource", "/")]
        return {end_of(body["id"]): body for body in found}

    def enrolments(self, service: str) -> list[Document]:
        """Individual ones, of the provisioning service of this name, in the order of their ids."""
        return self._enrolled("enrollments", service)

    def groups(self, service: str) -> list[Document]:
        return self._enrolled("enrollmentGroups", service)

    def _enrolled(self, table: str, service: str) -> list[Document]:
        key = self.resources()[f"provisioningServices/{service}"]["id"].lower()
        with self._store() as store:
            return [body for _, body in store.below(f"{table} {key}", "")]

    # --- what happened ---

    def requests(self) -> list[dict[str, Any]]:
        """Each request since the start, or since `forget`, oldest first: time, port, method, path,
        version, status (0: cut off), error, change ("create", "update", "same", "delete"),
        changes (of a bulk operation: how many of each)."""
        lines = self._log.read_bytes()[self._forgotten :].decode().splitlines()
        return [json.loads(line) for line in lines]

    def forget(self) -> None:
        """The log begins anew."""
        self._forgotten = self._log.stat().st_size

    def changes(self) -> list[str]:
        """What was changed, one by one: "create PUT /subscriptions/..."; of a bulk operation, each
        of its enrolments. Who asks for what is there already changes nothing."""
        return [
            f"{kind} {line['method']} {line['path']}"
            for line in self.requests()
            for kind in changes_of(line).elements()
            if kind != "same"
        ]

    def wishes(self) -> list[str]:
        """Requests that were meant to change something, whatever came of them: "PUT /path"."""
        looks = ("/token", "/query", "keys", "Availability", "mechanism")
        return [
            f"{line['method']} {line['path']}"
            for line in self.requests()
            if line["method"] not in ("GET", "HEAD") and not line["path"].endswith(looks)
        ]


def changes_of(line: dict[str, Any]) -> Counter[str]:
    return Counter(line.get("changes", {})) + Counter([line["change"]] if "change" in line else [])


def end_of(path: str) -> str:
    """Of a resource's id, what is behind the group and the provider; a group's name."""
    _, found, rest = path.partition("/providers/Microsoft.Devices/")
    return rest if found else path.rpartition("/")[2]
