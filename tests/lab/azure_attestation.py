"""What may be enrolled in the lab's Azure: TPMs, client certificates, and CAs for groups.

Symmetric keys are not had. What a reader of an enrolment is shown is complete: defaults are there,
and certificates are described instead of repeated, as the service does.
"""

import re
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.lab import dps_tpm
from tests.lab.azure_certificates import loaded
from tests.lab.azure_store import Document, Store
from tests.lab.azure_wire import Error, Script

POLICIES = ("hashed", "geoLatency", "static", None)
SETTINGS = {
    "deviceId", "attestation", "capabilities", "iotHubHostName", "initialTwin", "etag",
    "provisioningStatus", "reprovisionPolicy", "allocationPolicy", "iotHubs",
    "optionalDeviceInformation", "registrationId", "enrollmentGroupId", "registrationState",
    "createdDateTimeUtc", "lastUpdatedDateTimeUtc", "customAllocationDefinition",
}  # fmt: skip
KEPT = ("deviceId", "initialTwin", "optionalDeviceInformation", "allocationPolicy", "iotHubs")
REPROVISION = {"updateHubAssignment": True, "migrateDeviceData": True}
DEVICE_ID = re.compile(r"[A-Za-z0-9\-.+%_#*?!(),:=@$']{1,128}")


class Attestations:
    """Looks at what is to be enrolled, with the service's certificates and hubs at hand."""

    def __init__(self, script: Script, store: Store) -> None:
        self._script, self._store = script, store

    def whole(self, service: Document, table: str, body: Document) -> Document:
        """The enrolment, complete but for ETag and dates. Raises 400."""
        if strange := sorted(set(body) - SETTINGS):
            raise Error(400, 400004, f"Could not find member '{strange[0]}'")
        single = table == "enrollments"
        name = "registrationId" if single else "enrollmentGroupId"
        status = body.get("provisioningStatus") or "enabled"
        hubs = {link["name"] for link in service["properties"]["iotHubs"]}
        self._check(body, status, hubs)
        attestation = body.get("attestation") or {}
        new: Document = {name: body[name], "provisioningStatus": status}
        new["attestation"] = (
            self._individual(attestation) if single else self._group(service, attestation)
        )
        new["capabilities"] = body.get("capabilities") or {"iotEdge": False}
        new["reprovisionPolicy"] = body.get("reprovisionPolicy") or REPROVISION
        return new | {n: body[n] for n in KEPT if body.get(n) is not None}

    def _check(self, body: Document, status: str, hubs: set[str]) -> None:
        if status not in ("enabled", "disabled"):
            raise Error(400, 400004, f"The provisioningStatus '{status}' is not known")
        if body.get("allocationPolicy") not in POLICIES:
            raise Error(400, 400004, f"allocationPolicy '{body['allocationPolicy']}' is not known")
        if strange := sorted(set(body.get("iotHubs") or []) - hubs):
            raise Error(400, 400208, f"The IoT hub '{strange[0]}' is not linked")
        if body.get("allocationPolicy") == "static" and len(body.get("iotHubs") or []) != 1:
            raise Error(400, 400004, "A static allocation is to one IoT hub, which must be named")
        if (device := body.get("deviceId")) is not None and not DEVICE_ID.fullmatch(str(device)):
            raise Error(400, 400004, f"'{device}' is no device id")

    def _individual(self, attestation: Document) -> Document:
        kind = attestation.get("type")
        if kind == "tpm":
            given = attestation.get("tpm") or {}
            try:
                dps_tpm.endorsement_key(given.get("endorsementKey"), ecc=self._script.wish.ecc)
            except dps_tpm.Malformed as e:
                raise Error(400, 400205, f"Endorsement key: {e}") from e
            root = given.get("storageRootKey")
            tpm = {"endorsementKey": given["endorsementKey"], "storageRootKey": root}
            return {"type": kind, "tpm": tpm}
        if kind == "x509":
            primary = _primary(attestation, "clientCertificates")
            shown = {"primary": {"info": info(loaded(primary.get("certificate")))}}
            return {"type": kind, "x509": {"clientCertificates": shown}}
        raise Error(400, 400004, f"The attestation type '{kind}' is not supported here")

    def _group(self, service: Document, attestation: Document) -> Document:
        given = attestation.get("x509") or {}
        if attestation.get("type") != "x509":
            raise Error(400, 400004, "A group's attestation is of type x509")
        if given.get("signingCertificates"):
            primary = _primary(attestation, "signingCertificates")
            certificate = loaded(primary.get("certificate"))
            shown = {"primary": {"info": info(certificate), "certificate": None}}
            return {"type": "x509", "x509": {"signingCertificates": shown}}
        names = {n: v for n, v in (given.get("caReferences") or {}).items() if v}
        if "primary" not in names:
            raise Error(400, 400004, "A group needs a CA")
        for name in names.values():
            self._referenced(service, str(name))
        return {"type": "x509", "x509": {"caReferences": names}}

    def _referenced(self, service: Document, name: str) -> Document:
        """A certificate of the service; raises 400 unless its key is proven to be had."""
        there = self._store.get("resource", f"{service['id']}/certificates/{name}")
        if there is None:
            raise Error(400, 400004, f"There is no certificate '{name}'")
        if not there["properties"]["isVerified"]:
            raise Error(400, 400004, f"The certificate '{name}' is not verified")
        return there

    def certificates(self, service: Document, group: Document) -> list[x509.Certificate]:
        """Those that a group, as it was asked for, stands on."""
        given = group["attestation"]["x509"]
        if given.get("signingCertificates"):
            return [loaded(_primary(group["attestation"], "signingCertificates")["certificate"])]
        names = [name for name in given["caReferences"].values() if name]
        found = [self._referenced(service, name) for name in names]
        return [loaded(each["properties"]["certificate"]) for each in found]


def _primary(attestation: Document, which: str) -> dict[str, Any]:
    given = attestation.get("x509") or {}
    primary: dict[str, Any] = (given.get(which) or {}).get("primary") or {}
    return primary


def info(certificate: x509.Certificate) -> dict[str, Any]:
    """X509CertificateInfo."""
    return {
        "subjectName": certificate.subject.rfc4514_string(),
        "issuerName": certificate.issuer.rfc4514_string(),
        "sha1Thumbprint": certificate.fingerprint(hashes.SHA1()).hex().upper(),  # noqa: S303
        "sha256Thumbprint": certificate.fingerprint(hashes.SHA256()).hex().upper(),
        "notBeforeUtc": certificate.not_valid_before_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "notAfterUtc": certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "serialNumber": f"{certificate.serial_number:X}",
        "version": 3,
    }
