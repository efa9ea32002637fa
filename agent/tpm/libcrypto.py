"""Python's own libcrypto, and what must outlive the interpreter to be handed to it."""

import _ssl
import ctypes
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from agent.errors import TlsProvider
from agent.tpm.openssl import INT, OK, POINTER, SIZE, STRING, Algorithm, Dispatch, Param, ParamType


def forever(thing: Any) -> int:
    """The address of a ctypes object that is never freed, not even when the interpreter ends:
    OpenSSL's own cleanup runs later still, and so may threads that Python left behind."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    return ctypes.addressof(thing)


def function(result: type[Any] | None, python: Callable[..., Any], *arguments: type[Any]) -> int:
    """A C function that calls `python`, for as long as the process lives."""
    made = ctypes.CFUNCTYPE(result, *arguments)(python)
    forever(made)
    return ctypes.cast(made, POINTER).value or 0


def dispatch(functions: Mapping[int, int]) -> int:
    """An OSSL_DISPATCH array, ended by a zero, of numbers and addresses."""
    rows = [Dispatch(number, address) for number, address in functions.items()]
    return forever((Dispatch * (len(rows) + 1))(*rows))


def algorithms(properties: str, implementations: Mapping[str, int]) -> int:
    """An OSSL_ALGORITHM array of names and addresses of OSSL_DISPATCH arrays."""
    rows = [
        Algorithm(names.encode(), properties.encode(), address, None)
        for names, address in implementations.items()
    ]
    return forever((Algorithm * (len(rows) + 1))(*rows))


def descriptors(types: Mapping[str, ParamType]) -> int:
    """An OSSL_PARAM array that only tells names and types ("gettable", "settable")."""
    rows = [Param(name.encode(), kind, None, 0, 0) for name, kind in types.items()]
    return forever((Param * (len(rows) + 1))(*rows))


def memory(size: int) -> int:
    """Zeroed bytes of the C heap. What OpenSSL is given to free, C's own free() frees (see
    `free`): a callback into Python might come after the interpreter is gone."""
    calloc = ctypes.CDLL(None).calloc
    calloc.restype, calloc.argtypes = POINTER, (SIZE, SIZE)
    address = calloc(1, size)
    if not address:
        raise MemoryError
    return int(address)


def free() -> int:
    """The address of free()."""
    return ctypes.cast(ctypes.CDLL(None).free, POINTER).value or 0


class Libcrypto:
    """The very libcrypto that Python's `ssl` runs on: another copy in this process (that of
    `cryptography`, say) would not do. Public functions of OpenSSL 3 only.

    The interpreter lock is held during its calls (PyDLL): OpenSSL calls us back in some of them,
    and no other thread can then stand between the two locks.
    """

    def __init__(self) -> None:
        """Raises TlsProvider if it is not OpenSSL 3 or newer, or cannot be reached."""
        found = ssl.OPENSSL_VERSION
        if ssl.OPENSSL_VERSION_INFO < (3, 0):
            raise TlsProvider(f"cannot use a TPM key for TLS: Python has '{found}', not OpenSSL 3")
        # Looked up from _ssl's own dependencies; None (built in): from the program's.
        self._library = ctypes.PyDLL(getattr(_ssl, "__file__", None))
        number = self._function("OpenSSL_version_num", ctypes.c_ulong)()
        if number != ssl.OPENSSL_VERSION_NUMBER:
            raise TlsProvider(
                f"cannot use a TPM key for TLS: found OpenSSL {number:#x} beside Python's '{found}'"
            )

    def _function(self, name: str, result: type[Any] | None, *arguments: type[Any]) -> Any:
        try:
            found = self._library[name]
        except AttributeError as e:
            raise TlsProvider(
                f"cannot use a TPM key for TLS: Python's own OpenSSL does not show '{name}'"
            ) from e
        found.restype, found.argtypes = result, arguments
        return found

    def address(self, name: str) -> int:
        """Of a function, to be called from C."""
        return ctypes.cast(self._function(name, None), POINTER).value or 0

    def stack(self, values: Mapping[int, int]) -> int:
        """An OPENSSL_STACK (DEFINE_STACK_OF(3)) with these pointers at these indices, else NULL."""
        push = self._function("OPENSSL_sk_push", INT, POINTER, POINTER)
        stack: int | None = self._function("OPENSSL_sk_new_null", POINTER)()
        for index in range(max(values) + 1):
            if push(stack, values.get(index)) != index + 1:
                raise MemoryError
        return stack or 0

    def load_provider(self, name: str, init: int) -> None:
        """Register and activate a provider of this process beside the default one
        (OSSL_PROVIDER_add_builtin(3)); raises TlsProvider."""
        add = self._function("OSSL_PROVIDER_add_builtin", INT, POINTER, STRING, POINTER)
        load = self._function("OSSL_PROVIDER_try_load", POINTER, POINTER, STRING, INT)
        keep_default = 1
        added = add(None, name.encode(), init) == OK
        if not added or not load(None, name.encode(), keep_default):
            raise TlsProvider(f"cannot load the provider '{name}' into OpenSSL: {self.errors()}")

    def default_provider_of(self, algorithm: str) -> str:
        """The provider that serves keys of `algorithm` ("RSA", "EC") when nobody asks for one."""
        fetch = self._function("EVP_KEYMGMT_fetch", POINTER, POINTER, STRING, STRING)
        provider = self._function("EVP_KEYMGMT_get0_provider", POINTER, POINTER)
        name = self._function("OSSL_PROVIDER_get0_name", STRING, POINTER)
        release = self._function("EVP_KEYMGMT_free", None, POINTER)
        if not (fetched := fetch(None, algorithm.encode(), None)):
            raise TlsProvider(f"cannot find '{algorithm}' keys in OpenSSL: {self.errors()}")
        found: bytes = name(provider(fetched))
        release(fetched)
        return found.decode()

    def errors(self) -> str:
        """This thread's queue of errors, emptied, in OpenSSL's words."""
        get = self._function("ERR_get_error", ctypes.c_ulong)
        say = self._function("ERR_error_string_n", None, ctypes.c_ulong, STRING, SIZE)
        words, buffer = [], ctypes.create_string_buffer(256)
        while code := get():
            say(code, buffer, len(buffer))
            words.append(buffer.value.decode())
        return "; ".join(words) or "it does not say why"
