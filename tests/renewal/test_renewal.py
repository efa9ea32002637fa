"""The LDevID is renewed by the companion: proven before it is used, and whatever a server does, the
one in use stays in place and works."""

import json
from datetime import timedelta

import pytest
from cryptography import x509

from agent.state import State
from tests.conftest import MakeDevice
from tests.lab import edge, pki
from tests.lab.clock import Clock
from tests.lab.device import Device
from tests.lab.renewals import Told, agree, asked, operations, renew
from tests.lab.world import World
from tests.test_patience import service
from tests.test_provision import ldevid, provisioned

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def forgotten(device: Device) -> int:
    """How often IoT Edge was made to forget who it is: at the first boot it has to be."""
    return len(edge.events(device, "api", path="/identities/device/reprovision"))


# --- it is renewed ---


@pytest.mark.parametrize("key", ["ecc256", "rsa2048"])
def test_it_renews_itself_and_proves_itself_and_iot_edge_does_not_notice(
    make_device: MakeDevice, clock: Clock, world: World, key: pki.Kind
) -> None:
    device = provisioned(make_device(key=key))
    before, process = agree(device), service(device)
    clock.advance(70 * DAY)
    start = len(asked(world))

    assert (told := renew(device)).what == "renewed", told

    requests, after = asked(world)[start:], agree(device)
    assert operations(requests) == ["cacerts", "simplereenroll", "cacerts"]
    assert [int(each.serial, 16) for each in requests] == [*[before.serial] * 2, after.serial]
    assert (after.key, after.slot) == (before.key, before.slot)
    old, new = (x509.load_pem_x509_certificate(each.chain) for each in (before, after))
    assert new.subject.public_bytes() == old.subject.public_bytes()
    assert new.not_valid_after_utc - old.not_valid_after_utc > 69 * DAY
    assert service(device) == process
    assert forgotten(device) == 1
    assert device.agent("status").returncode == 0
    assert not list(device.state.glob("*next*"))


def test_with_a_password_it_is_asked_for_besides(make_device: MakeDevice, world: World) -> None:
    device = provisioned(make_device(auth="basic"))
    world.owner_server.lifetime(100 * DAY)
    assert (told := renew(device)).what == "renewed", told
    assert agree(device)


def test_a_local_ca_issues_anew(make_device: MakeDevice, clock: Clock) -> None:
    device = make_device()
    owner = device.world.owner.save(device.directory / "owner")
    ca = {"certificate": str(owner.chain), "key": str(owner.key)}
    device.configure({"ldevid": {"est": None, "ca": ca}})
    before = ldevid(provisioned(device))
    clock.advance(DAY)
    told = renew(device)
    assert (told.what, "there is no server" in told.words) == ("renewed", True)
    assert ldevid(device).not_valid_after_utc > before.not_valid_after_utc
    assert agree(device)
    clock.jump(-DAY / 2)  # it was ahead when that was issued, which tells nothing of the time
    device.agent("health")
    assert ldevid(device).not_valid_before_utc < clock.now()
    clock.jump(DAY / 2)


def test_a_static_ldevid_is_registered_anew_for_the_hub_knows_the_very_certificate(
    make_device: MakeDevice, clock: Clock, world: World
) -> None:
    """And IoT Edge forgets first who it is, which is nothing to do while DPS is away."""
    device = provisioned(make_device(issued_by="static", id="static-0001"))
    clock.advance(DAY)
    before = ldevid(device)
    world.dps.behave(throttle=1000)
    told = renew(device)
    assert (told.what, told.code) == ("waiting", "dps-throttled")
    assert (ldevid(device), forgotten(device)) == (before, 1)
    world.dps.behave(retry_after=0)
    start = len(world.issued(world.owner_est))
    assert (told := renew(device)).what == "renewed", told
    assert len(world.issued(world.owner_est)) == start
    serial = int(world.dps.assigned("static-0001")[-1]["serial"], 16)
    assert serial == agree(device).serial
    assert renew(device, due=False).what == "nothing"


# --- with a new key ---


