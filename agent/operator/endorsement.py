"""An endorsement key as it is exported, looked at without a TPM: is it one, and whose certificate.

TCG TPM 2.0 Library, Part 2: TPM2B_PUBLIC (12.2.5), TPMT_PUBLIC (12.2.4), TPMA_OBJECT (8.3).
"""

import binascii
import struct
from base64 import b64decode
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers

from agent import x509_der

RSA, SHA256, NULL = 0x0001, 0x000B, 0x0010
EXPONENT = 65537  # what 0 stands for
FIXED_TPM, FIXED_PARENT, RESTRICTED, DECRYPT, SIGN = 1 << 1, 1 << 4, 1 << 16, 1 << 17, 1 << 18
NEEDED = FIXED_TPM | FIXED_PARENT | RESTRICTED | DECRYPT
BITS = (2048, 3072, 4096)


class Reader:
    """Big-endian numbers and sized buffers, one after the other. Raises ValueError at the end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        if len(self._data) - self._at < size:
            raise ValueError("its endorsement key is cut off")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def buffer(self) -> bytes:
        return self.take(self.number(2))

    def done(self) -> None:
        if self._at != len(self._data):
            raise ValueError("there is more behind its endorsement key")


def rsa(base64: str) -> RSAPublicKey:
    """The key in a TPM2B_PUBLIC, if it can be an EK: DPS takes RSA only. Raises ValueError, with
    what is wrong with it."""
    try:
        outer = Reader(b64decode(base64, validate=True))
    except binascii.Error as e:
        raise ValueError("its endorsement key is not base64") from e
    inner = Reader(outer.buffer())
    outer.done()
    kind, name, attributes = struct.unpack(">HHI", inner.take(8))
    if kind != RSA:
        raise ValueError("its endorsement key is not RSA, and DPS takes no other")
    if attributes & (NEEDED | SIGN) != NEEDED:
        raise ValueError("what it shows is no endorsement key: it is not for decrypting in one TPM")
    if name < SHA256:
        raise ValueError("its endorsement key is named by a hash that is too weak")
    inner.buffer()  # authPolicy
    return _modulus(inner)


def _modulus(inner: Reader) -> RSAPublicKey:
    """The rest of it: TPMS_RSA_PARMS, and `unique`."""
    if inner.number(2) != NULL:
        inner.take(4)  # keyBits and mode of the symmetric algorithm
    if inner.number(2) != NULL:
        inner.take(2)  # the hash of the scheme
    bits, exponent = inner.number(2), inner.number(4) or EXPONENT
    modulus = inner.buffer()
    inner.done()
    number = int.from_bytes(modulus)
    if bits not in BITS or number.bit_length() != bits or number % 2 == 0:
        raise ValueError(f"its endorsement key has no modulus of {bits} bits")
    return RSAPublicNumbers(exponent, number).public_key()


def fits(key: RSAPublicKey, certificates: Sequence[str]) -> None:
    """Of the EK certificates (DER, base64) that are for RSA keys, one must be for this one; a TPM
    may have none, or only such as are for another kind. Raises ValueError."""
    try:
        found = [x509_der.leading(b64decode(each, validate=True)) for each in certificates]
        keys = [each.read.public_key() for each in found]
    except ValueError as e:
        raise ValueError(f"its EK certificate cannot be read: {e}") from e
    of_rsa = [each for each in keys if isinstance(each, RSAPublicKey)]
    if of_rsa and key not in of_rsa:
        raise ValueError("its EK certificate is for another endorsement key")
