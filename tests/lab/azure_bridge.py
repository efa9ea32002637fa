"""From what is enrolled in the lab's Azure to the lab's provisioning service for devices.

The two are one service in Azure; here they are two processes, and this is the wire between them:
the file of enrolments that tests.lab.dps follows.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509

from tests.lab import pki
from tests.lab.azure_store import Document
from tests.lab.dps_hubs import replace


class Bridge:
    """`settings`: {"enrolments": file, "scope": ID scope}, or None for no such service."""

    def __init__(self, settings: dict[str, Any] | None) -> None:
        self._scope = settings["scope"] if settings else None
        self._file = Path(settings["enrolments"]) if settings else Path()

    def _meant(self, service: Document) -> bool:
        return self._scope is not None and service["properties"]["idScope"] == self._scope

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        said = json.loads(self._file.read_text())
        yield said
        replace(self._file, said)

    def individual(self, service: Document, name: str, whole: Document) -> None:
        if not self._meant(service):
            return
        attestation, hubs = whole["attestation"], whole.get("iotHubs") or [None]
        ek = attestation["tpm"]["endorsementKey"] if attestation["type"] == "tpm" else None
        thumbprint = None
        if ek is None:
            info = attestation["x509"]["clientCertificates"]["primary"]["info"]
            thumbprint = info["sha256Thumbprint"].lower()
        entry = {"registration_id": whole["registrationId"], "ek": ek, "thumbprint": thumbprint}
        entry |= {"device_id": whole.get("deviceId"), "hub": hubs[0]}
        entry["enabled"] = whole["provisioningStatus"] == "enabled"
        with self._changing() as said:
            said["individual"][name.lower()] = entry

    def group(
        self, service: Document, name: str, whole: Document, cas: list[x509.Certificate]
    ) -> None:
        if not self._meant(service):
            return
        enabled = whole["provisioningStatus"] == "enabled"
        with self._changing() as said:
            said.setdefault("groups", {})[name] = pki.pem(*cas).decode()
            others = [group for group in said["disabled groups"] if group != name]
            said["disabled groups"] = others + [name] * (not enabled)

    def gone(self, service: Document, table: str, name: str) -> None:
        if not self._meant(service):
            return
        with self._changing() as said:
            if table == "enrollments":
                said["individual"].pop(name.lower(), None)
            else:
                said.get("groups", {}).pop(name, None)

    def emptied(self, service: Document) -> None:
        """Nobody is enrolled any more."""
        if self._meant(service):
            with self._changing() as said:
                said["individual"], said["groups"] = {}, {}
