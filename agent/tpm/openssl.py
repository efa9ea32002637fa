"""The part of OpenSSL 3 that a provider meets, in ctypes: numbers, structures, OSSL_PARAM.

Names and numbers are those of <openssl/core.h>, <openssl/core_dispatch.h> and
<openssl/core_names.h>, an ABI that OpenSSL promises to keep: provider(7), openssl-core.h(7),
OSSL_PARAM(3).
"""

import ctypes
import sys
from collections.abc import Iterator, Mapping
from enum import IntEnum, IntFlag
from typing import Any

OK, FAILED = 1, 0
POINTER, SIZE, INT, STRING = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_char_p
OUT_POINTER, OUT_SIZE = ctypes.POINTER(POINTER), ctypes.POINTER(SIZE)
BIO_READ_EX = 42  # OSSL_FUNC_BIO_READ_EX: what the core offers a provider
BIO_READ_EX_TYPE = ctypes.CFUNCTYPE(INT, POINTER, POINTER, SIZE, OUT_SIZE)

Value = int | str | bytes


class Provider(IntEnum):
    """OSSL_FUNC_PROVIDER_*, provider-base(7)."""

    QUERY_OPERATION = 1027


class Operation(IntEnum):
    """OSSL_OP_*, provider(7)."""

    KEYMGMT = 10
    SIGNATURE = 12
    DECODER = 21


class Keymgmt(IntEnum):
    """OSSL_FUNC_KEYMGMT_*, provider-keymgmt(7)."""

    LOAD = 8
    FREE = 10
    GET_PARAMS = 11
    GETTABLE_PARAMS = 12
    QUERY_OPERATION_NAME = 20
    HAS = 21
    EXPORT = 42
    EXPORT_TYPES = 43


class Select(IntFlag):
    """OSSL_KEYMGMT_SELECT_*: the part of a key that is meant."""

    PRIVATE_KEY = 0x01
    PUBLIC_KEY = 0x02


class Signature(IntEnum):
    """OSSL_FUNC_SIGNATURE_*, provider-signature(7)."""

    NEWCTX = 1
    DIGEST_SIGN_INIT = 8
    DIGEST_SIGN = 11
    FREECTX = 16
    SET_CTX_PARAMS = 20
    SETTABLE_CTX_PARAMS = 21


class Decoder(IntEnum):
    """OSSL_FUNC_DECODER_*, provider-decoder(7)."""

    NEWCTX = 1
    FREECTX = 2
    DECODE = 11
    EXPORT_OBJECT = 20


class ParamType(IntEnum):
    """OSSL_PARAM_*, OSSL_PARAM(3)."""

    INTEGER = 1
    UNSIGNED_INTEGER = 2
    UTF8_STRING = 4
    OCTET_STRING = 5


OBJECT_PKEY = 2  # OSSL_OBJECT_PKEY, provider-object(7)


class Param(ctypes.Structure):
    """OSSL_PARAM."""

    _fields_ = (
        ("key", STRING),
        ("data_type", ctypes.c_uint),
        ("data", POINTER),
        ("data_size", SIZE),
        ("return_size", SIZE),
    )


PARAMS = ctypes.POINTER(Param)
PARAMS_CALLBACK = ctypes.CFUNCTYPE(INT, PARAMS, POINTER)  # OSSL_CALLBACK


class Dispatch(ctypes.Structure):
    """OSSL_DISPATCH."""

    _fields_ = (("function_id", INT), ("function", POINTER))


class Algorithm(ctypes.Structure):
    """OSSL_ALGORITHM."""

    _fields_ = (
        ("names", STRING),
        ("properties", STRING),
        ("implementation", POINTER),
        ("description", STRING),
    )


DISPATCH = ctypes.POINTER(Dispatch)


# --- OSSL_PARAM -----------------------------------------------------------------------------------


class Parameters:
    """An OSSL_PARAM array with values, for the time of a call."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._buffers: list[Any] = []
        rows = [self._row(name, value) for name, value in values.items()]
        self.array = (Param * (len(rows) + 1))(*rows)

    def _row(self, name: str, value: Value) -> Param:
        data = octets(value)
        buffer = ctypes.create_string_buffer(data, len(data) + 1)
        self._buffers.append(buffer)
        address = ctypes.addressof(buffer)
        return Param(name.encode(), param_type(value), address, len(data), 0)


def param_type(value: Value) -> ParamType:
    if isinstance(value, int):
        return ParamType.UNSIGNED_INTEGER
    return ParamType.UTF8_STRING if isinstance(value, str) else ParamType.OCTET_STRING


def octets(value: Value, size: int = 0) -> bytes:
    """As OSSL_PARAM wants it: integers of any length (at least an int's), in native order."""
    if isinstance(value, int):
        needed = size or max(ctypes.sizeof(INT), (value.bit_length() + 7) // 8)
        return value.to_bytes(needed, sys.byteorder)
    return value.encode() if isinstance(value, str) else value


def each(params: Any) -> Iterator[tuple[str, Param]]:
    """The entries of an OSSL_PARAM array that OpenSSL passed, which may be NULL."""
    at = 0
    while params and params[at].key:
        yield params[at].key.decode(), params[at]
        at += 1


def read(param: Param) -> Value:
    """The value of an entry."""
    raw = ctypes.string_at(param.data, param.data_size) if param.data else b""
    match param.data_type:
        case ParamType.INTEGER | ParamType.UNSIGNED_INTEGER:
            signed = param.data_type == ParamType.INTEGER
            return int.from_bytes(raw, sys.byteorder, signed=signed)
        case ParamType.UTF8_STRING:
            return raw.partition(b"\0")[0].decode()
    return raw


def answer(param: Param, value: Value) -> int:
    """Fill in an entry that OpenSSL asks for; without a buffer, only the size is wanted."""
    data = octets(value, param.data_size if param.data else 0)
    param.return_size = len(data)
    if not param.data:
        return OK
    if len(data) > param.data_size:
        return FAILED
    terminator = b"\0" if isinstance(value, str) and len(data) < param.data_size else b""
    ctypes.memmove(param.data, data + terminator, len(data + terminator))
    return OK
