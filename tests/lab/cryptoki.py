"""IoT Edge's key service, as the PKCS#11 module sees it: the same calls with the same attributes
in the same order as iot-identity-service makes them (pkcs11/src/session.rs, object.rs)."""

import contextlib
import ctypes
from collections.abc import Iterator
from ctypes import Structure, byref, c_char_p, c_ulong, c_void_p
from pathlib import Path
from typing import Any

PUBLIC_KEY, PRIVATE_KEY = 2, 3
CLASS, TOKEN, PRIVATE, LABEL, KEY_TYPE = 0x0, 0x1, 0x2, 0x3, 0x100
SENSITIVE, ENCRYPT, DECRYPT, SIGN, VERIFY = 0x103, 0x104, 0x105, 0x108, 0x10A
MODULUS, MODULUS_BITS, PUBLIC_EXPONENT, EC_PARAMS, EC_POINT = 0x120, 0x121, 0x122, 0x180, 0x181
RSA_PKCS_KEY_PAIR_GEN, EC_KEY_PAIR_GEN = 0x0, 0x1040
RSA_PKCS, RSA_X509, RSA_PKCS_PSS, ECDSA = 0x1, 0x3, 0xD, 0x1041
RSA = 0x0  # CKK_RSA
SHA256, SHA384, SHA512 = (0x250, 2), (0x260, 3), (0x270, 4)  # CKM_*, CKG_MGF1_*
P256 = bytes.fromhex("06082a8648ce3d030107")
SERIAL_RW, USER, OS_LOCKING_NO_THREADS = 6, 1, 3

Template = dict[int, bool | int | bytes]


def module() -> Path:
    (found,) = Path("/usr/lib").glob("*/pkcs11/libtpm2_pkcs11.so")
    return found


class CkError(Exception):
    """A PKCS#11 function that did not return CKR_OK."""

    def __init__(self, function: str, rv: int) -> None:
        super().__init__(f"{function}: {rv:#x}")
        self.rv = rv


class _Attribute(Structure):  # CK_ATTRIBUTE, and CK_MECHANISM has the same shape
    _fields_ = (("type", c_ulong), ("value", c_char_p), ("length", c_ulong))


class _InitializeArgs(Structure):
    _fields_ = (*((f"mutex{n}", c_void_p) for n in range(4)), ("flags", c_ulong), ("r", c_void_p))


def _template(attributes: Template) -> Any:
    entries = [(kind, _plain(value)) for kind, value in attributes.items()]
    return (_Attribute * len(entries))(*(_Attribute(k, data, len(data)) for k, data in entries))


def _plain(value: bool | int | bytes) -> bytes:
    if isinstance(value, bool):
        return bytes([value])
    return value if isinstance(value, bytes) else bytes(c_ulong(value))


