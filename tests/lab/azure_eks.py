"""Endorsement keys of as many TPMs as one likes; nobody has their private parts."""

import base64
import hashlib
import struct

POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")


def endorsement_key(number: int) -> str:
    """TPM2B_PUBLIC in base64, always the same one for a number."""
    return base64.b64encode(blob(modulus(number))).decode()


def modulus(number: int) -> bytes:
    """It looks like one; that it is the product of two primes, nobody can see."""
    random = hashlib.shake_256(number.to_bytes(8)).digest(256)
    return bytes([random[0] | 0x80]) + random[1:-1] + bytes([random[-1] | 1])


def blob(modulus: bytes, *, attributes: int = 0x000300B2, kind: int = 1) -> bytes:
    """TPM2B_PUBLIC of the template L-1 (TCG EK profile 2.5, B.3.3): RSA, SHA-256, PolicyA,
    AES-128-CFB, no scheme, 2048 bits, the usual exponent."""
    public = struct.pack(">HHIH", kind, 0x000B, attributes, len(POLICY)) + POLICY
    public += struct.pack(">HHHHHI", 0x0006, 128, 0x0043, 0x0010, 2048, 0)
    public += struct.pack(">H", len(modulus)) + modulus
    return struct.pack(">H", len(public)) + public
