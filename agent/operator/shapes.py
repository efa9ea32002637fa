"""What enrolments look like to DPS, and whether one that is there is as it should be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agent.operator.settings import Operator

REPROVISION = {
    "migrate": {"updateHubAssignment": True, "migrateDeviceData": True},
    "reset": {"updateHubAssignment": True, "migrateDeviceData": False},
    "never": {"updateHubAssignment": False, "migrateDeviceData": False},
}
# What DPS adds to a record, and what is of no use to send back.
READ_ONLY = {"createdDateTimeUtc", "lastUpdatedDateTimeUtc", "registrationState"}


@dataclass(frozen=True)
class Shape:
    """What is wanted of each enrolment. `hub`: the host name of the hub, which DPS must be told
    where it does not choose among hubs itself (`static`)."""

    config: Operator
    hub: str

    def _common(self) -> dict[str, Any]:
        wanted = self.config.enrolment
        found = {
            "capabilities": {"iotEdge": wanted.edge},
            "allocationPolicy": wanted.allocation,
            "reprovisionPolicy": REPROVISION[wanted.reprovision],
        }
        return found | ({"iotHubs": [self.hub]} if wanted.allocation == "static" else {})

    def group(self, references: Sequence[str]) -> dict[str, Any]:
        """`references`: the names in DPS of one CA certificate or two, the newer first."""
        names = dict(zip(("primary", "secondary"), references, strict=False))
        return {
            "enrollmentGroupId": self.config.enrolment.group,
            "attestation": {"type": "x509", "x509": {"caReferences": names}},
            **self._common(),
        }

    def individual(self, registration_id: str, key: str) -> dict[str, Any]:
        """`key`: TPM2B_PUBLIC of the EK, base64."""
        return {
            "registrationId": registration_id,
            "attestation": {"type": "tpm", "tpm": {"endorsementKey": key}},
            **self._common(),
        }


def new(wanted: dict[str, Any]) -> dict[str, Any]:
    """The same, for what is not there yet: enabled, and the device is called as it registers. Of
    what is there, neither is ever changed: who was locked out stays so."""
    name = {"deviceId": wanted["registrationId"]} if "registrationId" in wanted else {}
    return {**wanted, **name, "provisioningStatus": "enabled"}


def of_cas(group: dict[str, Any]) -> bool:
    """Whether an enrolment group is of the kind that we make: any other lets in other devices,
    who would all be out if it became one."""
    return bool(((group.get("attestation") or {}).get("x509") or {}).get("caReferences"))


def without(group: dict[str, Any], references: Sequence[str]) -> list[str]:
    """Of the CA certificates that a group has, those that are not among these."""
    has = ((group.get("attestation") or {}).get("x509") or {}).get("caReferences") or {}
    return [str(each) for each in has.values() if each and each not in references]


def within(wanted: dict[str, Any], there: dict[str, Any]) -> bool:
    """Whether all that is wanted is there; what DPS or somebody else says besides does not count.
    Nothing, and a null, are the same; names of devices are the same in any case of letters."""
    return all(_same(name, value, there.get(name)) for name, value in wanted.items())


def _same(name: str, wanted: Any, there: Any) -> bool:
    if name == "caReferences":  # a secondary that is not wanted any more must go
        return bool(wanted == {k: v for k, v in (there or {}).items() if v})
    if isinstance(wanted, dict):
        return isinstance(there, dict) and within(wanted, there)
    if name in ("registrationId", "enrollmentGroupId", "allocationPolicy"):
        return str(wanted).lower() == str(there).lower()
    return bool(wanted == there)


def over(there: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """What to send: as it is wanted; what somebody has set besides (a twin, say) stays, and so
    does what is known of the same TPM (its storage root key)."""
    kept = {name: value for name, value in there.items() if name not in READ_ONLY}
    same = within(wanted["attestation"], there.get("attestation") or {})
    return kept | wanted | ({"attestation": kept["attestation"]} if same else {})
