"""The evidence matrix: what a CA is told about an IDevID key, and what it makes of it.

Every request goes the whole way: judged, challenged, answered by the TPM that handed it in. The
CA's verdict is `accepted`, or its reason to refuse: one of its own for each thing that is wrong.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519

from agent import evidence, tcg_csr
from agent.errors import CredentialRefused, TpmError
from agent.tpm import make_credential, templates
from agent.tpm.templates import KeyType
from tests.lab import boards, forger, mixed, pki, tpm_wire, verifier
from tests.lab.boards import EKS, HANDLES, Board, Scene
from tests.lab.forger import IAK, IDEVID, OWNER, Lie, attributes, lie
from tests.lab.matrix import Rows, shown
from tests.lab.tcg_request import Refused
from tests.lab.verifier import Verifier

Forged = Callable[[Scene], bytes]


@pytest.fixture(scope="module")
def scene(factory_fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with boards.scene(factory_fresh, tmp_path_factory.mktemp("boards")) as made:
        yield made


@pytest.fixture(scope="module")
def matrix(request: pytest.FixtureRequest) -> Iterator[Rows]:
    with shown(request.config, "EVIDENCE", "VERDICT") as rows:
        yield rows


def verdict(
    ca: Verifier, request: bytes, by: Board, kind: KeyType = "ecc256", ek: str = "EK-RSA2048"
) -> str:
    """The whole way; where the TPM does not answer, its holder guesses."""
    try:
        number, challenge = ca.challenge(request)
        ca.release(number, answered(by, kind, challenge, ek))
    except Refused as e:
        return e.reason
    return "accepted"


def answered(by: Board, kind: KeyType, challenge: bytes, ek: str = "EK-RSA2048") -> bytes:
    try:
        return evidence.answer(by.tpm, kind, challenge, ek)
    except CredentialRefused:
        return bytes(32)


@pytest.mark.parametrize("ek", EKS)
@pytest.mark.parametrize("kind", HANDLES)
def test_genuine_evidence_is_accepted(scene: Scene, matrix: Rows, kind: KeyType, ek: str) -> None:
    found = verdict(scene.ca(), scene.a.request(kind, ek), scene.a, kind, ek)
    matrix.append((f"genuine, {kind}, {ek}", found))
    assert found == "accepted"


MIXED: dict[str, tuple[Forged, str]] = {
    "another TPM's EK certificate": (mixed.ek_of_another, "answer-wrong"),
    "another TPM's everything, but this one's EK": (mixed.all_but_the_ek, "answer-wrong"),
    "another board's request, replayed": (mixed.request_of_another, "answer-wrong"),
    "another TPM's IAK": (mixed.iak_of_another, "creation-signature"),
    "another TPM's words on its IAK": (mixed.creation_of_another, "creation-signature"),
    "another TPM's IAK and its words on it: swapped": (mixed.swapped_iak, "certify-signature"),
    "swapped IAK, that certifies its own IDevID": (
        mixed.swapped_iak_that_certifies_its_own,
        "certify-name",
    ),
    "another TPM's words on its IDevID": (mixed.certification_of_another, "certify-signature"),
    "another TPM's IDevID": (mixed.idevid_of_another, "request-signature"),
    "another TPM's IDevID, words and all": (
        mixed.idevid_of_another_certified,
        "request-signature",
    ),
    "another key of the TPM certified": (mixed.another_key_certified, "certify-name"),
    "certified by another IAK of the TPM": (mixed.certified_by_its_other_iak, "certify-signature"),
    "the IAK's creation as certification": (mixed.creation_as_certification, "certify-type"),
    "the certification as the IAK's creation": (mixed.certification_as_creation, "creation-type"),
    "a quote as certification": (mixed.quote_as_certification, "certify-structure"),
    "the IDevID as IAK": (mixed.idevid_as_iak, "iak-attributes"),
    "an IAK of the owner hierarchy": (mixed.iak_of_the_owner, "creation-signer"),
    "an IDevID of the owner hierarchy": (mixed.idevid_of_the_owner, "certify-qualified-name"),
}


@pytest.mark.parametrize("name", MIXED)
def test_genuine_parts_of_different_wholes_are_refused(
    scene: Scene, matrix: Rows, name: str
) -> None:
    forged, reason = MIXED[name]
    found = verdict(scene.ca(), forged(scene), scene.a)
    matrix.append((name, found))
    assert found == reason


# --- keys in software, which can claim anything, but answer no challenge ---


def less(kind: list[str], *without: str) -> int:
    return attributes(each for each in kind if each not in without)


def more(kind: list[str], also: str) -> int:
    return attributes([*kind, also])


WRONG = b"\0\x0b" + bytes(32)
CLAIMED: dict[str, tuple[Lie, str]] = {
    "software keys, all else as it should be": (lie(), "answer-wrong"),
    "magic of the certification": (lie(certify__magic=0xFF544348), "certify-magic"),
    "magic of the creation": (lie(creation__magic=0), "creation-magic"),
    "type of the certification: quote": (lie(certify__type=0x8018), "certify-type"),
    "type of the creation: time": (lie(creation__type=0x8019), "creation-type"),
    "certification of another name": (lie(certify__name=WRONG), "certify-name"),
    "creation of another name": (lie(creation__name=WRONG), "creation-name"),
    "certification by another qualified name": (lie(certify__signer=WRONG), "certify-signer"),
    "creation by another qualified name": (lie(creation__signer=WRONG), "creation-signer"),
    "qualified name of another parent": (lie(certify__detail=WRONG), "certify-qualified-name"),
    "ticket of the owner hierarchy": (lie(ticket=(0x8021, OWNER)), "creation-ticket"),
    "ticket of something else": (lie(ticket=(0x8022, 0x4000000B)), "creation-ticket"),
    "IAK of another policy": (lie(iak__policy=verifier.IDEVID_POLICY), "iak-policy"),
    "IAK without policy": (lie(iak__policy=b""), "iak-policy"),
    "IAK without a scheme of its own": (lie(iak__scheme=tpm_wire.NULL), "iak-scheme"),
    "IDevID of another policy": (lie(idevid__policy=verifier.IAK_POLICY), "idevid-policy"),
    "a model that is not built": (lie(model="Other"), "product"),
    "a serial number that is not built": (lie(serial="0003"), "product"),
    "a serial number with a NUL": (lie(serial="0001\0"), "product"),
}
BOUND = ("fixedTPM", "fixedParent", "sensitiveDataOrigin")
CLAIMED |= {
    f"IAK not {each}": (lie(iak__attributes=less(IAK, each)), "iak-attributes")
    for each in (*BOUND, "restricted", "sign")
}
CLAIMED |= {
    f"IDevID not {each}": (lie(idevid__attributes=less(IDEVID, each)), "idevid-attributes")
    for each in (*BOUND, "sign")
}
CLAIMED |= {
    "IAK that decrypts": (lie(iak__attributes=more(IAK, "decrypt")), "iak-attributes"),
    "IDevID that decrypts": (lie(idevid__attributes=more(IDEVID, "decrypt")), "idevid-attributes"),
    "IDevID restricted": (lie(idevid__attributes=more(IDEVID, "restricted")), "idevid-attributes"),
}


@pytest.mark.parametrize("name", CLAIMED)
def test_what_software_claims_is_refused(scene: Scene, matrix: Rows, name: str) -> None:
    told, reason = CLAIMED[name]
    found = verdict(scene.ca(), told.request(scene.a.ek_certificate()), scene.a)
    matrix.append((f"software: {name}", found))
    assert found == reason


def software_key_with_evidence_of_the_tpms(scene: Scene) -> bytes:
    """The IDevID key's public area says what the TPM's own says, but for the key."""
    stranger = Lie().idevid
    contents = tcg_csr.encode_content(replace(scene.a.content(), idevid=stranger.tpmt))
    return forger.signed(contents, stranger.sign)


def software_signature_with_evidence_of_the_tpms(scene: Scene) -> bytes:
    return forger.signed(tcg_csr.encode_content(scene.a.content()), Lie().idevid.sign)


HALF: dict[str, tuple[Forged, str]] = {
    "software IDevID, all else the TPM's": (software_key_with_evidence_of_the_tpms, "certify-name"),
    "a request of the TPM's, signed by software": (
        software_signature_with_evidence_of_the_tpms,
        "request-signature",
    ),
}


@pytest.mark.parametrize("name", HALF)
def test_a_key_in_software_finds_no_room_among_those_of_a_tpm(
    scene: Scene, matrix: Rows, name: str
) -> None:
    forged, reason = HALF[name]
    found = verdict(scene.ca(), forged(scene), scene.a)
    matrix.append((name, found))
    assert found == reason


def test_a_genuine_tpm_does_not_speak_for_a_key_that_is_not_in_it(
    scene: Scene, matrix: Rows
) -> None:
    """Its public part can be loaded, whatever it claims; that is no key to certify, and none to
    activate a credential with."""
    board = scene.a
    refused = pytest.raises(TpmError, match=r"cannot certify a key: .*not available")
    with (
        board.strangers(templates.idevid("ecc256")) as key,
        board.tpm.iak("ecc256") as iak,
        refused,
    ):
        board.tpm.certify(key, iak, b"")
    refused = pytest.raises(TpmError, match=r"cannot activate a credential: .*not available")
    with board.strangers(templates.iak("ecc256")) as key, board.tpm.ek("EK-RSA2048") as ek, refused:
        board.tpm.activate(key, ek, *make_credential(ek.public, key.public.name, bytes(32)))
    matrix.append(("software: public part loaded into the TPM", "the TPM does not certify it"))


# --- the EK's certificate ---


def same_ek_another_maker(scene: Scene) -> bytes:
    key = x509.load_der_x509_certificate(scene.a.ek_certificate()).public_key()
    return pki.der(pki.root("Maker").issue(key, "EK", usages=[verifier.EK_CERTIFICATE]))


def same_ek_a_shops_customer(scene: Scene) -> bytes:
    key = x509.load_der_x509_certificate(scene.a.ek_certificate()).public_key()
    return pki.der(scene.shop.issue(key, "EK"))


def expired(scene: Scene) -> bytes:
    key = x509.load_der_x509_certificate(scene.a.ek_certificate()).public_key()
    usages, day = [verifier.EK_CERTIFICATE], timedelta(days=1)
    return pki.der(scene.shop.issue(key, "EK", usages=usages, starts=-9 * day, lasts=day))


def unfit(scene: Scene) -> bytes:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    return pki.der(scene.shop.issue(key, "EK", usages=[verifier.EK_CERTIFICATE]))


CERTIFICATES: dict[str, tuple[Forged, str]] = {
    "this EK, by an unknown maker": (same_ek_another_maker, "ek-untrusted"),
    "this EK, by a CA that is known for something else": (same_ek_a_shops_customer, "ek-usage"),
    "this EK, expired": (expired, "ek-untrusted"),
    "of a key that decrypts nothing": (unfit, "ek-certificate"),
    "cut off": (lambda scene: scene.a.ek_certificate()[:-1], "ek-certificate"),
    "with something behind it": (
        lambda scene: scene.a.ek_certificate() + bytes(1),
        "ek-certificate",
    ),
}


@pytest.mark.parametrize("name", CERTIFICATES)
def test_an_ek_certificate_that_is_none_of_a_maker_is_refused(
    scene: Scene, matrix: Rows, name: str
) -> None:
    forged, reason = CERTIFICATES[name]
    found = verdict(scene.ca(), scene.a.altered(ek_certificate=forged(scene)), scene.a)
    matrix.append((f"EK certificate: {name}", found))
    assert found == reason


# --- freshness: it comes from the challenge alone ---


def test_a_request_is_good_for_one_certificate(scene: Scene, matrix: Rows) -> None:
    ca, request = scene.ca(), scene.a.request()
    first, second = ca.challenge(request), ca.challenge(request)
    ca.release(first[0], answered(scene.a, "ecc256", first[1]))
    with pytest.raises(Refused) as caught:
        ca.release(second[0], answered(scene.a, "ecc256", second[1]))
    assert caught.value.reason == "request-replayed"
    found = verdict(ca, request, scene.a)
    matrix.append(("a request that was granted, once more", found))
    assert found == "request-replayed"
    assert verdict(ca, scene.a.request(), scene.a) == "accepted"  # another one, of the same key


def test_a_challenge_is_good_for_one_answer(scene: Scene, matrix: Rows) -> None:
    ca = scene.ca()
    old, challenge = ca.challenge(scene.a.request())
    answer = answered(scene.a, "ecc256", challenge)
    new, _ = ca.challenge(scene.a.request())
    for number, reason in ((new, "answer-wrong"), (new, "challenge-unknown")):
        with pytest.raises(Refused) as caught:
            ca.release(number, answer)
        matrix.append(("an old answer to a new challenge, and again", caught.value.reason))
        assert caught.value.reason == reason
    ca.release(old, answer)
    with pytest.raises(Refused) as caught:
        ca.release(old, answer)
    matrix.append(("a right answer, once more", caught.value.reason))
    assert caught.value.reason == "challenge-unknown"
