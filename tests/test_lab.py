"""The lab's servers refuse what they claim to refuse: else what passes there proves nothing."""

import base64
import json
import ssl
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from tests.lab import nginx, pki
from tests.lab.world import USER, World

ID = "device-0001"
VERSION = "?api-version=2021-06-01"
Credential = tuple[pki.PrivateKey, list[x509.Certificate]]


@pytest.fixture(autouse=True)
def well_behaved(world: World) -> Iterator[None]:
    """What one test asked of the provisioning service is not for the next."""
    yield
    world.dps.behave(retry_after=0)


def issued(ca: pki.Authority, name: str = ID, **how: object) -> Credential:
    """A key and its certificate, alone."""
    key = pki.new_key()
    return key, [ca.issue(key.public_key(), name, **how)]  # type: ignore[arg-type]


def ask(
    world: World,
    tmp_path: Path,
    method: str,
    url: str,
    body: bytes = b"",
    credential: Credential | None = None,
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    """An HTTPS request as any client would make it: status, headers, body."""
    context = ssl.create_default_context(cafile=str(world.tls.trust))
    if credential is not None:
        file = tmp_path / "client.pem"
        file.write_bytes(pki.private_pem(credential[0]) + pki.pem(*credential[1]))
        context.load_cert_chain(file)
    host, path = url.removeprefix("https://").split("/", 1)
    connection = HTTPSConnection(host, context=context, timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, f"/{path}", body, named)
    reply = connection.getresponse()
    found = reply.status, dict(reply.getheaders()), reply.read()
    connection.close()
    return found


# --- the EST servers ---


def enroll(
    world: World,
    tmp_path: Path,
    site: nginx.Site,
    auth: str,
    credential: Credential | None = None,
    **headers: str,
) -> tuple[int, bytes]:
    key = pki.new_key()
    csr = x509.CertificateSigningRequestBuilder(pki.name(ID)).sign(key, hashes.SHA256())
    body = base64.encodebytes(csr.public_bytes(Encoding.DER))
    types = {"Content_Type": "application/pkcs10", "Content_Transfer_Encoding": "base64"}
    url = site.url(auth) + "/simpleenroll"
    status, _, reply = ask(world, tmp_path, "POST", url, body, credential, **types, **headers)
    return status, reply


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode()


@pytest.mark.parametrize("auth", ["mtls", "basic", "secret"])
def test_nothing_is_issued_without_a_credential(world: World, tmp_path: Path, auth: str) -> None:
    for site in (world.owner_est, world.operations_est):
        before = len(world.issued(site))
        assert enroll(world, tmp_path, site, auth)[0] == 401
        assert len(world.issued(site)) == before


def test_nothing_is_issued_for_a_wrong_credential(world: World, tmp_path: Path) -> None:
    site = world.owner_est
    assert enroll(world, tmp_path, site, "basic", Authorization=basic("guess"))[0] == 401
    assert enroll(world, tmp_path, site, "secret", Secret_Value=world.est_password)[0] == 401
    for ca in (world.owner, pki.authority("OEM CA")):
        assert enroll(world, tmp_path, site, "mtls", issued(ca))[0] == 403
    # A credential of the right kind at the wrong door.
    assert enroll(world, tmp_path, site, "secret", issued(world.oem))[0] == 401
    assert enroll(world, tmp_path, site, "mtls", Secret_Value=world.est_secret)[0] == 401


def test_an_expired_certificate_is_no_credential(world: World, tmp_path: Path) -> None:
    old = issued(world.oem, starts=-3 * pki.YEAR)
    assert enroll(world, tmp_path, world.owner_est, "mtls", old)[0] == 403


def test_the_right_credential_gets_a_certificate_of_the_right_ca(
    world: World, tmp_path: Path
) -> None:
    site = world.owner_est
    replies = [
        enroll(world, tmp_path, site, "mtls", issued(world.oem)),
        enroll(world, tmp_path, site, "basic", Authorization=basic(world.est_password)),
        enroll(world, tmp_path, site, "secret", Secret_Value=world.est_secret),
    ]
    for status, body in replies:
        assert status == 200
        [leaf] = pkcs7.load_der_pkcs7_certificates(base64.b64decode(body))
        leaf.verify_directly_issued_by(world.owner.certificate)


def test_the_log_names_the_certificate_that_opened_the_door(world: World, tmp_path: Path) -> None:
    ldevid = issued(world.owner)
    operational = issued(world.operations)
    for credential in (ldevid, operational):
        assert enroll(world, tmp_path, world.operations_est, "mtls", credential)[0] == 200
        seen = world.issued(world.operations_est)[-1]
        assert int(seen.serial, 16) == credential[1][0].serial_number
        assert seen.fingerprint == credential[1][0].fingerprint(hashes.SHA1()).hex()  # noqa: S303
        assert (seen.verify, seen.subject) == ("SUCCESS", f"CN={ID}")
        assert seen.protocol in ("TLSv1.2", "TLSv1.3")


def test_the_ca_certificates_are_for_everybody(world: World, tmp_path: Path) -> None:
    url = world.operations_est.url("mtls") + "/cacerts"
    status, _, body = ask(world, tmp_path, "GET", url)
    assert status == 200
    found = pkcs7.load_der_pkcs7_certificates(base64.b64decode(body))
    assert set(found) == set(world.operations.chain)


def test_a_short_lived_ca_makes_short_lived_certificates(tmp_path: Path) -> None:
    hour = pki.YEAR / (365 * 24)
    with World(tmp_path / "world", operations_lasts=2 * hour) as world:
        status, body = enroll(world, tmp_path, world.operations_est, "mtls", issued(world.owner))
    assert status == 200
    [leaf] = pkcs7.load_der_pkcs7_certificates(base64.b64decode(body))
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= hour


# --- the provisioning service ---


def register(
    world: World, tmp_path: Path, credential: Credential | None, name: str = ID, scope: str = ""
) -> tuple[int, dict[str, object]]:
    url = f"{world.dps.url}/{scope or world.dps.scope}/registrations/{name}/register{VERSION}"
    body = json.dumps({"registrationId": name}).encode()
    status, _, reply = ask(world, tmp_path, "PUT", url, body, credential)
    return status, json.loads(reply)


def chained(ca: pki.Authority, name: str = ID, **how: object) -> Credential:
    """A certificate with the intermediate, as a device must send it."""
    key, certificates = issued(ca, name, **how)
    return key, [*certificates, ca.certificate]


def test_a_device_of_an_enrolled_ca_is_assigned(world: World, tmp_path: Path) -> None:
    credential = chained(world.operations)
    before = len(world.dps.assigned(ID))
    status, started = register(world, tmp_path, credential)
    assert (status, started["status"]) == (202, "assigning")
    where = f"{world.dps.url}/{world.dps.scope}/registrations/{ID}/operations/"
    url = f"{where}{started['operationId']}{VERSION}"
    assert ask(world, tmp_path, "GET", url, credential=credential)[0] == 202
    status, _, reply = ask(world, tmp_path, "GET", url, credential=credential)
    state = json.loads(reply)["registrationState"]
    assert (status, state["status"], state["deviceId"]) == (200, "assigned", ID)
    last = world.dps.assigned(ID)[before:]
    assert [int(line["serial"], 16) for line in last] == [credential[1][0].serial_number]
    # Nobody else may look at the operation.
    assert ask(world, tmp_path, "GET", url)[0] == 401


@pytest.mark.parametrize("kind", ["rsa2048", "ecc256"])
def test_both_issuers_and_both_key_types_are_accepted(
    world: World, tmp_path: Path, kind: pki.Kind
) -> None:
    for ca in (world.owner, world.operations):
        key = pki.new_key(kind)
        credential = key, [ca.issue(key.public_key(), ID), ca.certificate]
        assert register(world, tmp_path, credential)[0] == 202


def test_strangers_are_unauthorized_and_told_why(world: World, tmp_path: Path) -> None:
    ours = world.operations
    foreign = pki.authority("Operations CA")
    strangers = {
        "no client certificate": None,
        "is not registration id": chained(ours, "device-0002"),
        "no chain to an enrolled CA": chained(foreign),
        "validation failed": issued(ours),  # without the intermediate nothing leads to the root
        "not valid at": chained(ours, starts=-3 * pki.YEAR),
        "not a certificate for client": chained(ours, usages=[pki.SERVER]),
    }
    for why, credential in strangers.items():
        status, reply = register(world, tmp_path, credential)
        assert (status, reply["errorCode"]) == (401, 401002)
        assert why in str(reply["message"])
        assert reply["trackingId"]


def test_a_wrong_scope_a_wrong_body_and_a_wrong_path(world: World, tmp_path: Path) -> None:
    credential = chained(world.operations)
    assert register(world, tmp_path, credential, scope="0ne00000000")[0] == 404
    url = f"{world.dps.url}/{world.dps.scope}/registrations/{ID}/register"
    body = json.dumps({"registrationId": "device-0002"}).encode()
    for wrong in (body, b"[]", b"{", b""):
        assert ask(world, tmp_path, "PUT", url + VERSION, wrong, credential)[0] == 400
    assert ask(world, tmp_path, "PUT", url, body, credential)[0] == 400  # no api-version
    gone = f"{world.dps.url}/{world.dps.scope}/registrations/{ID}/operations/none{VERSION}"
    assert ask(world, tmp_path, "GET", gone, credential=credential)[0] == 404


def test_a_test_can_ask_for_throttling_failure_and_a_disabled_device(
    world: World, tmp_path: Path
) -> None:
    credential = chained(world.operations)
    world.dps.behave(throttle=2, retry_after=7, polls=0, disabled=[ID])
    url = f"{world.dps.url}/{world.dps.scope}/registrations/{ID}/"
    body = json.dumps({"registrationId": ID}).encode()
    for _ in range(2):
        status, headers, _ = ask(world, tmp_path, "PUT", url + "register" + VERSION, body)
        assert (status, headers["Retry-After"]) == (429, "7")
    _, started = register(world, tmp_path, credential)
    operation = f"{url}operations/{started['operationId']}{VERSION}"
    for expected, behaviour in {"disabled": {}, "failed": {"failing": [ID]}}.items():
        if behaviour:
            world.dps.behave(**behaviour)
        _, _, reply = ask(world, tmp_path, "GET", operation, credential=credential)
        assert json.loads(reply)["registrationState"]["status"] == expected
