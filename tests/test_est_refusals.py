"""EST, RFC 7030: a server that says no, later, elsewhere, or nonsense; each has its own code."""

import base64
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from agent.errors import (
    AgentError,
    ConfigError,
    EstBadRequest,
    EstForbidden,
    EstGarbled,
    EstNotFound,
    EstPending,
    EstRedirected,
    EstRefused,
    EstUnauthorized,
    HttpGarbled,
    ReplyTooLarge,
    ReplyTruncated,
    ServerBusy,
    TimedOut,
    TlsClientRefused,
    Unreachable,
)
from agent.est import PENDING, Basic, Est, Secret
from agent.http import Https
from tests.lab import hostile, pki
from tests.lab.hostile import Hostile, Way, certs, http, later, moved, whole

Csr = x509.CertificateSigningRequest
At = Callable[..., Est]


@pytest.fixture(scope="module")
def ca() -> pki.Authority:
    return pki.authority("Lab CA")


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> pki.Tls:
    return pki.root("TLS").server(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def csr() -> Csr:
    builder = x509.CertificateSigningRequestBuilder().subject_name(pki.name("device-1"))
    return builder.sign(pki.new_key("rsa2048"), hashes.SHA256())


@pytest.fixture
def at(tls: pki.Tls) -> Iterator[At]:
    """A client of the server at a URL."""
    with Https(tls.trust, timeout=1) as https:
        yield lambda url, credential=None: Est(https, url, credential=credential)


def failure(at: At, tls: pki.Tls, ways: dict[str, Way], csr: Csr, credential: Any = None) -> Any:
    """What enrolling ends with; /cacerts too if that is scripted."""
    with Hostile(tls, ways) as server:
        est = at(server.url, credential)
        ask = est.cacerts if "cacerts" in ways else lambda: est.simpleenroll(csr)
        with pytest.raises(AgentError) as caught:
            ask()
    assert str(server.port) in str(caught.value) + caught.value.remedy
    return caught.value


# --- no, and later --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"", b"<html><h1>Sorry</h1>\r\n\x1b[2Jno\x00</html>", b"x" * 5000]
)
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, EstBadRequest),
        (401, EstUnauthorized),
        (403, EstForbidden),
        (404, EstNotFound),
        (409, EstRefused),
        (415, EstBadRequest),
        (422, EstBadRequest),
        (429, ServerBusy),
        (500, ServerBusy),
        (503, ServerBusy),
    ],
)
def test_each_refusal_has_a_code_and_quotes_the_server_briefly(
    at: At, tls: pki.Tls, csr: Csr, status: int, error: type[AgentError], body: bytes
) -> None:
    for operation in ("cacerts", "simpleenroll"):
        caught = failure(at, tls, {operation: whole(http(status, body))}, csr)
        assert type(caught) is error
        assert f"({status})" in str(caught)
        assert str(caught).isprintable()
        assert len(str(caught)) < 400
        assert ("'Sorry [2Jno'" in str(caught)) == (b"Sorry" in body)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('Digest realm="estrealm", qop="auth", nonce="a, Basic b"', "a login by digest, not by"),
        ("Negotiate, Bearer", "a login by negotiate, bearer, not by"),
        ('Digest realm="a", Basic realm="b"', ""),
        (", = \t", ""),
        ("", ""),
    ],
)
def test_a_server_that_wants_another_login_is_quoted(
    at: At, tls: pki.Tls, csr: Csr, value: str, said: str
) -> None:
    refused = whole(http(401, WWW_Authenticate=value))
    caught = failure(at, tls, {"simpleenroll": refused}, csr, Basic("device", "password"))
    assert ("it wants a login by" in str(caught)) == bool(said)
    assert said in str(caught)


@pytest.mark.parametrize(
    ("value", "seconds"), [("90", 90), ("soon", None), ("Sun, 06 Nov 1994 08:49:37 GMT", 0)]
)
def test_a_busy_server_may_say_when_to_come_back(
    at: At, tls: pki.Tls, csr: Csr, value: str, seconds: int | None
) -> None:
    caught = failure(at, tls, {"simpleenroll": whole(http(503, Retry_After=value))}, csr)
    assert (type(caught), caught.seconds) == (ServerBusy, seconds)


@pytest.mark.parametrize(
    ("value", "seconds"), [("7200", 7200), ("0", 0), ("soon", PENDING), ("", PENDING)]
)
def test_a_pending_request_says_when_to_come_back(
    at: At, tls: pki.Tls, csr: Csr, value: str, seconds: int
) -> None:
    caught = failure(at, tls, {"simpleenroll": whole(later(value))}, csr)
    assert (type(caught), caught.seconds) == (EstPending, seconds)


def test_a_pending_request_may_be_pending_until_a_date(at: At, tls: pki.Tls, csr: Csr) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    caught = failure(at, tls, {"simpleenroll": whole(later(date))}, csr)
    assert type(caught) is EstPending
    assert caught.seconds in range(3590, 3601)


def test_the_same_request_made_again_later_is_answered(
    at: At, tls: pki.Tls, ca: pki.Authority, csr: Csr
) -> None:
    ways = {"simpleenroll": [whole(later("1")), whole(certs(ca.root))]}
    with Hostile(tls, ways) as server:
        with pytest.raises(EstPending):
            at(server.url).simpleenroll(csr)
        assert at(server.url).simpleenroll(csr) == [ca.root]
    first, second = server.requests
    assert first.body == second.body


def test_nginx_without_our_client_certificate_says_400_and_means_the_certificate(
    at: At, tls: pki.Tls, csr: Csr
) -> None:
    body = b"<html><head><title>400 No required SSL certificate was sent</title></head></html>"
    caught = failure(at, tls, {"simpleenroll": whole(http(400, body))}, csr)
    assert type(caught) is TlsClientRefused


