"""`tpm2cloud check`: a trial at the EST servers, up to the request for a certificate."""

import base64
from collections.abc import Iterator, Mapping
from datetime import timedelta

import pytest

from agent.check import est
from agent.check.run import Found
from tests.conftest import MakeDevice
from tests.lab import pki
from tests.lab.checked import bad, look
from tests.lab.device import Device, Wish
from tests.lab.est import BINARIES
from tests.lab.hostile import Hostile, Way, certs, hang, http, later, moved, whole
from tests.lab.world import World

AUTHS = ["mtls", "basic", "secret"]
CSRATTRS = base64.b64encode(bytes.fromhex("300b06092a864886f70d010101"))  # rsaEncryption
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def unprovisioned(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """One for all that only look at it."""
    with Device(world, tmp_path_factory.mktemp("unprovisioned") / "device", Wish()) as device:
        yield device


def ways(world: World) -> dict[str, Way]:
    """A server in good order that nobody here wrote the rest of."""
    return {
        "cacerts": whole(certs(*world.owner.chain)),
        "csrattrs": whole(http(204)),
        "simpleenroll": login(whole(http(400, b"no PKCS#10"))),
    }


def login(then: Way, otherwise: Way = whole(http(401))) -> Way:  # noqa: B008  (it keeps nothing)
    """With any, `then`."""
    return lambda talk: (then if "authorization" in talk.request.headers else otherwise)(talk)


def refused(found: Mapping[str, Found]) -> set[str]:
    """The codes of what is not fine."""
    return {each.code for each in found.values() if each.code}


def at(server: Hostile, device: Device, auth: str = "basic") -> Device:
    username = "device" if auth == "basic" else None
    est = {"url": server.url, "auth": auth, "username": username, "timeout": "1s"}
    device.configure({"ldevid": {"est": est}})
    return device


# --- a server that is as it should be ------------------------------------------------------------


@pytest.mark.parametrize("auth", AUTHS)
def test_the_login_is_tried_and_nothing_comes_of_it(
    world: World, make_device: MakeDevice, auth: str
) -> None:
    device, issued = make_device(auth=auth), len(world.issued(world.owner_est))
    seen = look(device, est)
    assert bad(seen) == {}
    assert "CN=Owner CA root" in seen["est-cacerts"].detail
    assert seen["est-csrattrs"].detail == "wants to see: nothing"
    assert "lets us in" in seen["est-login"].detail
    assert "a stranger is not" in seen["est-login"].detail
    assert len(world.issued(world.owner_est)) == issued


def test_who_has_what_it_needs_does_not_log_in(world: World, make_device: MakeDevice) -> None:
    """Some passwords are good for once, and a certificate that works needs none."""
    device = make_device(auth="basic", operational_auth="basic")
    assert device.agent("provision").returncode == 0
    before = len(world.requests(world.owner_est)), len(world.requests(world.operations_est))
    seen = look(device, est)
    assert bad(seen) == {}
    assert seen["est-login"].detail == "not needed: the LDevID works"
    assert seen["operational-login"].detail == "not needed: IoT Edge has a certificate"
    for site, asked in zip((world.owner_est, world.operations_est), before, strict=True):
        new = world.requests(site)[asked:]
        assert {(r.method, r.uri.rpartition("/")[2], r.user) for r in new} == {
            ("GET", "cacerts", "")
        }


def test_a_device_that_is_known_by_its_tpm_needs_no_est(make_device: MakeDevice) -> None:
    assert look(make_device(attestation="tpm"), est) == {}


# --- a login that is refused ---------------------------------------------------------------------


def test_a_wrong_password(make_device: MakeDevice) -> None:
    device = make_device(auth="basic")
    pki.write_private(device.credentials / "est-password", b"guessed")
    assert bad(look(device, est)) == {"est-login": "est-unauthorized"}


def test_an_idevid_whose_ca_the_server_does_not_know(world: World, make_device: MakeDevice) -> None:
    """The operator's server lets in those who have an LDevID."""
    device = make_device()
    device.configure({"ldevid": {"est": {"url": world.operations_est.url("mtls")}}})
    (device.etc / "owner-ca.pem").write_bytes(pki.pem(world.operations.root))
    assert refused(look(device, est)) == {"est-forbidden"}


def test_an_idevid_that_the_server_refuses_in_tls(world: World, unprovisioned: Device) -> None:
    with Hostile(world.tls, ways(world), clients=pki.authority("Others")) as server:
        seen = bad(look(at(server, unprovisioned, "mtls"), est))
    assert seen == {"est-cacerts": "tls-client-refused", "est-csrattrs": None, "est-login": None}


def test_iot_edges_password_is_tried_before_iot_edge_does(make_device: MakeDevice) -> None:
    device = make_device(auth="basic", operational_auth="basic")
    pki.write_private(device.credentials / "operational-password", b"guessed")
    assert bad(look(device, est)) == {"operational-login": "est-unauthorized"}


def test_and_the_ldevid_as_soon_as_there_is_one(world: World, make_device: MakeDevice) -> None:
    """Where IoT Edge is to log in, and its server does not know the CA."""
    device = make_device()
    assert "no LDevID yet" in look(device, est)["operational-login"].detail
    device.configure({"operational": {"url": world.factory_est.url("mtls")}})
    (device.bin / "iotedge").unlink()
    assert device.agent("provision").returncode != 0, "but the LDevID is there"
    (device.bin / "iotedge").symlink_to(BINARIES / "iotedge")
    assert refused(look(device, est)) == {"est-forbidden"}


# --- servers that are not as they should be ------------------------------------------------------


REFUSALS: dict[str, tuple[str, Way, dict[str, str]]] = {
    "no EST at this path": ("cacerts", whole(http(404)), {"est-cacerts": "est-not-found"}),
    "trouble": ("cacerts", whole(http(503)), {"est-cacerts": "server-busy"}),
    "no certificates": ("cacerts", whole(http(200, b"Hi")), {"est-cacerts": "est-garbled"}),
    "silence": ("cacerts", hang, {"est-cacerts": "timed-out"}),
    "forbidden": ("simpleenroll", login(whole(http(403))), {"est-login": "est-forbidden"}),
    "no enrolment": ("simpleenroll", whole(http(404)), {"est-login": "est-not-found"}),
    "busy": ("simpleenroll", whole(http(503)), {"est-login": "server-busy"}),
    "elsewhere": (
        "simpleenroll",
        whole(moved("https://x.example/")),
        {"est-login": "est-redirected"},
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_server_that_would_not_enrol(world: World, unprovisioned: Device, name: str) -> None:
    operation, way, expected = REFUSALS[name]
    with Hostile(world.tls, ways(world) | {operation: way}) as server:
        seen = bad(look(at(server, unprovisioned), est))
    assert {probe: code for probe, code in seen.items() if code} == expected


ODD: dict[str, tuple[str, Way, str]] = {
    "fails at an empty request": ("simpleenroll", login(whole(http(500))), "a stranger is not"),
    "does not look at it": ("simpleenroll", login(whole(later("600"))), "lets us in (202)"),
    "takes it": ("simpleenroll", login(whole(http(200))), "lets us in (200)"),
    "looks at it first": ("simpleenroll", whole(http(400)), "it has told nothing"),
    "asks nobody": ("simpleenroll", whole(http(200)), "it has told nothing"),
    "hangs up on strangers": ("simpleenroll", login(whole(http(400)), hang), "a stranger is not"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_an_odd_server_tells_of_a_login(
    world: World, unprovisioned: Device, name: str
) -> None:
    operation, way, told = ODD[name]
    with Hostile(world.tls, ways(world) | {operation: way}) as server:
        seen = look(at(server, unprovisioned), est)
    assert bad(seen) == {}
    assert told in seen["est-login"].detail
    sent = [r for r in server.requests if r.method == "POST"]
    assert {r.body for r in sent} == {b""}, "for which no CA can issue"


def test_a_server_that_asks_for_no_certificate(world: World, unprovisioned: Device) -> None:
    with Hostile(world.tls, ways(world) | {"simpleenroll": whole(http(400))}) as server:
        seen = look(at(server, unprovisioned, "mtls"), est)
    assert "asks for no certificate" in seen["est-login"].detail


def test_what_the_ca_would_like_to_see_is_told(world: World, unprovisioned: Device) -> None:
    wants = whole(http(200, CSRATTRS, Content_Type="application/csrattrs"))
    with Hostile(world.tls, ways(world) | {"csrattrs": wants}) as server:
        seen = look(at(server, unprovisioned), est)
    assert seen["est-csrattrs"].detail == "wants to see: an RSA key"


@pytest.mark.parametrize("way", [whole(http(500)), whole(http(200, b"Hi")), whole(http(401))])
def test_that_it_does_not_tell_is_no_matter(world: World, unprovisioned: Device, way: Way) -> None:
    """As it is none to a provisioning."""
    with Hostile(world.tls, ways(world) | {"csrattrs": way}) as server:
        seen = look(at(server, unprovisioned), est)
    assert bad(seen) == {}
    assert "no matter" in seen["est-csrattrs"].detail


# --- who issues ----------------------------------------------------------------------------------


def test_a_ca_that_is_not_the_one_that_is_trusted(make_device: MakeDevice) -> None:
    device = make_device()
    (device.etc / "owner-ca.pem").write_bytes(pki.pem(pki.root("Owner CA root").root))
    seen = bad(look(device, est))
    assert seen["est-cacerts"] == "issued-by-another-ca"
    assert seen["est-login"] is None


def test_a_ca_that_has_expired(world: World, make_device: MakeDevice) -> None:
    """Whatever it issues is of no use."""
    old = pki.root("Old CA root", starts=-9 * DAY, lasts=DAY)
    with Hostile(world.tls, ways(world) | {"cacerts": whole(certs(old.root))}) as server:
        device = at(server, make_device())
        (device.etc / "owner-ca.pem").write_bytes(pki.pem(old.root))
        assert bad(look(device, est))["est-cacerts"] == "issued-by-another-ca"


def test_a_root_alone_is_enough(world: World, unprovisioned: Device) -> None:
    """Who is between it and a device comes with the certificate."""
    with Hostile(world.tls, ways(world) | {"cacerts": whole(certs(world.owner.root))}) as server:
        assert bad(look(at(server, unprovisioned), est)) == {}
