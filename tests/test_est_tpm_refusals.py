"""EST, tpmenroll: a server that says no, later, or nonsense, and envelopes that do not open."""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from agent import x509_issued
from agent.errors import (
    AgentError,
    EstBadRequest,
    EstEkRefused,
    EstForbidden,
    EstGarbled,
    EstNoTpmEnroll,
    EstPending,
    EstRedirected,
    EstRefused,
    EstUnauthorized,
    IssuedForAnotherKey,
    ReplyTooLarge,
    ReplyTruncated,
    ServerBusy,
)
from agent.est import Basic, Est, Secret
from agent.est_tpm import Locked, tpmenroll
from agent.http import Https
from tests.lab import hostile, pki
from tests.lab import tpmenroll as lab
from tests.lab.hostile import Hostile, Way, http, later, moved, whole

RSA_EK, ECC_EK = bytes.fromhex("0001000b"), bytes.fromhex("0023000b")  # as much as we look at
KEY, OTHER_KEY = b"sixteen bytes...", b"sixteen others.."
URL = "https://ca.example:8443/.well-known/est"
Csr = x509.CertificateSigningRequest
At = Callable[..., Est]


@pytest.fixture
def at(tls: pki.Tls) -> Iterator[At]:
    """A client of the server at a URL."""
    with Https(tls.trust, timeout=5) as https:
        yield lambda url, credential=None: Est(https, url, credential=credential)


@pytest.fixture(scope="module")
def csr() -> Csr:
    builder = x509.CertificateSigningRequestBuilder().subject_name(pki.name("device-1"))
    return builder.sign(pki.new_key(), hashes.SHA256())


FINE = lab.answer(lab.CREDENTIAL, lab.SECRET, b"envelope")


# --- no, later, nonsense -------------------------------------------------------------------------


def failure(
    at: At, tls: pki.Tls, way: Way, csr: Csr, *, ek: bytes = RSA_EK, credential: Any = None
) -> Any:
    """What enrolling ends with."""
    chain = [pki.der(pki.root("TPM maker").certificate)]
    with Hostile(tls, {"tpmenroll": way}) as server, pytest.raises(AgentError) as caught:
        tpmenroll(at(server.url, credential), csr, chain, ek, b"the key")
    assert str(server.port) in str(caught.value) + caught.value.remedy
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    return caught.value


@pytest.mark.parametrize(
    ("status", "ek", "error"),
    [
        (400, RSA_EK, EstBadRequest),
        (401, RSA_EK, EstUnauthorized),
        (403, RSA_EK, EstForbidden),
        (404, RSA_EK, EstNoTpmEnroll),
        (405, RSA_EK, EstNoTpmEnroll),
        (409, RSA_EK, EstRefused),
        (415, RSA_EK, EstBadRequest),
        (422, RSA_EK, EstEkRefused),
        (429, RSA_EK, ServerBusy),
        (500, RSA_EK, ServerBusy),
        (501, RSA_EK, EstNoTpmEnroll),
        (503, RSA_EK, ServerBusy),
        (422, ECC_EK, EstEkRefused),
        (500, ECC_EK, EstEkRefused),
        (503, ECC_EK, ServerBusy),
    ],
)
def test_each_refusal_has_a_code_and_quotes_the_server(
    at: At, tls: pki.Tls, csr: Csr, status: int, ek: bytes, error: type[AgentError]
) -> None:
    caught = failure(at, tls, whole(http(status, b"<p>Sorry\x1b</p>" * 99)), csr, ek=ek)
    assert type(caught) is error
    assert f"({status}): 'Sorry" in str(caught)


def test_the_ca_may_want_to_think_about_it(at: At, tls: pki.Tls, csr: Csr) -> None:
    caught = failure(at, tls, whole(later("7200")), csr)
    assert (type(caught), caught.seconds) == (EstPending, 7200)


def test_a_request_is_never_redirected(at: At, tls: pki.Tls, csr: Csr) -> None:
    assert type(failure(at, tls, whole(moved("/there", 307)), csr)) is EstRedirected


