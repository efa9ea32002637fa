"""`tpmenroll`: what GlobalSign adds to EST (in no standard) to issue to a key in a certain TPM.

The reply is a challenge (TPM2_MakeCredential) that only the TPM with the EK that was named can
answer, and only while it holds the key that was named; the certificate comes encrypted with the
answer. So nobody has a use for it but that TPM, and the CA need not see the key sign. The formats
are those of github.com/globalsign/est v1.0.6 and of go.mozilla.org/pkcs7, which it writes with.
"""

import email
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.errors import MessageError
from email.message import Message
from email.policy import compat32
from typing import Annotated, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.errors import EstEkRefused, EstGarbled, EstNoTpmEnroll, ReplyTooLarge
from agent.est import Est, Refusal
from agent.est_wire import sound, unwrapped, wrapped
from agent.http import Reply, host_of
from agent.x509 import named

BOUNDARY = "estTPMEnrollBoundary"  # as their own client's; no base64 holds it
MIXED, OCTETS, PKCS7 = "multipart/mixed", "application/octet-stream", "application/pkcs7-mime"
REPLY = 1 << 16  # bytes; an ordinary one has 3000

# TPM 2.0 Library, part 2, 12.4.3 and 11.4.3: the largest there can be with SHA-512 and RSA-4096.
DIGEST, CREDENTIAL, SECRET, ENVELOPE = 64, 2 * (2 + 64), 512, 1 << 14

RSA = b"\x00\x01"  # TPM_ALG_RSA, the `type` of a TPMT_PUBLIC
AES = {f"2.16.840.1.101.3.4.1.{last}": size for last, size in ((6, 16), (26, 24), (46, 32))}
DATA, SIGNED_DATA, ENCRYPTED_DATA = (
    x509.ObjectIdentifier(f"1.2.840.113549.1.7.{last}") for last in (1, 2, 6)
)

_NOT_OFFERED: Refusal = (EstNoTpmEnroll, "the server has no tpmenroll at this address")
_REFUSALS: Mapping[int, Refusal] = {
    **dict.fromkeys((404, 405, 501), _NOT_OFFERED),
    422: (EstEkRefused, "the EK is not the one its certificate is for, as the CA sees it"),
}
_NOT_RSA: Mapping[int, Refusal] = {500: (EstEkRefused, "the server fails, and the EK is not RSA")}


@dataclass(frozen=True)
class Locked:
    """A certificate that only the TPM it is for can read.

    `credential` and `secret` are what TPM2_ActivateCredential takes: the contents of
    TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, without their sizes. `envelope` is DER.
    """

    credential: bytes = field(repr=False)
    secret: bytes = field(repr=False)
    envelope: bytes = field(repr=False)
    url: str
    """The EST service that it is from."""

    def unlock(self, key: bytes) -> x509.Certificate:
        """The certificate; `key` is the answer to the challenge, as the TPM gives it. Whether it is
        the one that was asked for is not judged here. Raises EstGarbled."""
        try:
            content = asn1.decode_der(_ContentInfo, self.envelope)
            found = content.content.content
            gcm = asn1.decode_der(_Gcm, bytes(found.algorithm.parameters.data))
        except ValueError as e:
            self._garbled("not PKCS#7 EncryptedData with AES-GCM", e)
        size = AES.get(found.algorithm.oid.dotted_string)
        fixed = (content.kind, found.kind, gcm.tag_size)
        if size is None or fixed != (ENCRYPTED_DATA, DATA, 16):
            self._garbled("not PKCS#7 EncryptedData with AES-GCM")
        if len(key) != size:
            self._garbled(f"a key of {len(key)} bytes instead of {size} in the challenge")
        try:
            plain = AESGCM(key).decrypt(gcm.nonce, found.text, None)
            return named([x509.load_der_x509_certificate(plain)])[0]
        except InvalidTag as e:
            self._garbled("it does not decrypt with the key in its challenge", e)
        except (ValueError, TypeError, x509.InvalidVersion) as e:
            self._garbled("what it encrypts is no certificate", e)

    def _garbled(self, why: str, cause: Exception | None = None) -> NoReturn:
        doing = f"read the certificate from {self.url}"
        raise EstGarbled(f"cannot {doing}: {why}", host=host_of(self.url)) from cause


