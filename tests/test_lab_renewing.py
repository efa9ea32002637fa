"""The EST server that issues for years renews for whom it should, in the time of the lab."""

import base64
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.client import HTTPSConnection
from pathlib import Path
from typing import get_args

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from tests.lab import pki
from tests.lab.clock import Clock
from tests.lab.device import Device, Wish
from tests.lab.renewing import Kind, RenewingEst
from tests.lab.world import World

ID = "device-7"
MONTH, HOUR = timedelta(days=30), timedelta(hours=1)
TYPES = {"Content-Type": "application/pkcs10", "Content-Transfer-Encoding": "base64"}
Reply = tuple[int, str | None, list[x509.Certificate]]


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("world") / "world"
    with World(directory, clock=clock, renewing=True) as world:
        yield world


@pytest.fixture
def est(world: World) -> Iterator[RenewingEst]:
    yield world.owner_server
    world.owner_server.behave()


class Client:
    """A key, and the certificate it shows: at first one of the OEM's CA."""

    def __init__(self, world: World, directory: Path, clock: Clock) -> None:
        self.world, self.key, self.file = world, pki.new_key(), directory / "client.pem"
        starts = clock.now() - datetime.now(UTC) - HOUR
        self.show(world.oem.issue(self.key.public_key(), ID, starts=starts))

    def show(self, certificate: x509.Certificate) -> None:
        self.file.write_bytes(pki.private_pem(self.key) + pki.pem(certificate))

    def enroll(self, operation: str = "simpleenroll", name: str = ID) -> Reply:
        """HTTP status, Retry-After, what was issued."""
        named = x509.CertificateSigningRequestBuilder(pki.name(name))
        csr = named.sign(self.key, hashes.SHA256())
        return self.ask("POST", operation, base64.encodebytes(csr.public_bytes(Encoding.DER)))

    def certified(self) -> x509.Certificate:
        """Enrolled, and shows its certificate from now on."""
        status, _, [issued] = self.enroll()
        assert status == 200
        self.show(issued)
        return issued

    def ask(self, method: str, operation: str, body: bytes = b"") -> Reply:
        context = ssl.create_default_context(cafile=str(self.world.tls.trust))
        context.load_cert_chain(self.file)
        host, path = self.world.owner_est.url("mtls").removeprefix("https://").split("/", 1)
        connection = HTTPSConnection(host, context=context, timeout=30)
        with closing(connection):
            connection.request(method, f"/{path}/{operation}", body, TYPES)
            reply = connection.getresponse()
            text, after = reply.read(), reply.getheader("Retry-After")
        found = certificates(base64.b64decode(text)) if reply.status == 200 else []
        return reply.status, after, found


def certificates(p7: bytes) -> list[x509.Certificate]:
    """By OpenSSL: the server does not sort its SET, so strict readers of DER complain."""
    command = ["openssl", "pkcs7", "-inform", "DER", "-print_certs"]
    done = subprocess.run(command, input=p7, capture_output=True, check=True)
    return x509.load_pem_x509_certificates(done.stdout)


@pytest.fixture
def client(world: World, clock: Clock, tmp_path: Path) -> Client:
    return Client(world, tmp_path, clock)


def test_a_certificate_renews_itself_year_after_year(
    est: RenewingEst, client: Client, clock: Clock
) -> None:
    est.lifetime(12 * MONTH)
    client.certified()
    for _ in range(3):
        clock.advance(11 * MONTH)
        status, _, [new] = client.enroll("simplereenroll")
        assert status == 200
        assert abs(new.not_valid_before_utc - clock.now()) < HOUR
        assert new.not_valid_after_utc - new.not_valid_before_utc == 12 * MONTH
        client.show(new)
    last = client.world.issued(client.world.owner_est)[-1]
    assert (last.uri, last.verify) == ("/.well-known/est/mtls/simplereenroll", "SUCCESS")
    assert int(last.issued, 16) == new.serial_number


def test_one_that_expired_is_refused_in_the_handshake(
    est: RenewingEst, client: Client, clock: Clock
) -> None:
    est.lifetime(MONTH)
    client.certified()
    clock.advance(MONTH)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        client.enroll("simplereenroll")
    [last] = est.requests()[-1:]
    assert (last.status, last.verify[:7]) == (0, "FAILED:")
    assert "expired" in last.verify


def test_only_the_owner_s_own_certificates_renew_and_only_others_enroll(
    est: RenewingEst, client: Client
) -> None:
    assert client.enroll("simplereenroll")[0] == 403
    client.certified()
    assert client.enroll()[0] == 403


def test_a_certificate_renews_for_its_own_name_only(est: RenewingEst, client: Client) -> None:
    client.certified()
    assert client.enroll("simplereenroll", "device-8")[0] == 403


@pytest.mark.parametrize(
    ("kind", "status", "after"),
    [("pending", 202, "60"), ("busy", 503, "60"), ("refuse", 403, None), ("broken", 500, None)],
)
def test_it_refuses_when_told_to(
    est: RenewingEst, client: Client, kind: Kind, status: int, after: str | None
) -> None:
    est.behave(kind, retry_after=60 if after else 0)
    assert client.enroll()[:2] == (status, after)
    assert client.ask("GET", "cacerts")[0] == 200


def test_it_issues_what_nobody_asked_for_when_told_to(
    est: RenewingEst, client: Client, clock: Clock, world: World
) -> None:
    odd: dict[Kind, x509.Certificate] = {}
    for kind in get_args(Kind)[-5:]:
        est.behave(kind)
        [odd[kind]] = client.enroll()[2]
    assert odd["other-key"].public_key() != client.key.public_key()
    assert odd["other-name"].subject != pki.name(ID)
    assert odd["expired"].not_valid_after_utc < clock.now() < odd["not-yet"].not_valid_before_utc
    assert odd["unknown-ca"].issuer == world.owner.certificate.subject
    with pytest.raises(InvalidSignature):
        odd["unknown-ca"].verify_directly_issued_by(world.owner.certificate)


def test_a_ca_is_succeeded_step_by_step(est: RenewingEst, client: Client, world: World) -> None:
    old = client.certified()
    new = est.successor("Owner CA G2")
    est.announce(new)
    told = client.ask("GET", "cacerts")[2]
    assert {world.owner.root, new.root.root, new.new_with_old, new.old_with_new} < set(told)
    new.new_with_old.verify_directly_issued_by(world.owner.root)
    new.old_with_new.verify_directly_issued_by(new.root.root)

    est.issue_from(new.authority)
    _, _, [renewed] = client.enroll("simplereenroll")
    renewed.verify_directly_issued_by(new.authority.certificate)

    est.retire(new)
    client.show(old)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        client.enroll("simplereenroll")
    client.show(renewed)
    assert client.enroll("simplereenroll")[0] == 200

    est.tls_below(new.authority)
    with pytest.raises(ssl.SSLError):
        client.ask("GET", "cacerts")


def test_a_device_gets_all_its_certificates_from_servers_that_renew(
    tmp_path: Path, clock: Clock
) -> None:
    with World(tmp_path / "world", clock=clock, renewing=True) as world:
        for auth in ("mtls", "basic", "secret"):
            wish = Wish(auth=auth, id=f"device-{auth}")
            with Device(world, tmp_path / auth, wish) as device:
                done = device.agent("provision")
                assert done.returncode == 0, done.stderr
    assert len(world.issued(world.owner_est)) == 3
    assert len(world.issued(world.operations_est)) == 6
