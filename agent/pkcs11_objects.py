"""What tpm2-pkcs11 keeps in a row: its configurations and PKCS#11 objects, to and from text.

A row's text is YAML in canonical style, every scalar tagged and quoted; the module's parser takes
nothing else (parser.c), and tpm2_ptool and the module write nothing else. So no YAML library is
needed to read it. In an object, a number is the attribute, and byte strings are in hex.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Value = bool | int | str | bytes | Sequence[int]
Name = TypeVar("Name", int, str)

# PKCS #11 v2.40, base and current mechanisms; the last three are tpm2-pkcs11's own (attrs.h).
CLASS, TOKEN, PRIVATE, LABEL, TRUSTED = 0x0, 0x1, 0x2, 0x3, 0x86
KEY_TYPE, SUBJECT, ID, SENSITIVE = 0x100, 0x101, 0x102, 0x103
ENCRYPT, DECRYPT, WRAP, UNWRAP = 0x104, 0x105, 0x106, 0x107
SIGN, SIGN_RECOVER, VERIFY, VERIFY_RECOVER, DERIVE = 0x108, 0x109, 0x10A, 0x10B, 0x10C
START_DATE, END_DATE, MODULUS, MODULUS_BITS, PUBLIC_EXPONENT = 0x110, 0x111, 0x120, 0x121, 0x122
PUBLIC_KEY_INFO, EXTRACTABLE, LOCAL = 0x129, 0x162, 0x163
NEVER_EXTRACTABLE, ALWAYS_SENSITIVE, KEY_GEN_MECHANISM = 0x164, 0x165, 0x166
MODIFIABLE, COPYABLE, DESTROYABLE, EC_PARAMS, EC_POINT = 0x170, 0x171, 0x172, 0x180, 0x181
ALWAYS_AUTHENTICATE, WRAP_WITH_TRUSTED = 0x202, 0x210
WRAP_TEMPLATE, UNWRAP_TEMPLATE, ALLOWED_MECHANISMS = 0x40000211, 0x40000212, 0x40000600
PUBLIC_BLOB, PRIVATE_BLOB = 0x8F000002, 0x8F000003

PUBLIC_KEY, PRIVATE_KEY = 2, 3  # CKA_CLASS
RSA, EC = 0, 3  # CKA_KEY_TYPE
RSA_PKCS_KEY_PAIR_GEN, EC_KEY_PAIR_GEN = 0x0, 0x1040

# What the module lists for keys it generates itself (rsa_gen_mechs, ecc_gen_mechs in attrs.c):
# CKM_RSA_X_509, _OAEP, _PKCS, SHA1..512_RSA_PKCS, _PSS, SHA1..512_PSS; CKM_ECDSA, _SHA1.._SHA512.
RSA_MECHANISMS = (0x3, 0x9, 0x1, 0x6, 0x40, 0x41, 0x42, 0xD, 0xE, 0x43, 0x44, 0x45)
EC_MECHANISMS = (0x1041, 0x1042, 0x1044, 0x1045, 0x1046)

# DER of the curves' object identifiers (RFC 5480, 2.1.1.1)
CURVES = {
    "secp256r1": bytes.fromhex("06082a8648ce3d030107"),
    "secp384r1": bytes.fromhex("06052b81040022"),
}


@dataclass(frozen=True)
class Key:
    """A key for the token: a child of the token's parent, with an empty password.

    `public` and `private` are TPM2B_PUBLIC and TPM2B_PRIVATE, `key` the same public key as
    `cryptography` has it (RSA, P-256, P-384).
    """

    label: str
    public: bytes
    private: bytes
    key: RSAPublicKey | EllipticCurvePublicKey
    signs: bool
    decrypts: bool


def objects(key: Key) -> dict[int, dict[int, Value]]:
    """The attributes of a key's private and public object, by CKA_CLASS.

    As `tpm2_ptool link` makes them, but: CKA_VERIFY goes with signing and CKA_ENCRYPT with
    decrypting (it has them crossed, so an EC key could encrypt and not verify); CKA_ID is a digest
    of the key, so the same key always has the same; there is no encrypted password, which to the
    module is an empty one (utils_ctx_unwrap_objauth), so no PIN is needed to add a key.
    """
    common = _common(key) | _numbers(key.key)
    private: dict[int, Value] = {
        CLASS: PRIVATE_KEY,
        PRIVATE: True,
        SENSITIVE: True,
        DECRYPT: key.decrypts,
        UNWRAP: False,
        SIGN: key.signs,
        SIGN_RECOVER: False,
        EXTRACTABLE: False,
        NEVER_EXTRACTABLE: True,
        ALWAYS_SENSITIVE: True,
        ALWAYS_AUTHENTICATE: False,
        WRAP_WITH_TRUSTED: False,
        UNWRAP_TEMPLATE: (),
        PRIVATE_BLOB: key.private,
    }
    public: dict[int, Value] = {
        CLASS: PUBLIC_KEY,
        PRIVATE: False,
        TRUSTED: False,
        ENCRYPT: key.decrypts,
        WRAP: False,
        VERIFY: key.signs,
        VERIFY_RECOVER: False,
        WRAP_TEMPLATE: b"",
    }
    return {PRIVATE_KEY: common | private, PUBLIC_KEY: common | public}


def _common(key: Key) -> dict[int, Value]:
    return {
        TOKEN: True,
        LABEL: key.label.encode(),
        SUBJECT: b"",
        ID: hashlib.sha256(spki(key.key)).digest()[:16],
        DERIVE: False,
        START_DATE: b"",
        END_DATE: b"",
        PUBLIC_KEY_INFO: b"",
        LOCAL: True,
        MODIFIABLE: False,
        COPYABLE: False,
        DESTROYABLE: True,
        PUBLIC_BLOB: key.public,
    }


def spki(key: RSAPublicKey | EllipticCurvePublicKey) -> bytes:
    """SubjectPublicKeyInfo, DER (RFC 5280, 4.1.2.7)."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _numbers(key: RSAPublicKey | EllipticCurvePublicKey) -> dict[int, Value]:
    if isinstance(key, RSAPublicKey):
        rsa = key.public_numbers()
        return {
            KEY_TYPE: RSA,
            KEY_GEN_MECHANISM: RSA_PKCS_KEY_PAIR_GEN,
            ALLOWED_MECHANISMS: RSA_MECHANISMS,
            MODULUS: _big_endian(rsa.n),
            MODULUS_BITS: key.key_size,
            PUBLIC_EXPONENT: _big_endian(rsa.e),
        }
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return {
        KEY_TYPE: EC,
        KEY_GEN_MECHANISM: EC_KEY_PAIR_GEN,
        ALLOWED_MECHANISMS: EC_MECHANISMS,
        EC_PARAMS: CURVES[key.curve.name],
        EC_POINT: bytes([0x04, len(point)]) + point,  # a DER OCTET STRING, shorter than 128
    }


