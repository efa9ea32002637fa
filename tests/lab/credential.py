"""TPM2_MakeCredential in software: a secret that only one TPM opens, and only for one of its keys.

TPM 2.0 Library, part 1, 24 (credential protection), 11.4.9 (KDFa), 11.4.10.3 (KDFe), B.10.4 and
C.6.4 (the seed's transport). Written from the specification for the lab's CA; the file is that of
`tpm2_makecredential -o`, so that either makes what the other's counterpart answers.
"""

import hmac
import os
import struct
from dataclasses import dataclass

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import Hash, HashAlgorithm

HEADER = struct.pack(">II", 0xBADCC0DE, 1)
Key = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True)
class Strength:
    """What an EK hashes and encrypts with: its template says so, not its certificate."""

    hash: HashAlgorithm
    aes: int  # bits


SHA256, SHA384 = Strength(hashes.SHA256(), 128), Strength(hashes.SHA384(), 256)
# TCG EK Credential Profile, B.3 and B.4: templates L-1, L-2 and H-1 to H-3, by size of the key.
RSA_STRENGTHS = {2048: SHA256, 3072: SHA384}
ECC_STRENGTHS = {256: SHA256, 384: SHA384}


def make(ek: Key, name: bytes, secret: bytes) -> bytes:
    """The file with `secret` for the TPM with this EK and an object with this name in it. Raises
    KeyError for an EK of no known template."""
    return HEADER + b"".join(map(_sized, protect(ek, b"IDENTITY", name, _sized(secret))))


def protect(key: Key, label: bytes, name: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """`secret` for the TPM that has this storage or endorsement key, bound to the object of this
    name (part 1, 23.3.2.4 and 24.4): integrity and ciphertext, and the seed for the key. Raises
    KeyError for a key of no known template."""
    if isinstance(key, rsa.RSAPublicKey):
        strength = RSA_STRENGTHS[key.key_size]
        seed, sealed_seed = _rsa(key, strength, label)
    else:
        strength = ECC_STRENGTHS[key.key_size]
        seed, sealed_seed = _ecc(key, strength, label)
    hidden = encrypted(_kdfa(strength.hash, seed, b"STORAGE", name, strength.aes), secret)
    outer = _kdfa(strength.hash, seed, b"INTEGRITY", b"", 8 * strength.hash.digest_size)
    integrity = hmac.digest(outer, hidden + name, strength.hash.name)
    return _sized(integrity) + hidden, sealed_seed


def encrypted(key: bytes, data: bytes) -> bytes:
    """AES in CFB mode from an IV of zeros, as TPMs have it."""
    encryptor = Cipher(algorithms.AES(key), CFB(bytes(16))).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def _rsa(key: rsa.RSAPublicKey, strength: Strength, label: bytes) -> tuple[bytes, bytes]:
    seed = os.urandom(strength.hash.digest_size)
    mgf = padding.MGF1(strength.hash)
    return seed, key.encrypt(seed, padding.OAEP(mgf, strength.hash, label + b"\0"))


def _ecc(key: ec.EllipticCurvePublicKey, strength: Strength, label: bytes) -> tuple[bytes, bytes]:
    once = ec.generate_private_key(key.curve)
    size = (key.key_size + 7) // 8
    x, y = _point(once.public_key(), size)
    shared = once.exchange(ec.ECDH(), key)
    seed = _kdfe(strength.hash, shared, label, x, _point(key, size)[0])
    return seed, _sized(x) + _sized(y)


def _point(key: ec.EllipticCurvePublicKey, size: int) -> tuple[bytes, bytes]:
    numbers = key.public_numbers()
    return numbers.x.to_bytes(size, "big"), numbers.y.to_bytes(size, "big")


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _kdfa(algorithm: HashAlgorithm, key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """SP 800-108 in counter mode; never more than one digest is wanted here."""
    text = struct.pack(">I", 1) + label + b"\0" + context + struct.pack(">I", bits)
    return hmac.digest(key, text, algorithm.name)[: bits // 8]


def _kdfe(algorithm: HashAlgorithm, shared: bytes, label: bytes, u: bytes, v: bytes) -> bytes:
    """SP 800-56A; one digest."""
    once = Hash(algorithm)
    once.update(struct.pack(">I", 1) + shared + label + b"\0" + u + v)
    return once.finalize()
