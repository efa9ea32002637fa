"""What proves to a CA that the IDevID key was made by a genuine TPM, and never leaves it.

TCG "TPM 2.0 Keys for Device Identity and Attestation", 1.0 revision 12, 6.2 (IAK and IDevID in one
go). The chain: the maker's CA vouches for the EK; only the TPM with that EK can answer a challenge
that names the IAK (`answer`); the IAK, restricted, so that nobody can put the TPM's words into its
mouth, vouches for itself (TPM2_CertifyCreation) and for the IDevID key (TPM2_Certify); and the
IDevID key signs it all. The IAK is a primary key, made anew from its template, and never kept.

Nothing in the request is fresh: a request may be written long before a CA sees it, so both attests
have an empty nonce, and who has seen a request can send it again. What is fresh is the secret in
the challenge, of which no other TPM, and no other IAK in this TPM, finds anything out. A CA hands
out the certificate when the answer is right, once.
"""

import struct
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from agent import tcg_csr as wire
from agent.errors import (
    ChallengeGarbled,
    CsrInvalid,
    IdevidAbsent,
    IdevidUnfit,
    ProductInvalid,
)
from agent.tpm import Public, Tpm
from agent.tpm.templates import KeyType

MAGIC, VERSION = 0xBADCC0DE, 1  # of the files of tpm2-tools
LARGEST_CHALLENGE = 2048


def tcg_csr(
    tpm: Tpm, kind: KeyType, model: str, serial: str, ek_certificate: bytes, idevid_handle: int
) -> bytes:
    """The TCG-CSR-IDEVID (agent.tcg_csr says how it looks) for the IDevID key at `idevid_handle`.

    `kind`: of the IAK; `model`, `serial`: the product's, 1 to 64 printable ASCII characters;
    `ek_certificate`: DER, and not looked at. Raises ProductInvalid, IdevidAbsent, IdevidUnfit,
    CsrInvalid if the TPM signs wrongly, TpmError.
    """
    names = [_printable("model", model), _printable("serial number", serial)]
    key = _certifiable(tpm.public(idevid_handle), idevid_handle)
    with tpm.iak(kind) as iak:
        created, created_signature = tpm.certify_creation(iak, b"")
        certified, certified_signature = tpm.certify(idevid_handle, iak, b"")
    content = wire.Content(
        model=names[0],
        serial=names[1],
        ek_certificate=ek_certificate,
        iak=iak.public.tpmt,
        iak_ticket=iak.ticket,
        iak_created=created,
        iak_created_signature=created_signature,
        idevid=key.tpmt,
        idevid_certified=certified,
        idevid_certified_signature=certified_signature,
    )
    return _signed(tpm, idevid_handle, key, wire.encode_content(content))


def answer(tpm: Tpm, kind: KeyType, challenge: bytes, ek: str = "EK-RSA2048") -> bytes:
    """The secret in a CA's challenge: TPM2_ActivateCredential with the EK and the IAK.

    `challenge`: a file as `tpm2_makecredential -o` writes it, for the public key of the EK's
    certificate and the name of the IAK in the request; `kind`: of the IAK, `ek`: the kind of the
    EK, as for Tpm.ek. Raises ChallengeGarbled; CredentialRefused if the challenge is for another
    TPM or another IAK; TpmError.
    """
    credential, secret = _opened(challenge)
    with tpm.iak(kind) as iak, tpm.ek(ek) as endorsement:
        return tpm.activate(iak, endorsement, credential, secret)


def _printable(what: str, text: str) -> bytes:
    if not (0 < len(text) <= 64 and text.isascii() and text.isprintable()):
        raise ProductInvalid(f"cannot use '{text}' as the {what}: not 1 to 64 printable characters")
    return text.encode()


def _certifiable(key: Public | None, handle: int) -> Public:
    """A key that signs and does nothing else (13.1, 6.2.2): no other gets a certificate."""
    if key is None:
        raise IdevidAbsent(f"cannot prove where the IDevID is: there is no key at {handle:#x}")
    if not key.signs or key.decrypts:
        why = "decrypts, too" if key.signs else "does not sign"
        raise IdevidUnfit(
            f"cannot prove where the IDevID is: {handle:#x} {why}", handle=hex(handle)
        )
    return key


def _signed(tpm: Tpm, handle: int, key: Public, content: bytes) -> bytes:
    value = tpm.sign(handle, sha256(content).digest(), "sha256")
    try:
        match key.key:
            case EllipticCurvePublicKey():
                key.key.verify(value, content, ec.ECDSA(hashes.SHA256()))
            case RSAPublicKey():
                key.key.verify(value, content, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature as e:
        raise CsrInvalid("cannot use the request: its signature does not verify") from e
    ecc = isinstance(key.key, EllipticCurvePublicKey)
    return wire.encode(content, wire.signature(value, ecc=ecc))


def _opened(challenge: bytes) -> tuple[bytes, bytes]:
    """The contents of TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET."""
    if len(challenge) > LARGEST_CHALLENGE:
        raise ChallengeGarbled(f"cannot use the challenge: it has {len(challenge)} bytes")
    try:
        magic, version, size = struct.unpack_from(">IIH", challenge)
        credential = challenge[10 : 10 + size]
        (rest,) = struct.unpack_from(">H", challenge, 10 + size)
    except struct.error as e:
        raise ChallengeGarbled("cannot use the challenge: it is cut off") from e
    secret = challenge[12 + size :]
    if (magic, version) != (MAGIC, VERSION):
        raise ChallengeGarbled(f"cannot use the challenge: it starts with {magic:#x}, {version}")
    if rest != len(secret) or not credential or not secret:
        raise ChallengeGarbled(f"cannot use the challenge: {rest} bytes, {len(secret)} there")
    return credential, secret