def _big_endian(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


# --- text ---

SCALAR = r'!!(bool|int|str) "([^"\\]*)"'
ITEM = rf"\? {SCALAR}\s*: (?:{SCALAR}|!!seq \[([^\]]*)\])\s*,\s*"
DOCUMENT = rf"(?:%YAML [0-9.]+\s+)?---\s+!!map \{{\s*(?:{ITEM})*\}}\s*(?:\.\.\.\s*)?"


def emit(fields: Mapping[Name, Value]) -> str:
    """YAML in canonical style, by ascending attribute or name."""
    lines = [f"  ? {_emit(name)}\n  : {_emit(value)},\n" for name, value in sorted(fields.items())]
    return "---\n!!map {\n" + "".join(lines) + "}\n"


def _emit(value: Value) -> str:
    match value:
        case bool():
            return f'!!bool "{str(value).lower()}"'
        case int():
            return f'!!int "{value}"'
        case str():
            return f'!!str "{value}"'
        case bytes():
            return f'!!str "{value.hex()}"'
    return "!!seq [" + "".join(f"{_emit(each)}, " for each in value) + "]"


def parse(text: str) -> dict[str, Value]:
    """The reverse: names and attributes as (decimal) text, byte strings in hex.

    Raises ValueError if it is anything but what the module itself would take.
    """
    if not re.fullmatch(DOCUMENT, text):
        raise ValueError("not canonical YAML")
    return {name: _parse(*rest) for _, name, *rest in re.findall(ITEM, text)}


def _parse(kind: str, value: str, sequence: str) -> Value:
    match kind:
        case "bool":
            return value == "true"
        case "int":
            return int(value)
        case "str":
            return value
    return tuple(int(each) for _, each in re.findall(SCALAR, sequence))