def tpmenroll(
    est: Est,
    csr: x509.CertificateSigningRequest,
    ek_chain: Sequence[bytes],
    ek_tpmt: bytes,
    key_tpmt: bytes,
) -> Locked:
    """A certificate with the names of `csr` for the key `key_tpmt`, if it is in the TPM of the EK.

    `ek_chain`: the EK certificate first, then those above it, each in the very bytes that its
    issuer signed, although some makers' are no strict DER. `ek_tpmt`, `key_tpmt`: TPMT_PUBLIC, that
    is, without the size a TPM2B_PUBLIC begins with. Raises what Est.simpleenroll raises, and
    EstEkRefused, EstNoTpmEnroll.
    """
    doing = f"enroll at {est.url}"
    parts = (
        ("application/pkcs10", sound(doing, csr)),
        (f"{PKCS7}; smime-type=certs-only", _certs_only(ek_chain)),
        (OCTETS, ek_tpmt),
        (OCTETS, key_tpmt),
    )
    refusals = _REFUSALS if ek_tpmt.startswith(RSA) else {**_REFUSALS, **_NOT_RSA}
    kind, body = f"{MIXED}; boundary={BOUNDARY}", _multipart(parts)
    reply = est.post(doing, "tpmenroll", kind, body, refusals)
    if len(reply.body) > REPLY:
        host, why = host_of(est.url), f"the reply is longer than {REPLY} bytes"
        raise ReplyTooLarge(f"cannot {doing}: {why}", host=host)
    est.expect(doing, reply, MIXED)
    try:
        return Locked(*_challenge(reply), est.url)
    except (ValueError, MessageError, RecursionError) as e:  # parts within parts within parts ...
        raise est.garbled(doing, "not a challenge and a certificate") from e


def _multipart(parts: Sequence[tuple[str, bytes]]) -> bytes:
    """RFC 2046, 5.1.1; the server insists on `base64` to the letter."""
    pieces = (
        f"--{BOUNDARY}\nContent-Type: {kind}\nContent-Transfer-Encoding: base64\n\n"
        + wrapped(data, 76, b"\n").decode()
        for kind, data in parts
    )
    return f"{''.join(pieces)}--{BOUNDARY}--\n".replace("\n", "\r\n").encode()


def _challenge(reply: Reply) -> tuple[bytes, bytes, bytes]:
    """The three parts of a reply, in their order. Raises also what the mail parser raises."""
    parts = _parts(reply.headers["Content-Type"], reply.body)
    if [kind for kind, _ in parts] != [OCTETS, OCTETS, PKCS7]:
        raise ValueError("not the parts there should be")
    credential, secret, envelope = (unwrapped(text) for _, text in parts)
    digest = int.from_bytes(credential[:2], "big")
    if digest > DIGEST or not 2 + digest + 2 < len(credential) <= CREDENTIAL:
        raise ValueError("not TPM2B_ID_OBJECT")
    if not 0 < len(secret) <= SECRET or len(envelope) > ENVELOPE:
        raise ValueError("of no size that makes sense")
    return credential, secret, envelope


def _parts(kind: str, body: bytes) -> list[tuple[str, bytes]]:
    """The type and the text of each part of a multipart body of the type `kind`."""
    text = f"Content-Type: {kind}\r\n\r\n{body.decode('latin-1')}"  # base64 is ASCII, or nonsense
    whole = email.message_from_string(text, policy=compat32.clone(raise_on_defect=True))
    parts = [part for part in whole.get_payload() if isinstance(part, Message)]
    return [(part.get_content_type(), str(part.get_payload()).encode()) for part in parts]


# --- PKCS#7, as go.mozilla.org/pkcs7 writes it ---------------------------------------------------


@asn1.sequence
@dataclass(frozen=True)
class _Algorithm:
    oid: x509.ObjectIdentifier
    parameters: asn1.TLV


@asn1.sequence
@dataclass(frozen=True)
class _Gcm:
    """Within one more SEQUENCE, and not what RFC 5084, 3.2, makes of it: there, no tag."""

    nonce: Annotated[bytes, asn1.Implicit(4), asn1.Size.exact(12)]
    tag_size: int


@asn1.sequence
@dataclass(frozen=True)
class _EncryptedContentInfo:
    kind: x509.ObjectIdentifier
    algorithm: _Algorithm
    text: Annotated[bytes, asn1.Explicit(0)]
    """Explicit, where RFC 5652, 6.1, says implicit; the tag is at its end."""


@asn1.sequence
@dataclass(frozen=True)
class _EncryptedData:
    version: int
    content: _EncryptedContentInfo


@asn1.sequence
@dataclass(frozen=True)
class _ContentInfo:
    kind: x509.ObjectIdentifier
    content: Annotated[_EncryptedData, asn1.Explicit(0)]


@asn1.sequence
@dataclass(frozen=True)
class _Nothing:
    kind: x509.ObjectIdentifier


@asn1.sequence
@dataclass(frozen=True)
class _SignedData:
    version: int
    digest_algorithms: asn1.SetOf[asn1.TLV]
    content: _Nothing
    certificates: Annotated[list[asn1.TLV], asn1.Implicit(0)]
    signers: asn1.SetOf[asn1.TLV]


@asn1.sequence
@dataclass(frozen=True)
class _Signed:
    kind: x509.ObjectIdentifier
    content: Annotated[_SignedData, asn1.Explicit(0)]


def _certs_only(certificates: Sequence[bytes]) -> bytes:
    """RFC 5652, 5.1, but in this order: `cryptography` would sort them as DER sorts a SET, and the
    server takes the first for the EK's."""
    none: asn1.SetOf[asn1.TLV] = asn1.SetOf([])
    whole = [asn1.decode_der(asn1.TLV, each) for each in certificates]
    data = _SignedData(1, none, _Nothing(DATA), whole, none)
    return asn1.encode_der(_Signed(SIGNED_DATA, data))