def test_a_new_key_is_at_work_before_the_old_one_goes(
    make_device: MakeDevice, clock: Clock, world: World
) -> None:
    device = provisioned(make_device())
    device.configure({"ldevid": {"rekey": True}})
    held = agree(device)
    for slot in ("ldevid-2", "ldevid"):
        clock.advance(70 * DAY)
        start = len(asked(world))
        assert (told := renew(device)).what == "renewed", told
        new = agree(device)
        assert (new.slot, new.key != held.key) == (slot, True)
        assert operations(asked(world)[start:])[:3] == ["cacerts", "simplereenroll", "cacerts"]
        assert labels(device) >= {"ldevid", "ldevid-2"}

        assert renew(device, due=False).what == "completed"
        assert agree(device) == new
        assert labels(device) == {"device-id", "est-id", slot}  # IoT Edge's own keys stay
        assert {path.stem for path in device.state.glob("ldevid*.pem")} == {slot, f"{slot}-key"}
        assert renew(device, due=False).what == "nothing"
        (device.state / "ldevid.json").write_text("")  # which slot it is, is lost
        assert agree(provisioned(device)) == new
        assert labels(device) == {"device-id", "est-id", slot}
        held = new
    assert forgotten(device) == 1
    begins_anew(device, world)


def labels(device: Device) -> set[str]:
    from agent import pkcs11

    token = pkcs11.look(device.pkcs11, "edge")
    assert token is not None
    return {key.label for key in token.keys}


def begins_anew(device: Device, world: World) -> None:
    """All that IoT Edge had of its own is gone: it logs in with the LDevID then, by PKCS#11."""
    device.run(["iotedge", "system", "stop"])
    for path in (device.edge / "certd/certs").iterdir():
        path.unlink()
    start = len(world.issued(world.operations_est))
    assert device.run(["iotedge", "system", "restart"]).returncode == 0
    provisioned(device)
    by_ldevid = world.issued(world.operations_est)[start]
    assert int(by_ldevid.serial, 16) == agree(device).serial


# --- it takes more than one run ---


def test_come_back_later_is_kept_and_the_same_request_is_sent_again(
    make_device: MakeDevice, clock: Clock, world: World
) -> None:
    device = provisioned(make_device())
    held = agree(device)
    clock.advance(70 * DAY)
    world.owner_server.behave("pending", retry_after=86400)
    first = renew(device)
    assert (first.what, first.code) == ("waiting", "est-pending")
    assert agree(device) == held

    start, sent = len(asked(world)), kept_csr(device)
    assert renew(device, after=first) == Told("waiting", again(first), "", first.backoff)
    assert renew(device).code == "est-pending"  # even if that pause is forgotten
    assert len(asked(world)) == start

    clock.advance(DAY)
    assert renew(device, after=first).code == "est-pending"
    assert kept_csr(device) == sent
    world.owner_server.behave()
    clock.advance(DAY)
    assert renew(device, after=first).what == "renewed"
    assert agree(device).serial != held.serial
    assert not (device.state / "enrolment.json").exists()


def kept_csr(device: Device) -> str:
    found = json.loads((device.state / "enrolment.json").read_text())
    assert found["purpose"] == "renewal"
    return str(found["csr"])


def again(told: Told) -> str:
    return told.words.partition("; ")[2]


def test_what_a_run_that_was_cut_off_had_got_is_proven_and_used_and_not_asked_for_again(
    make_device: MakeDevice, world: World
) -> None:
    device = provisioned(make_device())
    state, before = State(device.state), agree(device)
    world.owner_server.lifetime(100 * DAY)
    renew(device)
    new = agree(device)
    state.ldevid_next.write_bytes(new.chain)
    state.ldevid_cert.write_bytes(before.chain)

    with world.without_est():
        assert renew(device).code == "unreachable"
    assert agree(device) == before
    start = len(asked(world))
    assert (told := renew(device)).what == "renewed", told
    assert operations(asked(world)[start:]) == ["cacerts"]
    assert agree(device) == new


def test_a_new_one_that_its_own_server_refuses_is_discarded(
    make_device: MakeDevice, world: World
) -> None:
    """The CA issues from a new intermediate already, and its server has not been told."""
    device = provisioned(make_device())
    held, server = agree(device), world.owner_server
    new = server.successor("Owner CA G2")
    (device.etc / "owner-ca.pem").write_bytes(pki.pem(world.owner.root, *new.authority.chain))
    server.lifetime(100 * DAY)
    server.issue_from(new.authority)
    try:
        told = renew(device)
    finally:
        server.issue_from(world.owner)
    assert (told.what, told.code) == ("refused", "renewed-refused")
    assert agree(device) == held
    assert not list(device.state.glob("*next*"))
