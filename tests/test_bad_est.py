"""EST servers as they are met in the field, and worse: what the agent makes of them.

Each way of misbehaving gets its code and exit status, loses nothing, and is got over as soon as the
server behaves.
"""

import base64
import json
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from cryptography.x509 import Certificate, CertificateSigningRequest

from tests.conftest import MakeDevice
from tests.lab import pki
from tests.lab.device import Device
from tests.lab.hostile import (
    Hostile,
    Way,
    certs,
    chunked,
    cut,
    hang,
    http,
    identity,
    issue,
    later,
    moved,
    reset,
    whole,
)
from tests.lab.world import World

Make = Callable[[World, CertificateSigningRequest], Sequence[Certificate]]
DAY = timedelta(days=1)


def good(world: World, csr: CertificateSigningRequest) -> list[Certificate]:
    return [world.owner.issue(csr.public_key(), csr.subject)]


def for_another_key(world: World, csr: CertificateSigningRequest) -> list[Certificate]:
    return [world.owner.issue(pki.new_key().public_key(), csr.subject)]


def for_another_name(world: World, csr: CertificateSigningRequest) -> list[Certificate]:
    return [world.owner.issue(csr.public_key(), "somebody-else")]


def by_another_ca(world: World, csr: CertificateSigningRequest) -> list[Certificate]:
    return [pki.root("Owner CA").issue(csr.public_key(), csr.subject)]


def expired(world: World, csr: CertificateSigningRequest) -> list[Certificate]:
    return [world.owner.issue(csr.public_key(), csr.subject, starts=-9 * DAY, lasts=DAY)]


def of_tomorrow(world: World, csr: CertificateSigningRequest) -> list[Certificate]:
    return [world.owner.issue(csr.public_key(), csr.subject, starts=DAY)]


def as_ca(world: World, csr: CertificateSigningRequest) -> list[Certificate]:
    return [world.owner.issue(csr.public_key(), csr.subject, ca=True)]


def for_servers(world: World, csr: CertificateSigningRequest) -> list[Certificate]:
    return [world.owner.issue(csr.public_key(), csr.subject, usages=[pki.SERVER])]


def in_odd_company(world: World, csr: CertificateSigningRequest) -> list[Certificate]:
    """The chain first, another device's certificate, ours last."""
    other = world.owner.issue(pki.new_key().public_key(), "another")
    return [*world.owner.chain, other, *good(world, csr)]


def ways(world: World, enrol: Way) -> dict[str, Way]:
    return {
        "cacerts": whole(certs(*world.owner.chain)),
        "csrattrs": whole(http(204)),
        "simpleenroll": enrol,
    }


def pointed_at(device: Device, server: Hostile, timeout: str = "10s") -> Device:
    device.configure({"ldevid": {"est": {"url": server.url, "timeout": timeout}}})
    return device


def refused(device: Device, status: int, code: str) -> None:
    done = device.agent("provision")
    said = done.stderr
    assert (done.returncode, f"[{code}]" in said) == (status, True), said
    assert "ldevid-cert: cannot " in said
    assert "Remedy: " in said
    assert "Traceback" not in said
    assert not (device.state / "ldevid.pem").exists()