@pytest.mark.parametrize("credential", [Basic("me", "pass w\u00f6rd"), Secret("s3cr3t value")])
def test_a_server_that_echoes_the_request_puts_no_secret_into_our_messages(
    at: At, tls: pki.Tls, csr: Csr, credential: Basic | Secret
) -> None:
    caught = failure(at, tls, hostile.echo, csr, credential=credential)
    for secret in ("pass", "s3cr3t", credential.header()[1].removeprefix("Basic ")):
        assert secret not in "".join(traceback.format_exception(caught))


OCTETS, PKCS7 = lab.KINDS[1:]
NESTED = b"".join(
    b"--%d\r\nContent-Type: multipart/mixed; boundary=%d\r\n\r\n" % (n, n + 1) for n in range(1000)
)


@pytest.mark.parametrize(
    "reply",
    [
        http(200),
        http(200, b"<html>Welcome to Airport Wi-Fi</html>", Content_Type="text/html"),
        http(201, Content_Type=lab.MIXED),
        hostile.certs(pki.root("CA").certificate),
        http(200, b"", Content_Type=lab.MIXED),
        http(200, b"text", Content_Type=lab.MIXED),
        http(200, NESTED, Content_Type="multipart/mixed; boundary=0"),
        lab.answer(lab.CREDENTIAL, lab.SECRET, b"envelope", mixed="multipart/mixed"),
        lab.answer(lab.CREDENTIAL, lab.SECRET, b"envelope", mixed="multipart/mixed; boundary=no"),
        lab.answer(lab.CREDENTIAL, lab.SECRET, b"envelope", end=b""),
        lab.answer(lab.CREDENTIAL, lab.SECRET, b"envelope", more="no header\r\n"),
        lab.answer(lab.CREDENTIAL, lab.SECRET, b"envelope", wrap=lambda data: b"!" + data),
        lab.answer(lab.CREDENTIAL, lab.SECRET, b"envelope", wrap=lambda data: data + b"\xff"),
        lab.answer(lab.CREDENTIAL, lab.SECRET, kinds=[OCTETS, PKCS7]),
        lab.answer(lab.CREDENTIAL, lab.SECRET, kinds=[OCTETS, OCTETS]),
        lab.answer(lab.CREDENTIAL, lab.SECRET, b"", b"", kinds=[*lab.KINDS, OCTETS]),
        lab.answer(b"", lab.CREDENTIAL, lab.SECRET, kinds=[PKCS7, OCTETS, OCTETS]),
        lab.answer(lab.SECRET, lab.CREDENTIAL, b"envelope"),
        lab.answer(b"", lab.SECRET, b"envelope"),
        lab.answer(lab.CREDENTIAL[:36], lab.SECRET, b"envelope"),
        lab.answer(lab.CREDENTIAL + bytes(81), lab.SECRET, b"envelope"),
        lab.answer(b"\0\x41" + bytes(100), lab.SECRET, b"envelope"),
        lab.answer(lab.CREDENTIAL, b"", b"envelope"),
        lab.answer(lab.CREDENTIAL, bytes(513), b"envelope"),
        lab.answer(lab.CREDENTIAL, lab.SECRET, bytes((1 << 14) + 1)),
    ],
    ids=[
        "untyped",
        "html",
        "201",
        "certificates",
        "empty",
        "text",
        "nested",
        "no boundary",
        "other boundary",
        "no end",
        "no header",
        "no base64",
        "bytes",
        "part missing",
        "envelope missing",
        "part too many",
        "order of types",
        "order of contents",
        "no credential",
        "short credential",
        "long credential",
        "long digest",
        "no secret",
        "long secret",
        "long envelope",
    ],
)
def test_a_reply_that_is_no_challenge_is_garbled(
    at: At, tls: pki.Tls, csr: Csr, reply: bytes
) -> None:
    assert type(failure(at, tls, whole(reply), csr)) is EstGarbled


def test_a_reply_larger_than_any_that_makes_sense_is_not_looked_at(
    at: At, tls: pki.Tls, csr: Csr
) -> None:
    reply = lab.answer(lab.CREDENTIAL, lab.SECRET, bytes(1 << 16))
    assert type(failure(at, tls, whole(reply), csr)) is ReplyTooLarge


