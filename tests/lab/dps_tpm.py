"""The service's side of TPM attestation: a key only the TPM with this EK and SRK can use.

What the service sends is six TPM 2B structures in a row, big-endian, as its SDKs take them apart:
TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET (an AES key, credential for the EK's owner and the SRK's
name), TPM2B_PRIVATE, TPM2B_ENCRYPTED_SECRET and TPM2B_PUBLIC (an HMAC key, duplicated to the SRK,
its inner wrapper that AES key), and a trailer that is encrypted with the AES key and that nobody
reads. TPM 2.0 Library, part 1, 23.3 and 24; part 2, 12.2 to 12.4. No TPM is near.
"""

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.lab import credential, pki, tpm_wire

SHA256, KEYEDHASH, HMAC = b"\x00\x0b", b"\x00\x08", b"\x00\x05"
AES128_CFB = b"\x00\x06\x00\x80\x00\x43"
# sign | noDA | userWithAuth, as keys of the service have been seen.
ATTRIBUTES = 0x00040440
PARENT = ["fixedTPM", "fixedParent", "sensitiveDataOrigin", "restricted", "decrypt"]
TRAILER = 154
PARTS = ["credential", "secret", "private", "seed", "public", "trailer"]


class Malformed(ValueError):
    """Not the public area that this key of a TPM must have; in words."""


@dataclass(frozen=True)
class Parents:
    """EK and SRK of one TPM, TPM2B_PUBLIC; `wrapped` makes keys for it alone."""

    ek: bytes
    srk: bytes


def endorsement_key(text: object, *, ecc: bool) -> bytes:
    """TPM2B_PUBLIC from base64. Raises Malformed; `ecc`: one on P-256 will do, too."""
    data = _decoded(text)
    area = _parent(data)
    if not area.has("adminWithPolicy"):
        raise Malformed("an endorsement key that does not want a policy")
    if isinstance(area.key, ec.EllipticCurvePublicKey) and not ecc:
        raise Malformed("an ECC endorsement key")
    return data


def storage_root_key(text: object) -> bytes:
    """TPM2B_PUBLIC from base64. Raises Malformed."""
    data = _decoded(text)
    if not _parent(data).has("userWithAuth"):
        raise Malformed("a storage root key that wants a policy")
    return data


def _decoded(text: object) -> bytes:
    if not isinstance(text, str):
        raise Malformed("no key")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        raise Malformed(f"not base64: {e}") from e


def _parent(tpm2b: bytes) -> tpm_wire.Area:
    """The public area of a key that can be a parent: RSA-2048 or P-256, SHA-256, AES-128-CFB."""
    try:
        reader = tpm_wire.Reader(tpm2b)
        tpmt = reader.sized()
        reader.end()
        area = tpm_wire.area(tpmt)
    except ValueError as e:
        raise Malformed(f"not a TPM2B_PUBLIC: {e}") from e
    missing = [name for name in PARENT if not area.has(name)]
    if missing or area.has("sign"):
        raise Malformed(f"attributes {area.attributes:#010x} are not those of a storage key")
    symmetric = tpmt[10 + len(area.policy) :]
    usual = isinstance(area.key, rsa.RSAPublicKey) and area.key.key_size == 2048
    small = isinstance(area.key, ec.EllipticCurvePublicKey) and area.key.key_size == 256
    plain = tpmt[2:4] == SHA256 and area.scheme.algorithm == tpm_wire.NULL
    if not (plain and symmetric.startswith(AES128_CFB) and (usual or small)):
        raise Malformed("a key of no template that is supported")
    return area


def wrapped(
    parents: Parents,
    key: bytes,
    *,
    trailer: int = TRAILER,
    attributes: int = ATTRIBUTES,
    inner: int = 16,
) -> list[bytes]:
    """`key` (16 to 64 bytes) for this TPM: the six parts of an authenticationKey, each a 2B.
    `trailer`: bytes of what nobody reads; `attributes`: those of the key, TPMA_OBJECT; `inner`:
    bytes of the AES key between the two wrappings."""
    ek, srk = _parent(parents.ek), _parent(parents.srk)
    aes = os.urandom(inner)
    identity, secret = credential.protect(ek.key, b"IDENTITY", srk.name, _sized(aes))
    seed_value = os.urandom(32)
    public = _public(key, seed_value, attributes)
    name = SHA256 + hashlib.sha256(public).digest()
    sensitive = _sized(KEYEDHASH + _sized(b"") + _sized(seed_value) + _sized(key))
    integrity = _sized(hashlib.sha256(sensitive + name).digest())
    hidden = credential.encrypted(aes, integrity + sensitive)
    private, seed = credential.protect(srk.key, b"DUPLICATE", name, hidden)
    last = credential.encrypted(aes, os.urandom(trailer))
    return [_sized(part) for part in (identity, secret, private, seed, public, last)]


def _public(key: bytes, seed_value: bytes, attributes: int) -> bytes:
    """TPMT_PUBLIC of an HMAC key; `unique` proves the seed (part 1, 27.5.3.2)."""
    unique = hashlib.sha256(seed_value + key).digest()
    head = KEYEDHASH + SHA256 + attributes.to_bytes(4, "big") + _sized(b"")
    return head + HMAC + SHA256 + _sized(unique)


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def blob(parents: Parents, key: bytes, how: str = "right") -> str | None:
    """The authenticationKey, base64. `how` it is spoilt: "missing", "not-base64", "empty",
    "truncated", "oversized", "other-ek", "other-srk", or "flipped-" and a part's name: one bit of
    its last byte. Raises KeyError for any other."""
    if how in ("missing", "not-base64"):
        return None if how == "missing" else "no base64 at all!"
    return base64.b64encode(_spoilt(wrapped(_foreign(parents, how), key), how)).decode()


def _spoilt(parts: list[bytes], how: str) -> bytes:
    at = how.removeprefix("flipped-")
    if at in PARTS:
        wrong = {at: parts[PARTS.index(at)]}
        wrong[at] = wrong[at][:-1] + bytes([wrong[at][-1] ^ 1])
        return b"".join(wrong.get(name, part) for name, part in zip(PARTS, parts, strict=True))
    whole = b"".join(parts)
    cut = {"empty": b"", "truncated": whole[: len(whole) // 2], "oversized": whole + bytes(65536)}
    return {**cut, "right": whole, "other-ek": whole, "other-srk": whole}[how]


def _foreign(parents: Parents, how: str) -> Parents:
    """The TPM the key is for, or one that nobody has."""
    if how == "other-ek":
        return Parents(elsewhere(parents.ek), parents.srk)
    if how == "other-srk":
        return Parents(parents.ek, elsewhere(parents.srk))
    return parents


def elsewhere(tpm2b: bytes) -> bytes:
    """The same public area with another key in it."""
    if isinstance(_parent(tpm2b).key, rsa.RSAPublicKey):
        key = pki.new_key("rsa2048")
        assert isinstance(key, rsa.RSAPrivateKey)
        return tpm2b[:-256] + key.public_key().public_numbers().n.to_bytes(256, "big")
    point = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
    x, y = (number.to_bytes(32, "big") for number in (point.x, point.y))
    return tpm2b[: -2 * 34] + _sized(x) + _sized(y)
