"""From an EK certificate to a maker's root, by OpenSSL (X509_verify_cert(3), RFC 5280, 6.1).

Not by the verifier of `cryptography`, which is made for the web's certificates: it refuses what ST
(critical certificatePolicies), AMD (GeneralizedTime before 2050), Nuvoton and Intel (see x509_der)
have put into millions of TPMs. OpenSSL checks signatures over the bytes as they came, dates, CA
and path length, key usage, name constraints, and refuses critical extensions that it does not know;
keys of less than 112 bits of security and signatures over SHA-1 are refused, too.
"""

import _ssl
import ctypes
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

from agent.x509_der import Issued

OK, SECURITY_LEVEL, DEEPEST = 1, 2, 10  # 2: 112 bits; X509_VERIFY_PARAM_set_auth_level(3)
POINTER = ctypes.c_void_p

# X509_STORE_CTX_get_error(3)
NOT_YET_VALID, EXPIRED = 9, 10
NO_ISSUER = {2, 18, 19, 20, 21}  # none found, or it is not trusted


@dataclass(frozen=True)
class Broken(Exception):
    """No path. `code`: X509_V_ERR_...; `why`: OpenSSL's words; `path`: the certificates that it
    tried, leaf first; `depth`: at which of them it stopped (0: the leaf)."""

    code: int
    why: str
    path: Sequence[Issued]
    depth: int

    @property
    def at(self) -> Issued:
        return self.path[min(self.depth, len(self.path) - 1)]

    @property
    def no_issuer(self) -> bool:
        return self.code in NO_ISSUER


def find(leaf: Issued, roots: Sequence[Issued], others: Sequence[Issued]) -> list[Issued]:
    """Leaf first, one of the `roots` last; now. Only `roots` are trusted, and each is a root.

    Every root is tried alone: makers have several of the same name. Raises Broken: of all that was
    tried, that which came furthest. Raises ValueError if there is no root, or OpenSSL cannot read
    one of the certificates.
    """
    with ExitStack() as stack:
        tried = _Tries(leaf, [*roots, *others], stack)
        failures = []
        for root in roots:
            try:
                return tried.path(root)
            except Broken as e:
                failures.append(e)
    if not failures:
        raise ValueError("there is no root")
    raise min(failures, key=lambda e: (e.no_issuer, -len(e.path)))


class _Tries:
    """What OpenSSL is given for all of them; freed with the `stack`."""

    def __init__(self, leaf: Issued, known: Iterable[Issued], stack: ExitStack) -> None:
        self._leaf = leaf
        self._known = {each.der: each for each in (leaf, *known)}
        self._loaded = {der: _load(der, stack) for der in self._known}
        self._others = _made("OPENSSL_sk_new_null", "OPENSSL_sk_free", stack)
        for certificate in self._loaded.values():
            _call("OPENSSL_sk_push", self._others, certificate)

    def path(self, root: Issued) -> list[Issued]:
        """Up to this root. Raises Broken."""
        with ExitStack() as stack:
            store = _made("X509_STORE_new", "X509_STORE_free", stack)
            _call("X509_STORE_add_cert", store, self._loaded[root.der])
            context = _made("X509_STORE_CTX_new", "X509_STORE_CTX_free", stack)
            leaf = self._loaded[self._leaf.der]
            _call("X509_STORE_CTX_init", context, store, leaf, self._others)
            parameters = POINTER(_function("X509_STORE_CTX_get0_param", POINTER)(context))
            _function("X509_VERIFY_PARAM_set_auth_level", None)(parameters, SECURITY_LEVEL)
            _function("X509_VERIFY_PARAM_set_depth", None)(parameters, DEEPEST)
            good = _function("X509_verify_cert")(context) == OK
            code = _function("X509_STORE_CTX_get_error")(context)
            if good and not code:
                return self._tried(context)
            depth = _function("X509_STORE_CTX_get_error_depth")(context)
            raise Broken(code, _words(code), self._tried(context), depth)

    def _tried(self, context: POINTER) -> list[Issued]:
        chain = _function("X509_STORE_CTX_get0_chain", POINTER)(context)
        if not chain:
            return [self._leaf]
        count = _function("OPENSSL_sk_num")(POINTER(chain))
        at = _function("OPENSSL_sk_value", POINTER)
        return [self._known[_der(POINTER(at(POINTER(chain), n)))] for n in range(count)]


# --- OpenSSL ---


@cache
def _function(name: str, result: Any = ctypes.c_int) -> Any:
    """Of the libcrypto that Python's `ssl` runs on: looked up from its dependencies. Pointers go
    in as c_void_p (a bare number would be cut to 32 bits), and come out as numbers, or None."""
    found = ctypes.CDLL(getattr(_ssl, "__file__", None))[name]
    found.restype = result
    return found


def _call(name: str, *arguments: Any) -> None:
    """One that says 1, or a count, if it went well."""
    if _function(name)(*arguments) <= 0:
        raise MemoryError(f"OpenSSL: {name}")


def _made(make: str, free: str, stack: ExitStack) -> POINTER:
    return _kept(_function(make, POINTER)(), free, stack)


def _kept(address: int | None, free: str, stack: ExitStack) -> POINTER:
    if not address:
        raise MemoryError(f"OpenSSL: nothing to {free}")
    found = POINTER(address)
    stack.callback(_function(free, None), found)
    return found


def _load(der: bytes, stack: ExitStack) -> POINTER:
    start, length = ctypes.c_char_p(der), ctypes.c_long(len(der))
    address = _function("d2i_X509", POINTER)(None, ctypes.byref(start), length)
    if not address:
        _function("ERR_clear_error", None)()
        raise ValueError("OpenSSL cannot read it")
    return _kept(address, "X509_free", stack)


def _der(certificate: POINTER) -> bytes:
    """The bytes that it was loaded from: OpenSSL keeps them."""
    size = _function("i2d_X509")(certificate, None)
    buffer = ctypes.create_string_buffer(size)
    end = POINTER(ctypes.addressof(buffer))
    _function("i2d_X509")(certificate, ctypes.byref(end))
    return buffer.raw


def _words(code: int) -> str:
    return str(_function("X509_verify_cert_error_string", ctypes.c_char_p)(code).decode())
