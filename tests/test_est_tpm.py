"""EST, tpmenroll: with GlobalSign's server and a TPM, and what goes over the wire."""

import base64
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from agent import x509_der
from agent.errors import (
    CredentialRefused,
    CsrInvalid,
    EstBadRequest,
    EstEkRefused,
    EstNoTpmEnroll,
)
from agent.est import Est, Secret
from agent.est_tpm import Locked, tpmenroll
from agent.http import Https
from agent.tpm import Public, Tpm
from tests.lab import hostile, pki, shapes, swtpm
from tests.lab import tpmenroll as lab
from tests.lab.est import EstServer
from tests.lab.hostile import Hostile, Way, whole

EK, KEYS = 0x81010001, 0x81020000
EK_CERTIFICATE, EK_CERTIFICATE_ECC = 0x01C00002, 0x01C00016
Csr = x509.CertificateSigningRequest
Kind = pki.Kind
Profile = Literal["tcg", "ek-child"]
At = Callable[..., Est]


@dataclass(frozen=True)
class Board:
    """A TPM with its EK at its place, where its maker left it, and keys to enroll."""

    tpm: Tpm
    ek: Public

    def certificate(self, index: int = EK_CERTIFICATE) -> bytes:
        return self.tpm.nv_read(index) or b""

    def key(self, kind: Kind, profile: Profile) -> int:
        """A new key of the shell scripts' manner, or of the TCG's."""
        handle = next(h for h in range(KEYS, KEYS + 8) if self.tpm.public(h) is None)
        making = self.tpm.idevid(kind) if profile == "tcg" else self.tpm.ek_child(EK, kind)
        with making as made:
            self.tpm.persist(made, handle)
        return handle

    def tpmt(self, handle: int) -> bytes:
        public = self.tpm.public(handle)
        assert public
        return public.tpmt

    def csr(self, handle: int) -> Csr:
        builder = x509.CertificateSigningRequestBuilder().subject_name(pki.name("device-1"))
        with self.tpm.private_key(handle) as key:
            return builder.sign(key, hashes.SHA256())


