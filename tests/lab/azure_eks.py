"""Endorsement keys of as many TPMs as one likes; nobody has their private parts."""

import base64
import hashlib

# TPMT_PUBLIC of TCG EK Credential Profile, template L-1, up to `unique`: RSA, SHA-256, attributes,
# PolicyA, AES-128-CFB, no scheme, 2048 bits, the usual exponent.
TEMPLATE = bytes.fromhex(
    "0001 000b 000300b2 0020 837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
    "0006 0080 0043 0010 0800 00000000"
)


def endorsement_key(number: int) -> str:
    """TPM2B_PUBLIC in base64, always the same one for a number."""
    seed = number.to_bytes(8, "big")
    modulus = b"".join(hashlib.sha256(seed + bytes([part])).digest() for part in range(8))
    modulus = bytes([modulus[0] | 0x80]) + modulus[1:-1] + bytes([modulus[-1] | 1])
    area = TEMPLATE + len(modulus).to_bytes(2, "big") + modulus
    return base64.b64encode(len(area).to_bytes(2, "big") + area).decode()