class Service:
    """One session, kept open for life, as the key service keeps it for its base slot."""

    def __init__(self, library: Any, session: c_ulong) -> None:
        self._library, self._session = library, session

    def _call(self, function: str, *arguments: Any) -> None:
        if rv := getattr(self._library, function)(self._session, *arguments):
            raise CkError(function, rv)

    def find(self, kind: int, label: str) -> int | None:
        template = _template({CLASS: kind, LABEL: label.encode()})
        self._call("C_FindObjectsInit", template, c_ulong(2))
        try:
            found, count = c_ulong(), c_ulong()
            self._call("C_FindObjects", byref(found), c_ulong(1), byref(count))
            return found.value if count.value else None
        finally:
            self._call("C_FindObjectsFinal")

    def get(self, kind: int, label: str, attribute: int) -> bytes:
        handle = self.find(kind, label)
        assert handle is not None, f"no key '{label}'"
        asked = _Attribute(attribute, None, 0)
        self._call("C_GetAttributeValue", c_ulong(handle), byref(asked), c_ulong(1))
        buffer = ctypes.create_string_buffer(asked.length)
        asked.value = ctypes.cast(buffer, c_char_p)
        self._call("C_GetAttributeValue", c_ulong(handle), byref(asked), c_ulong(1))
        return buffer.raw

    def key_type(self, label: str) -> int:
        """CKK_RSA or CKK_EC, the same of both halves."""
        types = {self.get(kind, label, KEY_TYPE) for kind in (PUBLIC_KEY, PRIVATE_KEY)}
        assert len(types) == 1
        return int.from_bytes(types.pop(), "little")

    def sign_pss(self, label: str, digest: bytes, hash_name: str) -> bytes:
        """With a salt as long as the digest."""
        of = {"sha256": SHA256, "sha384": SHA384, "sha512": SHA512}[hash_name]
        return self.sign(label, RSA_PKCS_PSS, digest, b"".join(map(_plain, (*of, len(digest)))))

    def sign(self, label: str, mechanism: int, data: bytes, parameter: bytes = b"") -> bytes:
        handle = self.find(PRIVATE_KEY, label)
        asked = _Attribute(mechanism, parameter or None, len(parameter))
        assert handle is not None, f"no key '{label}'"
        self._call("C_SignInit", byref(asked), c_ulong(handle))
        signature, length = ctypes.create_string_buffer(512), c_ulong(512)
        self._call("C_Sign", data, c_ulong(len(data)), signature, byref(length))
        return signature.raw[: length.value]

    def generate_ec(self, label: str) -> None:
        self._generate(EC_KEY_PAIR_GEN, {EC_PARAMS: P256}, label)

    def generate_rsa(self, label: str) -> None:
        numbers: Template = {MODULUS_BITS: 2048, PUBLIC_EXPONENT: b"\x01\x00\x01"}
        self._generate(RSA_PKCS_KEY_PAIR_GEN, numbers, label)

    def _generate(self, mechanism: int, numbers: Template, label: str) -> None:
        self.delete(label)
        name: Template = {LABEL: label.encode()}
        public = numbers | {ENCRYPT: True, PRIVATE: False, TOKEN: True, VERIFY: True} | name
        private: Template = {DECRYPT: True, PRIVATE: True, SENSITIVE: True, SIGN: True, TOKEN: True}
        private |= name
        made, handles = _Attribute(mechanism, None, 0), (c_ulong(), c_ulong())
        templates = [(_template(each), c_ulong(len(each))) for each in (public, private)]
        self._call(
            "C_GenerateKeyPair", byref(made), *templates[0], *templates[1], *map(byref, handles)
        )

    def delete(self, label: str) -> None:
        for kind in (PUBLIC_KEY, PRIVATE_KEY):
            if (handle := self.find(kind, label)) is not None:
                self._call("C_DestroyObject", c_ulong(handle))

    def rename(self, source: str, to: str) -> None:
        """As it ends the rotation of a key: the old one is deleted, the new one gets its name."""
        self.delete(to)
        for kind in (PUBLIC_KEY, PRIVATE_KEY):
            handle = self.find(kind, source)
            assert handle is not None, f"no key '{source}'"
            name = _template({LABEL: to.encode()})
            self._call("C_SetAttributeValue", c_ulong(handle), name, c_ulong(1))


@contextlib.contextmanager
def service(token: str, pin: str) -> Iterator[Service]:
    """Needs TPM2_PKCS11_STORE and TPM2_PKCS11_TCTI in the environment of this process."""
    library = ctypes.CDLL(str(module()))
    _check(
        "C_Initialize", library.C_Initialize(byref(_InitializeArgs(flags=OS_LOCKING_NO_THREADS)))
    )
    try:
        session = c_ulong()
        flags = c_ulong(SERIAL_RW)
        slot = c_ulong(_slot(library, token))
        _check("C_OpenSession", library.C_OpenSession(slot, flags, None, None, byref(session)))
        secret = pin.encode()
        rv = library.C_Login(session, c_ulong(USER), secret, c_ulong(len(secret)))
        _check("C_Login", rv)
        yield Service(library, session)
    finally:
        library.C_Finalize(None)


def _slot(library: Any, token: str) -> int:
    slots, count = (c_ulong * 16)(), c_ulong(16)
    _check("C_GetSlotList", library.C_GetSlotList(1, slots, byref(count)))
    for slot in slots[: count.value]:
        info = ctypes.create_string_buffer(512)  # CK_TOKEN_INFO begins with char label[32]
        _check("C_GetTokenInfo", library.C_GetTokenInfo(c_ulong(slot), info))
        if info.raw[:32].decode().strip() == token:
            return int(slot)
    raise LookupError(f"no token '{token}'")


def _check(function: str, rv: int) -> None:
    if rv:
        raise CkError(function, rv)