@pytest.fixture(scope="module")
def board(factory_fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    state = tmp_path_factory.mktemp("board") / "tpm"
    shutil.copytree(factory_fresh / "state", state)
    with swtpm.running(state) as tcti, Tpm(tcti) as tpm:
        ek = tpm.public(EK)
        assert ek
        yield Board(tpm, ek)


@pytest.fixture(scope="module")
def globalsign(
    ca: pki.Authority, tls: pki.Tls, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    server = EstServer(tmp_path_factory.mktemp("est") / "est", ca, tls)
    with server.running():
        yield server.url


@pytest.fixture
def at(tls: pki.Tls) -> Iterator[At]:
    """A client of the server at a URL."""
    with Https(tls.trust, timeout=5) as https:
        yield lambda url, credential=None: Est(https, url, credential=credential)


@pytest.fixture(scope="module")
def csr() -> Csr:
    builder = x509.CertificateSigningRequestBuilder().subject_name(pki.name("device-1"))
    return builder.sign(pki.new_key(), hashes.SHA256())


# --- GlobalSign's server, and a TPM --------------------------------------------------------------


@pytest.mark.parametrize("profile", ["tcg", "ek-child"])
@pytest.mark.parametrize("kind", ["rsa2048", "ecc256"])
def test_the_certificate_comes_locked_and_the_tpm_with_the_key_opens_it(
    globalsign: str, at: At, board: Board, ca: pki.Authority, kind: Kind, profile: Profile
) -> None:
    key = board.key(kind, profile)
    csr = board.csr(key)
    maker = board.certificate()
    locked = tpmenroll(at(globalsign), csr, [maker], board.ek.tpmt, board.tpmt(key))
    answer = board.tpm.activate(key, EK, locked.credential, locked.secret)
    issued = locked.unlock(answer)
    issued.verify_directly_issued_by(ca.certificate)
    assert (issued.public_key(), issued.subject) == (csr.public_key(), csr.subject)
    # The servers below write as this one does.
    nonce = locked.envelope.partition(bytes.fromhex("840c"))[2][:12]
    assert lab.envelope(pki.der(issued), answer, nonce=nonce) == locked.envelope


def test_a_challenge_that_another_key_must_answer_is_not_answered_here(
    globalsign: str, at: At, board: Board
) -> None:
    asked, held = board.key("ecc256", "ek-child"), board.key("ecc256", "ek-child")
    est, csr = at(globalsign), board.csr(held)
    locked = tpmenroll(est, csr, [board.certificate()], board.ek.tpmt, board.tpmt(asked))
    with pytest.raises(CredentialRefused):
        board.tpm.activate(held, EK, locked.credential, locked.secret)


def other_ek(ek: Public) -> tuple[bytes, bytes]:
    """Another TPM's EK, from the same template: its TPMT_PUBLIC, and its certificate."""
    other = pki.new_key("rsa2048").public_key()
    assert isinstance(other, RSAPublicKey)
    modulus = other.public_numbers().n.to_bytes(256, "big")
    return ek.tpmt[:-256] + modulus, pki.der(pki.root("TPM maker").issue(other, "EK"))


def test_a_challenge_that_another_tpm_must_answer_is_not_answered_here(
    globalsign: str, at: At, board: Board
) -> None:
    key = board.key("ecc256", "ek-child")
    tpmt, maker = other_ek(board.ek)
    locked = tpmenroll(at(globalsign), board.csr(key), [maker], tpmt, board.tpmt(key))
    with pytest.raises(CredentialRefused):
        board.tpm.activate(key, EK, locked.credential, locked.secret)


def test_the_ek_certificate_of_another_tpm_is_refused(
    globalsign: str, at: At, board: Board, csr: Csr
) -> None:
    _, maker = other_ek(board.ek)
    with pytest.raises(EstEkRefused, match="not the one its certificate is for") as caught:
        tpmenroll(at(globalsign), csr, [maker], board.ek.tpmt, board.ek.tpmt)
    assert "Is the EK certificate this TPM's own" in caught.value.remedy


def test_an_ecc_ek_is_refused_by_the_server_in_words_that_help(
    globalsign: str, at: At, board: Board, csr: Csr
) -> None:
    with board.tpm.ek("EK-HIGH-ECC384") as ek:
        maker = board.certificate(EK_CERTIFICATE_ECC)
        assert ek.public.key == x509.load_der_x509_certificate(maker).public_key()
        with pytest.raises(EstEkRefused, match="the EK is not RSA") as caught:
            tpmenroll(at(globalsign), csr, [maker], ek.public.tpmt, board.ek.tpmt)
    assert "for an RSA key" in caught.value.remedy


@pytest.mark.parametrize("wrong", ["size", "no certificate", "address"])
def test_what_the_server_cannot_read_it_says(
    globalsign: str, at: At, board: Board, csr: Csr, wrong: str
) -> None:
    maker = [] if wrong == "no certificate" else [board.certificate()]
    key = board.ek.blob if wrong == "size" else board.ek.tpmt
    est = at(globalsign + "s" if wrong == "address" else globalsign)
    with pytest.raises(EstNoTpmEnroll if wrong == "address" else EstBadRequest):
        tpmenroll(est, csr, maker, board.ek.tpmt, key)


# --- what goes over the wire ---------------------------------------------------------------------


EK_TPMT = bytes.fromhex("0001000b")  # as much as we look at


def enroll(est: Est, csr: Csr, *chain: x509.Certificate) -> Locked:
    shown = [pki.der(each) for each in chain or [pki.root("EK").certificate]]
    return tpmenroll(est, csr, shown, EK_TPMT, b"the key")


FINE = lab.answer(lab.CREDENTIAL, lab.SECRET, b"envelope")


def test_a_request_has_four_parts_in_base64(at: At, tls: pki.Tls, csr: Csr) -> None:
    chain = pki.authority("EK").chain
    with Hostile(tls, {"tpmenroll": whole(FINE)}) as server:
        est = at(server.url, Secret("s3cr3t"))
        locked = enroll(est, csr, *chain)
    assert (locked.credential, locked.secret) == (lab.CREDENTIAL, lab.SECRET)
    assert (locked.envelope, locked.url) == (b"envelope", server.url)
    (sent,) = server.requests
    assert (sent.method, sent.path) == ("POST", "/.well-known/est/tpmenroll")
    assert sent.headers["content-type"] == "multipart/mixed; boundary=estTPMEnrollBoundary"
    assert sent.headers["content-length"] == str(len(sent.body))
    assert sent.headers["secret-value"] == "s3cr3t"
    first, second, *publics = lab.asked(sent.body)
    assert first == ("application/pkcs10", csr.public_bytes(Encoding.DER))
    assert second[0] == "application/pkcs7-mime; smime-type=certs-only"
    assert set(pkcs7.load_der_pkcs7_certificates(second[1])) == set(chain)
    octets = "application/octet-stream"
    assert publics == [(octets, EK_TPMT), (octets, b"the key")]


def test_the_ek_certificate_comes_first_however_der_would_sort_it(
    at: At, tls: pki.Tls, csr: Csr
) -> None:
    """The server takes the first one for the EK's."""
    leaf, above = pki.authority("EK").chain
    for chain in ([leaf, above], [above, leaf]):
        with Hostile(tls, {"tpmenroll": whole(FINE)}) as server:
            enroll(at(server.url), csr, *chain)
        der = lab.asked(server.requests[0].body)[1][1]
        assert pki.der(chain[0]) + pki.der(chain[1]) in der


@pytest.mark.parametrize("shape", [shapes.nuvoton, shapes.intel, shapes.negative_serial])
def test_makers_certificates_are_sent_as_they_came_though_they_be_no_strict_der(
    at: At, tls: pki.Tls, csr: Csr, shape: Callable[[], shapes.Path3]
) -> None:
    """The signature is over these bytes; what is put right to be read would not verify."""
    leaf, between, _ = shape()
    assert x509_der.read(leaf).read.public_bytes(Encoding.DER) != leaf
    with Hostile(tls, {"tpmenroll": whole(FINE)}) as server:
        tpmenroll(at(server.url), csr, [leaf, *between], EK_TPMT, b"the key")
    assert leaf + b"".join(between) in lab.asked(server.requests[0].body)[1][1]


def test_a_csr_that_is_signed_wrongly_is_not_sent(at: At, tls: pki.Tls, csr: Csr) -> None:
    der = bytearray(csr.public_bytes(Encoding.DER))
    der[-1] ^= 1
    with Hostile(tls) as server, pytest.raises(CsrInvalid):
        enroll(at(server.url), x509.load_der_x509_csr(bytes(der)))
    assert not server.requests


def one_line(data: bytes) -> bytes:
    return base64.b64encode(data)


def blanks(data: bytes) -> bytes:
    return b"\n \t" + b" ".join(base64.encodebytes(data).splitlines()) + b"\r\n\r\n"


def armour(data: bytes) -> bytes:
    return b"-----BEGIN DATA-----\n" + base64.encodebytes(data) + b"-----END DATA-----\n"


@pytest.mark.parametrize("wrap", [base64.encodebytes, one_line, blanks, armour])
@pytest.mark.parametrize("send", [whole, hostile.chunked])
def test_base64_in_a_reply_may_be_wrapped_in_any_way(
    at: At, tls: pki.Tls, csr: Csr, wrap: Callable[[bytes], bytes], send: Callable[[bytes], Way]
) -> None:
    reply = lab.answer(lab.CREDENTIAL, lab.SECRET, b"envelope", wrap=wrap)
    with Hostile(tls, {"tpmenroll": send(reply)}) as server:
        assert enroll(at(server.url), csr).envelope == b"envelope"


@pytest.mark.parametrize(
    "wish",
    [
        {"more": ""},
        {"more": "Content-Transfer-Encoding: Base64\r\nMIME-Version: 1.0\r\n"},
        {"mixed": 'Multipart/Mixed; charset=utf-8; boundary="estTPMEnrollBoundary"'},
        {"kinds": [kind.upper() + "; a=b" for kind in lab.KINDS]},
        {"end": b"--estTPMEnrollBoundary--\r\nThank you.\r\n"},
    ],
)
def test_a_reply_may_say_less_or_more_than_needed(
    at: At, tls: pki.Tls, csr: Csr, wish: dict[str, Any]
) -> None:
    reply = lab.answer(lab.CREDENTIAL, lab.SECRET, b"envelope", **wish)
    with Hostile(tls, {"tpmenroll": whole(reply)}) as server:
        assert enroll(at(server.url), csr).envelope == b"envelope"
