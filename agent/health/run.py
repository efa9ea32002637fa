"""One run of the companion: look; keep the LDevID; follow the CAs; help IoT Edge; look again; tell.

It begins where the first boot has ended: a device that was never provisioned, whose TPM is another
one, or whose clock cannot be right is not its matter, and nothing is done to it.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime

from agent import inputs, plan, status, store
from agent.errors import NeverProvisioned, SystemctlFailed
from agent.health import certd, look, memory, services, told
from agent.health.judge import Judged, judge
from agent.health.services import Unit
from agent.health.shown import Report
from agent.health.tending import Device, Look, Tending
from agent.steps import preflight
from agent.steps.same_tpm import same_tpm

log = logging.getLogger(__name__)


def is_due(device: Device) -> bool:
    """Whether a run would have something to do. Raises what `run` does."""
    _ready(device)
    return Tending(device, memory.load(device.state), _look(device), dry=True).is_due()


def run(device: Device, *, dry: bool = False) -> Report:
    """`dry`: nothing is changed, and it is told what would be. Raises ClockImplausible,
    NeverProvisioned, TpmError, NoPermission; of what fails later, the report tells."""
    _ready(device)
    known, seen = memory.load(device.state), _look(device)
    tended = Tending(device, known, seen, dry=dry)
    actions = tended.all(lambda: _look(device))
    if actions and not dry:
        seen = _look(device)
    report = Report(
        at=seen.at,
        certificates=seen.certificates,
        tpm=status.room(device.tpm),
        actions=actions,
        services={name: str(unit) for name, unit in seen.units.items()},
        data=tended.data(),
        problem=tended.problem,
        dry=dry,
    )
    if not dry:
        tended.remember()
        told.tell(device.conf, device.state, known, report)
    return report


def _ready(device: Device) -> None:
    conf, state = device.conf, device.state
    own = state.ldevid_cert if conf.dps.attestation == "x509" else None
    here = same_tpm(device.tpm, conf, state)
    for step in (
        preflight.tpm_answers(device.tpm, conf.tpm.wait.total_seconds()),
        preflight.clock(own, inputs.trust_files(conf)),
        preflight.device_id(device.who),
        here,
    ):
        if plan.at(step, step.done) is None and step is not here:
            plan.at(step, step.apply)
    began = any(map(store.exists, (state.ldevid_cert, state.registration)))
    if not began or here.done() is None:
        raise NeverProvisioned("cannot look after this device: it was not provisioned yet")


def _look(device: Device) -> Look:
    """What the services say is read only where a certificate of theirs is past its time."""
    now = datetime.now(UTC)
    certificates = _judged(device, now, {})
    units = _units()
    late = [each for each in certificates if each.by in services.RENEWERS and _past(each, now)]
    if late:
        since = min(each.threshold or now for each in late)
        certificates = _judged(device, now, _stopped(since))
    return Look(now, certificates, units)


def _judged(device: Device, now: datetime, stopped: Mapping[str, str]) -> list[Judged]:
    found = look.gather(device.tpm, device.conf, device.state, stopped)
    return [judge(each, now) for each in found]


def _past(each: Judged, now: datetime) -> bool:
    return each.threshold is not None and each.threshold <= now


def _units() -> Mapping[str, Unit]:
    try:
        return services.states(certd.UNITS)
    except SystemctlFailed as e:
        log.debug("going on without the state of the services: %s", e)
        return {}


def _stopped(since: datetime) -> Mapping[str, str]:
    try:
        return services.stopped_renewals(since)
    except SystemctlFailed as e:
        log.debug("going on without the words of the services: %s", e)
        return {}
