"""One run of the companion: look; keep the LDevID; follow the CAs; help IoT Edge; look again; tell.

It begins where the first boot has ended: a device that was never provisioned, whose TPM is another
one, or whose clock cannot be right is not its matter, and nothing is done to it.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from agent import inputs, plan, status, store, x509
from agent.errors import AgentError, NeverProvisioned, SystemctlFailed, TrustUnreadable
from agent.health import acts, certd, look, memory, services, told
from agent.health.judge import Judged, judge
from agent.health.seen import Device, Look
from agent.health.services import Unit
from agent.health.shown import Report
from agent.health.tending import Tending
from agent.steps import azure, preflight
from agent.steps.ldevid import dated
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
    seen = tended.seen
    report = Report(
        at=seen.at,
        certificates=seen.certificates,
        tpm=status.room(device.tpm),
        actions=actions,
        services={name: str(unit) for name, unit in seen.units.items()},
        data=tended.data(),
        problem=tended.problem,
        waits=tended.waits,
        dry=dry,
    )
    if not dry:
        tended.remember()
        told.tell(device.conf, device.state, known, report)
    return report


def _ready(device: Device) -> None:
    conf, state = device.conf, device.state
    own = dated(conf, state) if conf.dps.attestation == "x509" else None
    here = same_tpm(device.tpm, conf, state)
    for step in (
        # To renew takes no password of a hierarchy: that one is withheld, each boot says.
        preflight.tpm_answers(device.tpm, conf.tpm.wait.total_seconds(), unlocked=False),
        preflight.clock(own, filter(_readable, inputs.trust_files(conf))),
        preflight.device_id(device.who),
        here,
    ):
        if plan.at(step, step.done) is None and step is not here:
            plan.at(step, step.apply)
    began = store.exists(state.ldevid_cert) or azure.began(conf, state)
    if not began or here.done() is None:
        raise NeverProvisioned("cannot look after this device: it was not provisioned yet")


def _readable(path: Path) -> bool:
    """One that cannot be read says nothing of the time, and is told as what it is."""
    with suppress(TrustUnreadable):
        return bool(x509.anchors(path))
    return False


def _look(device: Device) -> Look:
    """What the services say is read only where a certificate of theirs is past its time."""
    now = datetime.now(UTC)
    troubles: list[AgentError] = []
    certificates = _judged(device, now, {}, troubles.append)
    units = _units() if device.conf.for_edge else {}
    late = [each for each in certificates if each.by in services.RENEWERS and _past(each, now)]
    if late:
        since = min(each.threshold or now for each in late)
        certificates = _judged(device, now, _stopped(device, since))
    return Look(now, certificates, units, next(iter(troubles), None))


def _judged(
    device: Device, now: datetime, stopped: Mapping[str, str], hitch: look.Hitch | None = None
) -> list[Judged]:
    found = look.gather(device.tpm, device.conf, device.state, stopped, hitch)
    return [judge(each, now) for each in found]


def _past(each: Judged, now: datetime) -> bool:
    return each.threshold is not None and each.threshold <= now


def _units() -> Mapping[str, Unit]:
    try:
        return services.states(certd.UNITS)
    except SystemctlFailed as e:
        log.debug("going on without the state of the services: %s", e)
        return {}


def _stopped(device: Device, since: datetime) -> Mapping[str, str]:
    try:
        secrets = acts.secrets(device.tpm, device.conf, device.state)
        return services.stopped_renewals(since, secrets)
    except AgentError as e:
        log.debug("going on without the words of the services: %s", e)
        return {}