@pytest.mark.parametrize("credential", [Basic("me", "pass w\u00f6rd"), Secret("s3cr3t value")])
def test_a_server_that_echoes_the_request_puts_no_secret_into_our_messages(
    at: At, tls: pki.Tls, csr: Csr, credential: Basic | Secret
) -> None:
    caught = failure(at, tls, {"simpleenroll": hostile.echo}, csr, credential)
    assert "***" in str(caught)
    for secret in ("pass", "s3cr3t", credential.header()[1].removeprefix("Basic ")):
        assert secret not in "".join(traceback.format_exception(caught)) + repr(credential)


@pytest.mark.parametrize("bad", ["", " x", "x ", "two\nlines", "\u00e9"])
def test_a_secret_that_fits_in_no_header_is_refused_without_showing_it(bad: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Secret(bad)
    assert repr(bad) not in str(caught.value)


def test_a_user_name_with_a_colon_is_refused() -> None:
    with pytest.raises(ConfigError):
        Basic("a:b", "c")


# --- elsewhere ------------------------------------------------------------------------------------


def test_a_redirect_within_the_server_is_followed_for_a_get(
    at: At, tls: pki.Tls, ca: pki.Authority
) -> None:
    ways = {"cacerts": whole(moved("/other/there")), "there": whole(certs(ca.root))}
    with Hostile(tls, ways) as server:
        assert at(server.url).cacerts() == [ca.root]
    assert [r.path for r in server.requests] == ["/.well-known/est/cacerts", "/other/there"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_post_is_never_redirected(at: At, tls: pki.Tls, csr: Csr, status: int) -> None:
    ways = {"simpleenroll": whole(moved("/there", status))}
    caught = failure(at, tls, ways, csr, Basic("me", "hunter2"))
    assert type(caught) is EstRedirected
    assert "/there'" in caught.remedy


@pytest.mark.parametrize(
    "there",
    [
        "https://elsewhere.invalid/cacerts",
        "http://localhost/cacerts",
        "https://localhost:1/cacerts",
        "https://localhost:port/cacerts",
        "https://me:hunter2@localhost:{port}/cacerts",
        "//elsewhere.invalid",
        "https://[::1",
        "https://localhost:99999999/",
        "file:///etc/passwd",
    ],
)
def test_a_redirect_to_another_server_is_not_followed(
    at: At, tls: pki.Tls, csr: Csr, there: str
) -> None:
    ways: dict[str, Way] = {}
    with Hostile(tls, ways) as server:
        server.ways["cacerts"] = [whole(moved(there.format(port=server.port)))]
        with pytest.raises(EstRedirected) as caught:
            at(server.url).cacerts()
    assert len(server.requests) == 1
    assert "hunter2" not in str(caught.value) + caught.value.remedy


@pytest.mark.parametrize("reply", [moved("cacerts"), http(304), http(300)])
def test_a_redirect_to_itself_is_not_followed_for_ever(
    at: At, tls: pki.Tls, csr: Csr, reply: bytes
) -> None:
    with Hostile(tls, {"cacerts": whole(reply)}) as server, pytest.raises(EstRedirected):
        at(server.url).cacerts()
    assert len(server.requests) == 4


# --- nonsense -------------------------------------------------------------------------------------

EMPTY = base64.b64decode("MCMGCSqGSIb3DQEHAqAWMBQCAQExADALBgkqhkiG9w0BBwGgADEA")


def p7(body: bytes) -> bytes:
    return http(200, body, Content_Type="application/pkcs7-mime")


@pytest.mark.parametrize(
    "reply",
    [
        p7(b""),
        p7(b"garbage!"),
        p7(bytes(range(256))),
        p7(base64.b64encode(b"garbage")),
        p7(base64.b64encode(EMPTY)),
        p7(b"-----BEGIN PKCS7-----\n-----END PKCS7-----\n"),
        http(200, b"<html>Welcome to Airport Wi-Fi</html>", Content_Type="text/html"),
        http(200),
        http(201),
        http(204),
    ],
    ids=[
        "nothing",
        "text",
        "bytes",
        "no p7",
        "empty p7",
        "armour",
        "html",
        "untyped",
        "201",
        "204",
    ],
)
def test_a_reply_that_is_no_certificates_is_garbled(
    at: At, tls: pki.Tls, csr: Csr, reply: bytes
) -> None:
    for operation in ("cacerts", "simpleenroll"):
        assert type(failure(at, tls, {operation: whole(reply)}, csr)) is EstGarbled


def test_half_a_certificate_is_garbled(at: At, tls: pki.Tls, ca: pki.Authority, csr: Csr) -> None:
    half = certs(ca.root, wrap=lambda der: base64.b64encode(der[: len(der) // 2]))
    assert type(failure(at, tls, {"simpleenroll": whole(half)}, csr)) is EstGarbled


@pytest.mark.parametrize(
    ("way", "error"),
    [
        (hostile.hang, TimedOut),
        (hostile.drip(http(200, bytes(100))), TimedOut),
        (hostile.cut(http(200, bytes(100))), ReplyTruncated),
        (hostile.reset, Unreachable),
        (whole(http(200, bytes(2 << 20))), ReplyTooLarge),
        (whole(b"SSH-2.0-OpenSSH_9.2\r\n"), HttpGarbled),
    ],
)
def test_trouble_on_the_way_keeps_its_own_code(
    at: At, tls: pki.Tls, csr: Csr, way: Way, error: type[AgentError]
) -> None:
    assert type(failure(at, tls, {"simpleenroll": way}, csr)) is error