def test_a_reply_that_ends_early_is_truncated(at: At, tls: pki.Tls, csr: Csr) -> None:
    assert type(failure(at, tls, hostile.cut(FINE), csr)) is ReplyTruncated


# --- the envelope --------------------------------------------------------------------------------


def unlock(envelope: bytes, key: bytes = KEY) -> x509.Certificate:
    return Locked(lab.CREDENTIAL, lab.SECRET, envelope, URL).unlock(key)


@pytest.fixture(scope="module")
def certificate(ca: pki.Authority) -> x509.Certificate:
    return ca.issue(pki.new_key().public_key(), "device-1")


@pytest.mark.parametrize(
    ("algorithm", "key"), [(lab.AES128, KEY), (lab.AES192, KEY + KEY[:8]), (lab.AES256, KEY + KEY)]
)
def test_an_envelope_may_be_encrypted_with_aes_of_any_size(
    certificate: x509.Certificate, algorithm: str, key: bytes
) -> None:
    envelope = lab.envelope(pki.der(certificate), key, algorithm=algorithm)
    assert unlock(envelope, key) == certificate


@pytest.mark.parametrize("key", [OTHER_KEY, b"", KEY[:15], KEY + KEY])
def test_another_key_does_not_open_it_and_is_not_shown(
    certificate: x509.Certificate, key: bytes
) -> None:
    with pytest.raises(EstGarbled) as caught:
        unlock(lab.envelope(pki.der(certificate), KEY), key)
    assert str(caught.value).startswith(f"cannot read the certificate from {URL}: ")
    shown = "".join(traceback.format_exception(caught.value))
    assert not key or repr(key)[2:-1] not in shown


@pytest.mark.parametrize(
    "wish",
    [
        {"nonce": b"eight..."},
        {"nonce": b"longer than 12"},
        {"tag_size": 12},
        {"algorithm": "60864801650304012a"},  # AES-256-CBC
        {"outer": "2a864886f70d010703"},  # EnvelopedData, as it says in the header
        {"encrypt": lambda _: b""},
        {"encrypt": lambda _: b"shorter"},
        {"encrypt": lambda plain: plain + bytes(16)},
        {"encrypt": lambda plain: bytes(1 << 13)},
    ],
    ids=["nonce-", "nonce+", "tag", "cbc", "enveloped", "nothing", "short", "plain", "long"],
)
def test_an_envelope_of_another_make_is_garbled(
    certificate: x509.Certificate, wish: dict[str, Any]
) -> None:
    with pytest.raises(EstGarbled):
        unlock(lab.envelope(pki.der(certificate), KEY, **wish))


@pytest.mark.parametrize("plain", [b"", b"text", bytes(1000), b"\x30\x80", b"\x30\x03\x02\x01\x00"])
def test_an_envelope_without_a_certificate_is_garbled(plain: bytes) -> None:
    with pytest.raises(EstGarbled, match="what it encrypts is no certificate"):
        unlock(lab.envelope(plain, KEY))


def test_an_envelope_that_is_cut_off_or_damaged_anywhere_is_garbled(
    certificate: x509.Certificate,
) -> None:
    envelope = lab.envelope(pki.der(certificate), KEY)
    cut = [envelope[:size] for size in range(len(envelope))]
    flipped = [bytes(b ^ 0x80 if i == n else b for i, b in enumerate(envelope)) for n in range(500)]
    read = []
    for damaged in [*cut, *flipped, envelope + b"\0"]:
        with contextlib.suppress(EstGarbled):
            read.append(unlock(damaged))
    # Harmless: the version, and the type of something that should not be there.
    assert read == [certificate] * 2


def test_a_certificate_for_another_key_is_for_others_to_refuse(
    ca: pki.Authority, certificate: x509.Certificate, csr: Csr
) -> None:
    unlocked = unlock(lab.envelope(pki.der(certificate), KEY))
    with pytest.raises(IssuedForAnotherKey):
        x509_issued.issued([unlocked], csr, [ca.root], ca.chain, datetime.now(UTC))
