"""A CMS EnvelopedData (RFC 5652, 6) for one public key, in DER: what `openssl cms -decrypt` opens.

The content is encrypted with AES-256 in CBC mode under a key of its own. That key is encrypted to
an RSA key by RSAES-OAEP with SHA-256 (RFC 3560), or to an EC key by a one-time ECDH and AES key
wrap (RFC 5753, 3.1.1, with the key derivation of X9.63 and SHA-256). The recipient is named by its
key identifier, so that no certificate is needed.
"""

import os

from cryptography import x509
from cryptography.hazmat.primitives import hashes, keywrap, padding
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Recipient = RSAPublicKey | ec.EllipticCurvePublicKey
INTEGER, BITS, OCTETS, OID, SEQUENCE, SET = 0x02, 0x03, 0x04, 0x06, 0x30, 0x31
KEY, BLOCK = 32, 16  # bytes, of AES-256


def enveloped(recipient: Recipient, key_id: bytes, data: bytes) -> bytes:
    """ContentInfo with `data`, which nobody reads but who has the private key. `key_id`: what the
    recipient is named by (RFC 5280, 4.2.1.2)."""
    key, iv = os.urandom(KEY), os.urandom(BLOCK)
    if isinstance(recipient, RSAPublicKey):
        info = _transported(recipient, key_id, key)
    else:
        info = _agreed(recipient, key_id, key)
    cipher = _algorithm("2.16.840.1.101.3.4.1.42", _tlv(OCTETS, iv))  # aes256-CBC
    content = _tlv(0x80, _encrypted(key, iv, data))
    inner = _tlv(SEQUENCE, _oid("1.2.840.113549.1.7.1"), cipher, content)  # id-data
    body = _tlv(SEQUENCE, _tlv(INTEGER, b"\2"), _tlv(SET, info), inner)
    return _tlv(SEQUENCE, _oid("1.2.840.113549.1.7.3"), _tlv(0xA0, body))  # id-envelopedData


def key_id(key: Recipient) -> bytes:
    """20 bytes: SHA-1 of the key's bits, as CAs name keys (RFC 5280, 4.2.1.2, method 1)."""
    return x509.SubjectKeyIdentifier.from_public_key(key).digest


def _encrypted(key: bytes, iv: bytes, data: bytes) -> bytes:
    padder = padding.PKCS7(8 * BLOCK).padder()
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(iv)).encryptor()
    return encryptor.update(padder.update(data) + padder.finalize()) + encryptor.finalize()


def _transported(recipient: RSAPublicKey, key_id: bytes, key: bytes) -> bytes:
    """KeyTransRecipientInfo."""
    sha256 = _algorithm("2.16.840.1.101.3.4.2.1")
    mgf = _algorithm("1.2.840.113549.1.1.8", sha256)
    oaep = _tlv(SEQUENCE, _tlv(0xA0, sha256), _tlv(0xA1, mgf))
    wrapped = recipient.encrypt(key, OAEP(MGF1(hashes.SHA256()), hashes.SHA256(), None))
    return _tlv(
        SEQUENCE,
        _tlv(INTEGER, b"\2"),
        _tlv(0x80, key_id),
        _algorithm("1.2.840.113549.1.1.7", oaep),
        _tlv(OCTETS, wrapped),
    )


def _agreed(recipient: ec.EllipticCurvePublicKey, key_id: bytes, key: bytes) -> bytes:
    """KeyAgreeRecipientInfo."""
    once = ec.generate_private_key(recipient.curve)
    point = once.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    wrap = _algorithm("2.16.840.1.101.3.4.1.45")  # aes256-wrap
    bits = _tlv(OCTETS, (8 * KEY).to_bytes(4, "big"))
    derived = X963KDF(hashes.SHA256(), KEY, _tlv(SEQUENCE, wrap, _tlv(0xA2, bits)))
    wrapped = keywrap.aes_key_wrap(derived.derive(once.exchange(ec.ECDH(), recipient)), key)
    origin = _tlv(0xA1, _algorithm("1.2.840.10045.2.1"), _tlv(BITS, b"\0" + point))
    named = _tlv(SEQUENCE, _tlv(0xA0, _tlv(OCTETS, key_id)), _tlv(OCTETS, wrapped))
    return _tlv(
        0xA1,
        _tlv(INTEGER, b"\3"),
        _tlv(0xA0, origin),
        _algorithm("1.3.132.1.11.1", wrap),  # dhSinglePass-stdDH-sha256kdf-scheme
        _tlv(SEQUENCE, named),
    )


# --- DER (X.690, 10) ---


def _tlv(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = len(body)
    if size < 0x80:
        return bytes((tag, size)) + body
    long = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(long))) + long + body


def _oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    return _tlv(OID, *map(_base128, (40 * first + second, *rest)))


def _base128(number: int) -> bytes:
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.insert(0, 0x80 | number & 0x7F)
    return bytes(digits)


def _algorithm(dotted: str, *parameters: bytes) -> bytes:
    return _tlv(SEQUENCE, _oid(dotted), *parameters)
