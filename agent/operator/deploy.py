"""The plan of the cloud: which steps, in order; and the lines a device's configuration needs."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate

from agent.errors import AzureCaUnverified, AzureChanged, AzureRefused
from agent.operator import cas, resources, shapes
from agent.operator.resources import Arm, foreign, ours, same_place, state
from agent.operator.service import Service
from agent.operator.settings import TAG
from agent.steps import Step
from agent.x509 import describe, fingerprint

log = logging.getLogger(__name__)
CasOf = Callable[[], cas.Operational]


def operational(arm: Arm) -> CasOf | None:
    """The operational CA, asked for once, when somebody wants it; None without [est]."""
    est = arm.config.est
    return None if est is None else cache(lambda: cas.fetched(est))


def steps(arm: Arm, fetched: CasOf | None) -> list[Step]:
    """Nothing is looked at before a step is. Without `fetched`, nobody's CA is enrolled."""
    found = [_group(arm), _hub(arm), _dps(arm)]
    if fetched is not None:
        found += [_certificates(arm, fetched), _enrolment_group(arm, fetched)]
    return [replace(step, apply=partial(_written, step.apply, step.done)) for step in found]


def _written(write: Callable[[], None], done: Callable[[], object]) -> None:
    """A write whose answer got lost is sent again, and then refused for what it has done itself;
    or somebody else has done the same. What is there says whether anything is left to do."""
    try:
        write()
    except (AzureChanged, AzureRefused):
        if not done():
            raise


def certificates(arm: Arm, fetched: CasOf) -> list[dict[str, Any]]:
    """What DPS is to have of the operational CA, for a person to compare with what its owner
    says; `issuing`: whoever has a certificate of it is let in."""
    there, found = arm.certificates() if arm.dps() else {}, fetched()
    return [
        {
            "name": cas.name(each),
            "subject": describe(each),
            "sha256": fingerprint(each),
            "not_before": each.not_valid_before_utc.isoformat(),
            "not_after": each.not_valid_after_utc.isoformat(),
            "issuing": each in found.issuing,
            "uploaded": _verified(there.get(cas.name(each)), each),
        }
        for each in found.trusted
    ]


def _group(arm: Arm) -> Step:
    def done() -> str | None:
        found = arm.resource_group()
        return found and f"{found.name}, in {found.location}"

    return Step("resource group", done, arm.make_group)


def _hub(arm: Arm) -> Step:
    wanted = arm.config.hub

    def done() -> str | None:
        found = arm.hub()
        if found is None or _at_work(arm, f"the IoT hub {wanted.name}", found):
            return None
        same = (found.sku.name, found.sku.capacity) == (wanted.sku, wanted.units)
        _unchangeable(arm, "the IoT hub", wanted.name, found)
        if not ours(found, arm.config) or same:
            return f"{found.properties.host_name}, {found.sku.name} x {found.sku.capacity}"
        return None

    return Step("iot hub", done, arm.make_hub)


def _dps(arm: Arm) -> Step:
    """With the hub linked to it."""
    wanted = arm.config.dps

    def done() -> str | None:
        found, what = arm.dps(), f"the provisioning service {wanted.name}"
        if found is None or _at_work(arm, what, found):
            return None
        _unchangeable(arm, "the provisioning service", wanted.name, found)
        linked = arm.linked(found)
        if not ours(found, arm.config) and not linked:
            foreign(what, f"it is not ours (no tag {TAG}), and the IoT hub is not linked to it")
        if linked and (found.sku.capacity == wanted.units or not ours(found, arm.config)):
            return f"{found.properties.id_scope}, linked to {arm.hub_host()}"
        return None

    return Step("provisioning service", done, arm.make_dps)


def _at_work(arm: Arm, what: str, found: Any) -> bool:
    """Whether it is not done yet, or failed: then it is made again, if it is ours."""
    if state(found) == resources.DONE:
        return False
    if not ours(found, arm.config):
        foreign(what, f"it is not ours (no tag {TAG}), and '{state(found)}'")
    return True


def _unchangeable(arm: Arm, what: str, name: str, found: Any) -> None:
    if ours(found, arm.config) and not same_place(found, arm.config):
        foreign(f"{what} {name}", f"it is in {found.location}, and cannot be moved")


def _certificates(arm: Arm, fetched: CasOf) -> Step:
    """Of the operational CA, each verified: DPS believes no other."""

    def missing() -> list[Certificate]:
        there = arm.certificates() if arm.dps() else {}
        return [
            each for each in fetched().trusted if not _verified(there.get(cas.name(each)), each)
        ]

    def done() -> str | None:
        if missing():
            return None
        return ", ".join(cas.name(each) for each in fetched().trusted)

    def upload(each: Certificate) -> None:
        der = each.public_bytes(Encoding.DER)
        _written(lambda: arm.upload(cas.name(each), der), lambda: each not in missing())

    def apply() -> None:
        _writable(arm)
        for each in missing():
            upload(each)
        if left := missing():
            names = ", ".join(map(cas.name, left))
            raise AzureCaUnverified(f"cannot use {names}: DPS has it, but not as verified")

    return Step("operational CA", done, apply)


def _verified(found: Any | None, wanted: Certificate) -> bool:
    """Whether what DPS has by its name counts there; raises AzureDiffers if it is another one."""
    if found is None:
        return False
    if not cas.is_at(found.properties.thumbprint, wanted):
        foreign(f"the certificate {found.name}", "what DPS has by this name is another one")
    return bool(found.properties.is_verified)


def _enrolment_group(arm: Arm, fetched: CasOf) -> Step:
    name = arm.config.enrolment.group

    def wanted() -> dict[str, Any]:
        names = [cas.name(each) for each in fetched().issuing]
        return shapes.Shape(arm.config, arm.hub_host()).group(names)

    def done() -> str | None:
        dps = arm.dps()
        there = Service(arm, dps).group(name) if dps and state(dps) == resources.DONE else None
        if there is not None and not shapes.of_cas(there):
            foreign(f"the enrolment group {name}", "it is there, and not for CAs that DPS has")
        if there is None or not shapes.within(wanted(), there):
            return None
        return f"{name}, of {', '.join(cas.name(each) for each in fetched().issuing)}"

    def apply() -> None:
        service = Service(arm, _writable(arm))
        there = service.group(name)
        if there and (out := shapes.without(there, [cas.name(x) for x in fetched().issuing])):
            log.warning("not let in any more: whom %s has certified", ", ".join(out))
        service.put_group(shapes.over(there, wanted()) if there else shapes.new(wanted()))

    return Step("enrolment group", done, apply)


def leaving(arm: Arm, fetched: CasOf) -> list[str]:
    """The certificates, by their names in DPS, that the group has and deploy takes out of it: their
    devices are not let in any more."""
    dps, name = arm.dps(), arm.config.enrolment.group
    there = Service(arm, dps).group(name) if dps and state(dps) == resources.DONE else None
    if there is None:
        return []
    return shapes.without(there, [cas.name(each) for each in fetched().issuing])


def _writable(arm: Arm) -> Any:
    """The provisioning service, if it is ours."""
    found = arm.dps()
    arm.still_ours(f"the provisioning service {arm.config.dps.name}", found)
    return found


def lines(arm: Arm) -> dict[str, str]:
    """What config.toml of a device needs to come here."""
    found = arm.dps()
    if found is None:
        return {}
    endpoint = str(found.properties.device_provisioning_host_name or "")
    said = {"id_scope": str(found.properties.id_scope)}
    if endpoint and endpoint != arm.config.cloud.device_endpoint:
        said["endpoint"] = f"https://{endpoint}"
    return said
