"""What a TPM says, taken apart by somebody who has none: TPM 2.0 Library, part 2, big-endian.

Written from the specification and used by the lab's CA alone; shares nothing with what it checks.
Whatever is too short, too long or unknown is a ValueError.
"""

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

RSA, KEYEDHASH, NULL, RSASSA, RSAPSS, ECDSA, ECC = 0x1, 0x8, 0x10, 0x14, 0x16, 0x18, 0x23
HASHES = {0x000B: hashes.SHA256(), 0x000C: hashes.SHA384(), 0x000D: hashes.SHA512()}
CURVES = {0x0003: ec.SECP256R1(), 0x0004: ec.SECP384R1(), 0x0005: ec.SECP521R1()}
ENDORSEMENT = 0x4000000B
GENERATED = 0xFF544347
CERTIFY, CREATION = 0x8017, 0x801A
ATTRIBUTES = {
    "fixedTPM": 1 << 1,
    "fixedParent": 1 << 4,
    "sensitiveDataOrigin": 1 << 5,
    "userWithAuth": 1 << 6,
    "adminWithPolicy": 1 << 7,
    "restricted": 1 << 16,
    "decrypt": 1 << 17,
    "sign": 1 << 18,
}
Key = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class Reader:
    """Bytes taken from the front; `end()` wants them all taken."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def take(self, size: int) -> bytes:
        if size > len(self.rest):
            raise ValueError(f"{size} bytes wanted, {len(self.rest)} left")
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self, width: int = 2) -> bytes:
        """A TPM2B: its size, and as many bytes."""
        return self.take(self.number(width))

    def end(self) -> None:
        if self.rest:
            raise ValueError(f"{len(self.rest)} bytes too many")


def digest(algorithm: int, *data: bytes) -> bytes:
    return hashlib.new(HASHES[algorithm].name, b"".join(data)).digest()


@dataclass(frozen=True)
class Scheme:
    """How a key signs: TPM_ALG_NULL leaves it to who asks."""

    algorithm: int
    hash: int | None


@dataclass(frozen=True)
class Area:
    """TPMT_PUBLIC of an RSA or ECC key (12.2.4)."""

    tpmt: bytes
    name_hash: int
    attributes: int
    policy: bytes
    symmetric: int
    scheme: Scheme
    key: Key

    @property
    def name(self) -> bytes:
        return self.name_hash.to_bytes(2, "big") + digest(self.name_hash, self.tpmt)

    def qualified(self, parent: bytes) -> bytes:
        """The qualified name (part 1, 16): that of the parent, and one's own, hashed."""
        return self.name_hash.to_bytes(2, "big") + digest(self.name_hash, parent, self.name)

    def has(self, attribute: str) -> bool:
        return bool(self.attributes & ATTRIBUTES[attribute])


def area(data: bytes) -> Area:
    reader = Reader(data)
    kind, name_hash, attributes = reader.number(2), reader.number(2), reader.number(4)
    _known(name_hash, HASHES)
    policy, symmetric = reader.sized(), reader.number(2)
    if symmetric != NULL:  # mode and key size of what a parent encrypts with
        reader.take(4)
    scheme = _scheme(reader)
    key = {RSA: _rsa, ECC: _ecc}[_known(kind, {RSA, ECC})](reader)
    reader.end()
    return Area(data, name_hash, attributes, policy, symmetric, scheme, key)


def _known(value: int, values: object) -> int:
    if value not in values:  # type: ignore[operator]
        raise ValueError(f"{value:#x} is unknown here")
    return value


def _scheme(reader: Reader) -> Scheme:
    algorithm = _known(reader.number(2), {NULL, RSASSA, RSAPSS, ECDSA})
    return Scheme(algorithm, None if algorithm == NULL else _known(reader.number(2), HASHES))


def _rsa(reader: Reader) -> Key:
    bits, exponent = reader.number(2), reader.number(4) or 65537
    modulus = reader.sized()
    if 8 * len(modulus) != bits:
        raise ValueError(f"a modulus of {len(modulus)} bytes in an RSA-{bits} key")
    return rsa.RSAPublicNumbers(exponent, int.from_bytes(modulus, "big")).public_key()


def _ecc(reader: Reader) -> Key:
    curve = CURVES[_known(reader.number(2), CURVES)]
    if reader.number(2) != NULL:
        raise ValueError("a key derivation in a signing key")
    x, y = (int.from_bytes(reader.sized(), "big") for _ in range(2))
    return ec.EllipticCurvePublicNumbers(x, y, curve).public_key()


@dataclass(frozen=True)
class Attest:
    """TPMS_ATTEST of a key that was certified, or whose creation was (10.12.12)."""

    magic: int
    type: int
    signer: bytes  # qualified name of the key that signed
    extra: bytes  # what the caller of the TPM wanted in it
    name: bytes
    detail: bytes  # CERTIFY: the key's qualified name; CREATION: digest of its TPMS_CREATION_DATA


def attest(data: bytes) -> Attest:
    reader = Reader(data)
    magic, kind = reader.number(4), reader.number(2)
    signer, extra = reader.sized(), reader.sized()
    reader.take(8 + 4 + 4 + 1 + 8)  # clockInfo and firmwareVersion
    found = Attest(magic, kind, signer, extra, reader.sized(), reader.sized())
    reader.end()
    return found


def ticket(data: bytes) -> int:
    """TPMT_TK_CREATION (10.7.3): the hierarchy. Its HMAC is for the TPM that made it alone."""
    reader = Reader(data)
    _known(reader.number(2), {0x8021})
    hierarchy, _ = reader.number(4), reader.sized()
    reader.end()
    return hierarchy


@dataclass(frozen=True)
class Signature:
    """TPMT_SIGNATURE (11.3.4); an ECDSA one as DER."""

    scheme: Scheme
    value: bytes

    def verify(self, key: Key, data: bytes) -> None:
        """Raises InvalidSignature, also where key and scheme do not suit each other."""
        hashed = HASHES[self.scheme.hash or 0]
        if isinstance(key, rsa.RSAPublicKey) and self.scheme.algorithm == RSASSA:
            key.verify(self.value, data, padding.PKCS1v15(), hashed)
        elif isinstance(key, rsa.RSAPublicKey) and self.scheme.algorithm == RSAPSS:
            pss = padding.PSS(padding.MGF1(hashed), padding.PSS.AUTO)
            key.verify(self.value, data, pss, hashed)
        elif isinstance(key, ec.EllipticCurvePublicKey) and self.scheme.algorithm == ECDSA:
            key.verify(self.value, data, ec.ECDSA(hashed))
        else:
            raise InvalidSignature


def signature(data: bytes) -> Signature:
    reader = Reader(data)
    scheme = _scheme(reader)
    if scheme.hash is None:
        raise ValueError("a signature of no scheme")
    if scheme.algorithm == ECDSA:
        r, s = (int.from_bytes(reader.sized(), "big") for _ in range(2))
        value = utils.encode_dss_signature(r, s)
    else:
        value = reader.sized()
    reader.end()
    return Signature(scheme, value)
