"""Genuine evidence with damage: by chance, or by one who can mend what protects it."""

import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.x509 import load_pem_x509_certificates

from agent import evidence, tcg_csr
from agent.errors import (
    ChallengeGarbled,
    CredentialRefused,
    IdevidAbsent,
    IdevidUnfit,
    ProductInvalid,
    TcgCsrGarbled,
)
from tests.lab import boards, forger, swtpm
from tests.lab.boards import HANDLES, Board
from tests.lab.forger import flipped, rehashed, with_number
from tests.lab.matrix import Rows, shown
from tests.lab.tcg_request import Refused
from tests.lab.verifier import Verifier

SIGNATURE = 0x44  # bytes at most, an ECDSA one's


@pytest.fixture(scope="module")
def board(factory_fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    state = tmp_path_factory.mktemp("board") / "state"
    shutil.copytree(factory_fresh / "state", state)
    with boards.board(state, "0001") as made:
        yield made


@pytest.fixture(scope="module")
def ca(factory_fresh: Path) -> Verifier:
    made = factory_fresh / "ca"
    roots = load_pem_x509_certificates(swtpm.roots(made).read_bytes())
    between = load_pem_x509_certificates((made / "issuercert.pem").read_bytes())
    return Verifier(roots, between, {"0001": boards.MODEL})


@pytest.fixture(scope="module")
def request_(board: Board, ca: Verifier) -> bytes:
    made = board.request()
    ca.judge(made)
    return made


@pytest.fixture(scope="module")
def matrix(request: pytest.FixtureRequest) -> Iterator[Rows]:
    with shown(request.config, "TAMPERED", "VERDICT") as rows:
        yield rows


def judged(ca: Verifier, data: bytes) -> str:
    try:
        ca.judge(data)
    except Refused as e:
        return e.reason
    return "accepted"


# --- a bit of each field, turned over; then the digest mended; then the signature, too ---

POLICY = 12  # within authPolicy in a TPMT_PUBLIC
MENDED = {
    "model": (-1, "product"),
    "serial": (-1, "product"),
    "ek_certificate": (-1, "ek-untrusted"),
    "iak": (POLICY, "iak-policy"),
    "iak_ticket": (-1, "accepted"),  # of its HMAC: for the TPM that made it alone
    "iak_created": (-1, "creation-signature"),
    "iak_created_signature": (-1, "creation-signature"),
    "idevid": (POLICY, "idevid-policy"),
    "idevid_certified": (-1, "certify-signature"),
    "idevid_certified_signature": (-1, "certify-signature"),
}


@pytest.mark.parametrize("field", MENDED)
def test_a_flipped_bit_is_found_however_much_is_mended(
    board: Board, ca: Verifier, request_: bytes, matrix: Rows, field: str
) -> None:
    where, reason = MENDED[field]
    found = tcg_csr.decode(request_)
    at, size = forger.places(found.signed)[field]
    changed = flipped(found.signed, at + where % size)
    mended = {
        "": tcg_csr.encode(changed, found.signature),
        ", digest mended": tcg_csr.encode(rehashed(changed), found.signature),
        ", digest and signature mended": board.signed(rehashed(changed)),
    }
    verdicts = {how: judged(ca, data) for how, data in mended.items()}
    matrix.extend((f"a bit of {field}{how}", verdict) for how, verdict in verdicts.items())
    assert list(verdicts.values()) == ["digest", "request-signature", reason]


def test_a_flipped_bit_anywhere_is_found(ca: Verifier, request_: bytes) -> None:
    """By the CA; by our own reader, wherever it is not the signature's."""
    for at in range(len(request_)):
        assert judged(ca, flipped(request_, at)) != "accepted", at
    size = len(tcg_csr.decode(request_).signature)
    for at in range(len(request_) - size):
        with pytest.raises(TcgCsrGarbled):
            tcg_csr.decode(flipped(request_, at))


# --- the frame ---


def in_contents(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Of a request, csrContents changed, and their size said as it is then."""

    def changed(data: bytes) -> bytes:
        found = tcg_csr.decode(data)
        return tcg_csr.encode(change(found.signed), found.signature)

    return changed


def padded_more(contents: bytes) -> bytes:
    pad = struct.unpack_from(">I", contents, 92)[0]
    return rehashed(with_number(contents, 92, pad + 16) + bytes(16))


FRAMES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda data: b"", "structure"),
    "a byte behind it": (lambda data: data + b"\0", "structure"),
    "a byte missing": (lambda data: data[:-1], "structure"),
    "half of it": (lambda data: data[: len(data) // 2], "structure"),
    "64 KiB behind it": (lambda data: data + bytes(0x10000), "oversized"),
    "another version": (lambda data: with_number(data, 0, 0x00000100), "version"),
    "contents of 4 GiB": (lambda data: with_number(data, 4, 0xFFFFFFFF), "structure"),
    "a signature of 4 GiB": (lambda data: with_number(data, 8, 0xFFFFFFFF), "structure"),
    "contents of another version": (in_contents(lambda c: with_number(c, 0, 0x101)), "version"),
    "another hash": (in_contents(lambda c: with_number(c, 4, 0x0004)), "hash-algorithm"),
    "a hash that is not that long": (in_contents(lambda c: with_number(c, 4, 0x000C)), "digest"),
    "a digest of 4 GiB": (in_contents(lambda c: with_number(c, 8, 0xFFFFFFFF)), "structure"),
    "a model of 4 GiB": (
        in_contents(lambda c: rehashed(with_number(c, 44, 0xFFFFFFFF))),
        "structure",
    ),
    "a block of padding more": (in_contents(padded_more), "padding"),
    "a byte of padding more": (in_contents(lambda c: rehashed(c + b"\0")), "structure"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_that_does_not_fit_is_refused_before_anything_is_believed(
    ca: Verifier, request_: bytes, matrix: Rows, name: str
) -> None:
    change, reason = FRAMES[name]
    found = judged(ca, change(request_))
    matrix.append((name, found))
    assert found == reason


def test_it_is_refused_wherever_it_is_cut_off(ca: Verifier, request_: bytes) -> None:
    for size in range(len(request_)):
        assert judged(ca, request_[:size]) == "structure", size


def test_a_signature_without_its_algorithm_is_refused(
    ca: Verifier, request_: bytes, matrix: Rows
) -> None:
    found = tcg_csr.decode(request_)
    bare = found.signature[-SIGNATURE:]
    as_rsa = tcg_csr.signature(bare, ecc=False)
    for name, value in {"bare signature": bare, "signature said to be RSA": as_rsa}.items():
        verdict = judged(ca, tcg_csr.encode(found.signed, value))
        matrix.append((name, verdict))
        assert verdict == "request-algorithm"


# --- the challenge ---


def test_a_damaged_challenge_is_no_reason_to_answer(
    board: Board, ca: Verifier, request_: bytes, matrix: Rows
) -> None:
    _, challenge = ca.challenge(request_)
    for size in range(0, len(challenge), 16):
        with pytest.raises(ChallengeGarbled):
            evidence.answer(board.tpm, "ecc256", challenge[:size])
    garbled = {
        "another magic": flipped(challenge, 0),
        "another version": flipped(challenge, 7),
        "a byte behind it": challenge + b"\0",
        "endless": challenge + bytes(4096),
    }
    for name, data in garbled.items():
        with pytest.raises(ChallengeGarbled):
            evidence.answer(board.tpm, "ecc256", data)
        matrix.append((f"challenge: {name}", "challenge-garbled"))


def test_a_challenge_for_something_else_is_not_answered(
    board: Board, ca: Verifier, request_: bytes, matrix: Rows
) -> None:
    _, challenge = ca.challenge(request_)
    damaged = {"a bit of the secret": flipped(challenge, -1), "": flipped(challenge, 30)}
    for name, data in damaged.items():
        with pytest.raises(CredentialRefused):
            evidence.answer(board.tpm, "ecc256", data)
        matrix.append((f"challenge: {name or 'a bit of the credential'}", "credential-refused"))
    with pytest.raises(CredentialRefused):
        evidence.answer(board.tpm, "rsa2048", challenge)
    matrix.append(("challenge: for the other IAK", "credential-refused"))
    with pytest.raises(CredentialRefused):
        evidence.answer(board.tpm, "ecc256", challenge, "EK-HIGH-ECC384")
    matrix.append(("challenge: for the other EK", "credential-refused"))
    assert board.tpm.loaded() == set()


# --- what is not even tried ---


def test_evidence_is_for_a_key_that_only_signs(board: Board) -> None:
    certificate = board.ek_certificate()
    with board.tpm.ek_child(0x81010001, "rsa2048") as child:
        board.tpm.persist(child, 0x81020020)
    with board.tpm.iak("ecc256") as iak:
        board.tpm.persist(iak, 0x81020021)
    for handle, why in ((0x81020020, "decrypts, too"), (0x81020021, "does not sign")):
        with pytest.raises(IdevidUnfit, match=f"{handle:#x} {why}"):
            evidence.tcg_csr(board.tpm, "ecc256", "Model", "0001", certificate, handle)
    with pytest.raises(IdevidAbsent, match="no key at 0x81020022"):
        evidence.tcg_csr(board.tpm, "ecc256", "Model", "0001", certificate, 0x81020022)


@pytest.mark.parametrize("text", ["", "x" * 65, "tab\there", "Gerät", "0001\0"])
def test_a_product_has_a_printable_model_and_serial_number(board: Board, text: str) -> None:
    certificate, handle = board.ek_certificate(), HANDLES["ecc256"]
    with pytest.raises(ProductInvalid, match="as the model"):
        evidence.tcg_csr(board.tpm, "ecc256", text, "0001", certificate, handle)
    with pytest.raises(ProductInvalid, match="as the serial number"):
        evidence.tcg_csr(board.tpm, "ecc256", "Model", text, certificate, handle)
