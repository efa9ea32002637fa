"""EST, RFC 7030: with GlobalSign's server, and with servers that do everything else."""

import base64
import json
import ssl
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from agent.errors import (
    AgentError,
    ConfigError,
    CsrInvalid,
    EstForbidden,
    EstGarbled,
    EstPending,
    ServerBusy,
    TlsClientRefused,
)
from agent.est import Basic, Est, Secret
from agent.est_wire import CsrAttrs
from agent.http import Https
from tests.lab import hostile, pki
from tests.lab.est import EstServer
from tests.lab.hostile import Hostile, Way, certs, http, whole

ATTRS = (
    "MEEGCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiMBYGCSqGSIb3DQEJDjEJBgcrBgEBAQEWBggqhkjOPQQDAw=="
)


@pytest.fixture(scope="module")
def ca() -> pki.Authority:
    return pki.authority("Lab CA")


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> pki.Tls:
    return pki.root("TLS").server(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def csr() -> x509.CertificateSigningRequest:
    builder = x509.CertificateSigningRequestBuilder().subject_name(pki.name("device-1"))
    return builder.sign(pki.new_key("rsa2048"), hashes.SHA256())


@pytest.fixture(scope="module")
def globalsign(
    ca: pki.Authority, tls: pki.Tls, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    server = EstServer(tmp_path_factory.mktemp("est") / "est", ca, tls)
    with server.running():
        yield f"https://localhost:{server.port}/.well-known/est"


At = Callable[..., Est]


@pytest.fixture
def at(tls: pki.Tls) -> Iterator[At]:
    """A client of the server at a URL."""
    with Https(tls.trust, timeout=2) as https:
        yield lambda url, credential=None: Est(https, url, credential=credential)


# --- GlobalSign's server -------------------------------------------------------------------------


def test_the_ca_certificates_and_a_certificate_of_theirs(
    globalsign: str, at: At, ca: pki.Authority, csr: x509.CertificateSigningRequest
) -> None:
    est = at(globalsign)
    assert set(est.cacerts()) == set(ca.chain)
    assert est.csrattrs() == CsrAttrs()
    (issued,) = est.simpleenroll(csr)
    assert issued.public_key() == csr.public_key()
    issued.verify_directly_issued_by(ca.certificate)


def test_attributes_it_would_like_to_see(globalsign: str, at: At) -> None:
    wanted = at(f"{globalsign}/csrattrs").csrattrs()
    assert "1.2.840.113549.1.9.7" in wanted.oids  # challengePassword


@pytest.mark.parametrize(
    ("trigger", "error"),
    [("Forbidden", EstForbidden), ("Deferred", EstPending), ("Unknown", ServerBusy)],
)
def test_its_errors_are_told_apart(
    globalsign: str, at: At, trigger: str, error: type[AgentError]
) -> None:
    builder = x509.CertificateSigningRequestBuilder()
    builder = builder.subject_name(pki.name(f"Trigger Error {trigger}"))
    with pytest.raises(error) as caught:
        at(f"{globalsign}/triggererrors").simpleenroll(builder.sign(pki.new_key(), hashes.SHA256()))
    if isinstance(caught.value, EstPending):
        assert caught.value.seconds == 600


def test_a_certificate_it_does_not_know_is_named_though_it_is_gone_before_we_write(
    ca: pki.Authority, tls: pki.Tls, tmp_path: Path, csr: x509.CertificateSigningRequest
) -> None:
    server = EstServer(tmp_path / "est", ca, tls)
    settings = server.directory / "est.json"
    wanted = json.loads(settings.read_text())
    wanted["tls"]["client_cas"] = [str(ca.save(tmp_path / "clients").root)]
    settings.write_text(json.dumps(wanted))
    stranger = pki.authority("Stranger").server(tmp_path / "stranger")

    def identify(context: ssl.SSLContext) -> None:
        class Slow(context.sslsocket_class):  # type: ignore[name-defined,misc]
            def send(self, data: bytes, flags: int = 0) -> int:
                time.sleep(0.1)  # as a busy machine may: time enough for the server to go
                return int(super().send(data, flags))

        context.sslsocket_class = Slow
        context.load_cert_chain(stranger.chain, stranger.key)

    url = f"https://localhost:{server.port}/.well-known/est"
    https = Https(tls.trust, identify=identify)
    with server.running(), https, pytest.raises(TlsClientRefused):
        Est(https, url).simpleenroll(csr)


# --- what goes over the wire ---------------------------------------------------------------------


def test_a_csr_travels_as_64_columns_of_base64_under_the_rfcs_headers(
    at: At, tls: pki.Tls, ca: pki.Authority, csr: x509.CertificateSigningRequest
) -> None:
    with Hostile(tls, {"simpleenroll": whole(certs(ca.root))}) as server:
        at(server.url + "/").simpleenroll(csr)
    (sent,) = server.requests
    assert (sent.method, sent.path) == ("POST", "/.well-known/est/simpleenroll")
    assert sent.headers["content-type"] == "application/pkcs10"
    assert sent.headers["content-transfer-encoding"] == "base64"
    assert sent.headers["content-length"] == str(len(sent.body))
    text = base64.b64encode(csr.public_bytes(Encoding.DER)).decode()
    assert sent.body.decode() == "\n".join([*textwrap.wrap(text, 64), ""])


@pytest.mark.parametrize(
    ("credential", "name", "value"),
    [
        (Basic("me", "p:\u00e9"), "authorization", "Basic bWU6cDrDqQ=="),
        (Secret("s3cr3t value"), "secret-value", "s3cr3t value"),
    ],
)
def test_the_credential_is_given_to_enroll_and_elsewhere_only_if_asked_for(
    at: At,
    tls: pki.Tls,
    ca: pki.Authority,
    csr: x509.CertificateSigningRequest,
    credential: Basic | Secret,
    name: str,
    value: str,
) -> None:
    fine = whole(certs(ca.root))
    first = [whole(http(401)), fine]
    ways = {"cacerts": first, "csrattrs": [whole(http(204))], "simpleenroll": [fine]}
    with Hostile(tls, ways) as server:
        est = at(server.url, credential)
        est.cacerts()
        est.csrattrs()
        est.simpleenroll(csr)
    sent = [(r.path.rpartition("/")[2], r.headers.get(name)) for r in server.requests]
    assert sent == [
        ("cacerts", None),
        ("cacerts", value),
        ("csrattrs", None),
        ("simpleenroll", value),
    ]


def test_a_csr_that_is_signed_wrongly_is_not_sent(
    at: At, tls: pki.Tls, csr: x509.CertificateSigningRequest
) -> None:
    der = bytearray(csr.public_bytes(Encoding.DER))
    der[-1] ^= 1
    with Hostile(tls) as server, pytest.raises(CsrInvalid):
        at(server.url).simpleenroll(x509.load_der_x509_csr(bytes(der)))
    assert not server.requests


@pytest.mark.parametrize(
    "url",
    ["http://est.example/", "est.example", "https://", "https://me:hunter2@est.example/"],
)
def test_a_url_that_is_none_is_refused_without_showing_it(at: At, url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        at(url)
    assert "hunter2" not in str(caught.value)


# --- replies in every wrapping -------------------------------------------------------------------


def crlf(der: bytes) -> bytes:
    return base64.encodebytes(der).replace(b"\n", b"\r\n")


def one_line(der: bytes) -> bytes:
    return base64.b64encode(der)


def blanks(der: bytes) -> bytes:
    return b"\n \t" + b" ".join(base64.encodebytes(der).splitlines()) + b"\r\n\r\n"


def armour(der: bytes) -> bytes:
    return b"-----BEGIN PKCS7-----\n" + base64.encodebytes(der) + b"-----END PKCS7-----\n"


@pytest.mark.parametrize("wrap", [crlf, one_line, blanks, armour])
@pytest.mark.parametrize("send", [whole, hostile.chunked])
def test_base64_may_be_wrapped_in_any_way(
    at: At,
    tls: pki.Tls,
    ca: pki.Authority,
    wrap: Callable[[bytes], bytes],
    send: Callable[[bytes], Way],
) -> None:
    with Hostile(tls, {"cacerts": send(certs(*ca.chain, wrap=wrap))}) as server:
        assert set(at(server.url).cacerts()) == set(ca.chain)


@pytest.mark.parametrize(
    "kind", ["application/pkcs7-mime", "Application/PKCS7-MIME ; smime-type=certs-only; a=b"]
)
def test_parameters_of_the_content_type_do_not_matter(
    at: At, tls: pki.Tls, ca: pki.Authority, kind: str
) -> None:
    with Hostile(tls, {"cacerts": whole(certs(ca.root, kind=kind))}) as server:
        assert at(server.url).cacerts() == [ca.root]


def test_more_certificates_than_the_issued_one_are_handed_on(
    at: At, tls: pki.Tls, ca: pki.Authority, csr: x509.CertificateSigningRequest
) -> None:
    def make(csr: x509.CertificateSigningRequest) -> Sequence[x509.Certificate]:
        return [*reversed(ca.chain), ca.issue(csr.public_key(), csr.subject)]

    with Hostile(tls, {"simpleenroll": hostile.issue(make)}) as server:
        issued = at(server.url).simpleenroll(csr)
    assert len(issued) == 3
    assert csr.public_key() in [c.public_key() for c in issued]


def test_ber_as_java_cas_write_it_is_read(
    at: At, tls: pki.Tls, ca: pki.Authority, tmp_path: Path
) -> None:
    files = ca.save(tmp_path)
    sign = ["openssl", "cms", "-sign", "-stream", "-nodetach", "-binary", "-outform", "DER"]
    sign += ["-in", str(files.chain), "-signer", str(files.chain), "-inkey", str(files.key)]
    ber = subprocess.run(sign, capture_output=True, check=True).stdout
    assert ber[:2] == b"\x30\x80"  # indefinite length
    reply = http(200, base64.encodebytes(ber), Content_Type="application/pkcs7-mime")
    with Hostile(tls, {"cacerts": whole(reply)}) as server:
        assert at(server.url).cacerts() == [ca.certificate]


# --- CSR attributes ------------------------------------------------------------------------------


def attrs(text: str) -> bytes:
    return http(200, text.encode(), Content_Type="application/csrattrs")


def test_csr_attributes_are_oids_and_values(at: At, tls: pki.Tls) -> None:
    with Hostile(tls, {"csrattrs": whole(attrs(ATTRS))}) as server:
        wanted = at(server.url).csrattrs()
    curve = bytes.fromhex("06052b81040022")  # secp384r1
    assert wanted.attributes["1.2.840.10045.2.1"] == (curve,)
    assert wanted.oids == wanted.attributes.keys() | {"1.2.840.113549.1.9.7", "1.2.840.10045.4.3.3"}


@pytest.mark.parametrize("reply", [http(204), http(404), http(501), http(200), attrs("MAA=")])
def test_csr_attributes_may_be_none(at: At, tls: pki.Tls, reply: bytes) -> None:
    with Hostile(tls, {"csrattrs": whole(reply)}) as server:
        assert at(server.url).csrattrs() == CsrAttrs()


@pytest.mark.parametrize(
    "reply", [attrs("!"), attrs("MAMCAQU="), attrs("AAAA"), http(200, b"MAA=")]
)
def test_csr_attributes_that_are_none_are_said_to_be_garbled(
    at: At, tls: pki.Tls, reply: bytes
) -> None:
    with Hostile(tls, {"csrattrs": whole(reply)}) as server, pytest.raises(EstGarbled):
        at(server.url).csrattrs()