@pytest.mark.parametrize(
    ("enrol", "status", "code"),
    [
        (whole(http(400, b"bad key")), 76, "est-bad-request"),
        (whole(http(401)), 76, "est-unauthorized"),
        (whole(http(403, b"\x1b[31mgo away")), 76, "est-forbidden"),
        (whole(http(404)), 76, "est-not-found"),
        (whole(http(418)), 76, "est-refused"),
        (whole(http(500)), 75, "server-busy"),
        (whole(http(503, Retry_After="120")), 75, "server-busy"),
        (whole(http(429)), 75, "server-busy"),
        (whole(later("60")), 75, "est-pending"),
        (whole(moved("https://elsewhere.example/est")), 76, "est-redirected"),
        (whole(http(200, b"<html>hello</html>", Content_Type="text/html")), 76, "est-garbled"),
        (whole(http(200, b"AAAA", Content_Type="application/pkcs7-mime")), 76, "est-garbled"),
        (whole(b"SSH-2.0-OpenSSH_9.2\r\n"), 76, "http-garbled"),
        (hang, 75, "timed-out"),
        (reset, 75, "unreachable"),
        (cut(http(200, b"x" * 100)), 75, "reply-truncated"),
        (whole(http(200, b"A" * 3_000_000)), 76, "reply-too-large"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_a_server_that_does_not_issue(
    make_device: MakeDevice, world: World, enrol: Way, status: int, code: str
) -> None:
    device = make_device()
    with Hostile(world.tls, ways(world, enrol)) as server:
        refused(pointed_at(device, server, "2s"), status, code)
    device.configure({})
    time_passes(device)
    assert device.agent("provision").returncode == 0


def time_passes(device: Device) -> None:
    """What "come back later" asked for is over."""
    pending = device.state / "enrolment.json"
    if pending.exists():
        kept = json.loads(pending.read_text())
        pending.write_text(json.dumps(kept | {"since": 0, "until": time.time()}))


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (for_another_key, "issued-for-another-key"),
        (for_another_name, "issued-with-wrong-name"),
        (by_another_ca, "issued-by-another-ca"),
        (expired, "issued-with-wrong-dates"),
        (of_tomorrow, "issued-with-wrong-dates"),
        (as_ca, "issued-as-ca"),
        (for_servers, "issued-wrong"),
    ],
)
def test_a_server_that_issues_something_else(
    make_device: MakeDevice, world: World, make: Make, code: str
) -> None:
    device = make_device()
    with Hostile(world.tls, ways(world, issue(lambda csr: make(world, csr)))) as server:
        refused(pointed_at(device, server), 76, code)


def test_a_certificate_in_odd_company_is_found(make_device: MakeDevice, world: World) -> None:
    device = make_device()
    enrol = issue(lambda csr: in_odd_company(world, csr))
    with Hostile(world.tls, ways(world, enrol)) as server:
        done = pointed_at(device, server).agent("provision")
    assert done.returncode == 0, done.stderr


def test_chunks_and_a_redirect_to_the_same_server_are_fine(
    make_device: MakeDevice, world: World
) -> None:
    device = make_device()
    behaved = ways(world, issue(lambda csr: good(world, csr)))
    with Hostile(world.tls, behaved) as server:
        server.ways["cacerts"] = [whole(moved(f"{server.url}/elsewhere", 302))]
        server.ways["elsewhere"] = [chunked(certs(*world.owner.chain))]
        done = pointed_at(device, server).agent("provision")
    assert done.returncode == 0, done.stderr


def test_come_back_later_is_kept_over_restarts(make_device: MakeDevice, world: World) -> None:
    """The CA is not asked before the time it told us, and then with the very same request."""
    device = make_device()
    issuing = issue(lambda csr: good(world, csr))
    with Hostile(world.tls, ways(world, whole(later("3600")))) as server:
        refused(pointed_at(device, server), 75, "est-pending")
        asked = len(server.requests)
        refused(device, 75, "est-pending")
        assert len(server.requests) == asked

        time_passes(device)
        server.ways["simpleenroll"] = [issuing]
        done = device.agent("provision")
        assert done.returncode == 0, done.stderr
        first, second = [r.body for r in server.requests if r.path.endswith("/simpleenroll")]
    assert first == second
    assert not (device.state / "enrolment.json").exists()


def test_another_ca_is_not_kept_waiting_for(make_device: MakeDevice, world: World) -> None:
    """What one server asked for does not hold for the one that the operator now names."""
    device = make_device()
    with Hostile(world.tls, ways(world, whole(later("3600")))) as server:
        refused(pointed_at(device, server), 75, "est-pending")
    device.configure({})
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr


def test_a_clock_that_was_turned_back_does_not_wait_for_ever(
    make_device: MakeDevice, world: World
) -> None:
    device = make_device()
    with Hostile(world.tls, ways(world, whole(later("3600")))) as server:
        refused(pointed_at(device, server), 75, "est-pending")
        pending = device.state / "enrolment.json"
        kept = json.loads(pending.read_text())
        in_ten_years = time.time() + 315_000_000
        later_still = {"since": in_ten_years, "until": in_ten_years + 60}
        pending.write_text(json.dumps(kept | later_still))
        server.ways["simpleenroll"] = [issue(lambda csr: good(world, csr))]
        assert device.agent("provision").returncode == 0


def test_a_refusal_tells_what_the_ca_asked_for(make_device: MakeDevice, world: World) -> None:
    """csrattrs: challengePassword and rsaEncryption, where our key is an ECC one."""
    wishes = bytes.fromhex("301606092a864886f70d01090706092a864886f70d010101")
    device = make_device()
    with Hostile(world.tls, ways(world, whole(http(400)))) as server:
        attributes = http(200, base64.b64encode(wishes), Content_Type="application/csrattrs")
        server.ways["csrattrs"] = [whole(attributes)]
        said = pointed_at(device, server).agent("provision").stderr
    assert "[est-bad-request]" in said
    assert "asks for an RSA key and a proof of possession bound to the TLS session" in said


@pytest.mark.parametrize("status", [204, 404, 403, 500, 501])
def test_a_server_need_not_offer_csrattrs(
    make_device: MakeDevice, world: World, status: int
) -> None:
    device = make_device()
    with Hostile(world.tls, ways(world, issue(lambda csr: good(world, csr)))) as server:
        server.ways["csrattrs"] = [whole(http(status))]
        done = pointed_at(device, server).agent("provision")
    assert done.returncode == 0, done.stderr


def test_a_server_of_another_ca(make_device: MakeDevice, world: World) -> None:
    device = make_device()
    foreign = pki.root("Foreign").server(device.directory / "tls")
    with Hostile(foreign, {}) as server:
        refused(pointed_at(device, server), 76, "tls-untrusted")
        assert server.requests == []


def test_a_server_with_another_name(make_device: MakeDevice) -> None:
    device = make_device()
    ca = pki.root("TLS")
    tls = identity(ca, device.directory / "tls", name="other.example")
    (device.etc / "est-ca.pem").write_bytes(pki.pem(ca.root))
    with Hostile(tls, {}) as server:
        refused(pointed_at(device, server), 76, "tls-name")


def test_a_server_that_does_not_know_our_maker(make_device: MakeDevice, world: World) -> None:
    device = make_device()
    with Hostile(world.tls, {}, clients=pki.root("Another OEM")) as server:
        refused(pointed_at(device, server), 76, "tls-client-refused")


def test_nobody_listens(make_device: MakeDevice) -> None:
    device = make_device()
    device.configure({"ldevid": {"est": {"url": "https://localhost:9/.well-known/est"}}})
    refused(device, 75, "unreachable")
