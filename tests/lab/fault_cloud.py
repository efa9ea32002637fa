"""Faults at DPS and at the hub, and of IoT Edge's own services."""

from collections.abc import Generator
from datetime import timedelta
from typing import Any

from tests.lab import dps_tpm, edge, pki
from tests.lab.fault import WELL, Case, Fault
from tests.lab.fault_net import impatient, patient

Steps = Generator[None, None, None]


def dps(**behaviour: Any) -> Fault:
    """DPS has trouble of its own; then it is over."""

    def fault(case: Case) -> Steps:
        case.world.dps.behave(**{**WELL, **behaviour})
        impatient(case, "dps")
        yield
        case.world.dps.behave(**WELL)
        patient(case)

    return fault


def busy(case: Case) -> Steps:
    """DPS names a time to stay away; it passes."""
    clock = case.clock()
    case.world.dps.behave(**{**WELL, "throttle": 1000, "retry_after": 77})
    yield
    case.world.dps.behave(**WELL)
    clock.advance(timedelta(minutes=5))


def failing(code: int) -> Fault:
    """It has no hub, or the hub does not let it in; then that is set right."""

    def fault(case: Case) -> Steps:
        name = case.device.wish.id
        case.world.dps.behave(**WELL, failing=[name], failure=code)
        yield
        case.world.dps.behave(**WELL)

    return fault


def hub(**behaviour: Any) -> Fault:
    def fault(case: Case) -> Steps:
        case.hub.behave(**behaviour)
        yield
        case.hub.behave()

    return fault


def another_hub(host: str) -> Fault:
    """DPS assigns one that is not there; then the right one, when it is asked anew."""

    def fault(case: Case) -> Steps:
        case.world.dps.behave(**WELL, state={"assignedHub": host})
        yield
        case.world.dps.behave(**WELL)
        (case.device.state / "assignment.json").unlink(missing_ok=True)

    return fault


def scope(case: Case) -> Steps:
    case.configure(dps={"id_scope": "0ne00OTHER0"})
    impatient(case, "dps")
    yield
    case.configure(dps={"id_scope": case.world.dps.scope})
    patient(case)


def api_version(case: Case) -> Steps:
    case.configure(dps={"api_version": "2031-01-01"})
    yield
    case.configure(dps={"api_version": None})


def not_enrolled(case: Case) -> Steps:
    case.world.dps.forget(case.device.wish.id)
    impatient(case, "dps")
    yield
    case.device.enrol()
    patient(case)


def disabled(case: Case) -> Steps:
    case.world.dps.enrolment(case.device.wish.id, enabled=False)
    impatient(case, "dps")
    yield
    case.world.dps.enrolment(case.device.wish.id, enabled=True)
    patient(case)


def other_ek(case: Case) -> Steps:
    """The enrolment is that of another TPM."""
    right = case.device.endorsement_key()
    case.world.dps.enrolment(case.device.wish.id, ek=dps_tpm.elsewhere(right))
    impatient(case, "dps")
    yield
    case.world.dps.enrolment(case.device.wish.id, ek=right)
    patient(case)


def group_disabled(name: str) -> Fault:
    def fault(case: Case) -> Steps:
        ca = pki.Files(case.world.directory / name).root
        case.world.dps.group(ca, enabled=False)
        impatient(case, "dps")
        yield
        case.world.dps.group(ca, enabled=True)
        patient(case)

    return fault


def other_certificate(case: Case) -> Steps:
    """An individual enrolment, of another certificate: its common name is this device's."""
    name = case.device.wish.id
    other = pki.root("Somebody").issue(pki.new_key().public_key(), name)
    case.world.dps.enrol_certificate(name, other)
    impatient(case, "dps")
    yield
    case.world.dps.forget(name)
    patient(case)


def disabled_at_hub(case: Case) -> Steps:
    """Somebody disables it there as soon as it is registered."""
    case.hub.behave(refuse=5)
    yield
    case.hub.behave()


def crashing(*services: str) -> Fault:
    """IoT Edge's services end as they start; then they are repaired."""

    def fault(case: Case) -> Steps:
        edge.broken(case.device, crash=list(services))
        impatient(case, "dps")
        yield
        edge.broken(case.device)
        patient(case)

    return fault


def host_name(case: Case) -> Steps:
    """That no certificate of IoT Edge's can bear."""
    config = case.device.aziot / "config.toml"
    pki.write_private(config, b'hostname = "not_a_name"\n')
    yield
    config.write_text('hostname = "a-name"\n')


def hub_key_index(case: Case) -> Steps:
    config = case.device.aziot / "config.toml"
    pki.write_private(config, b'[tpm]\nauth_key_index = "0x100"\n')
    yield
    config.write_text("[tpm]\nauth_key_index = 256\n")
