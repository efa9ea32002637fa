"""TLS with a client key that never leaves the TPM, for Python's `ssl` and all that stands on it.

A small OpenSSL 3 provider, in this process only: no compiled code, no OPENSSL_CONF, no file, no
resource manager. Whether the server is who it should be stays the business of OpenSSL and `ssl`.
"""

import contextlib
import functools
import os
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.errors import TlsCertificateUnusable, TlsProvider
from agent.tpm import libcrypto as lib
from agent.tpm import openssl as o
from agent.tpm import operations, signature
from agent.tpm.operations import Key, Signer

NAME = "tpm2cloud"  # OpenSSL may ask providers in the order of names: this comes after "default"
KINDS = ("RSA", "EC")
# What OpenSSL says of a certificate for another key, of the same kind and of the other.
FOREIGN = ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED")

_lock = threading.Lock()


class TlsKey:
    """A client key for TLS 1.2 and 1.3: RSA (one that signs will do), ECC on P-256 or P-384.

    `signer` is used in whatever thread the handshake runs in, one signature at a time over all
    keys; it must work for as long as a context that holds the key may connect. Keys, like the
    provider, stay until the process ends.
    """

    def __init__(self, signer: Signer) -> None:
        """Raises TlsProvider if this Python's OpenSSL is not one that takes our provider."""
        self._key = Key(signer)
        with _lock:
            self._number = len(operations.keys) + 1
            operations.keys[self._number] = self._key
            try:
                _register()
            except TlsProvider:
                self.raise_if_failed()
                raise

    def load_into(self, context: ssl.SSLContext, chain: Path) -> None:
        """Have `context` show a certificate, and prove it with this key.

        `chain`: PEM, the key's own certificate first, then those above it. Raises
        TlsCertificateUnusable if it cannot be read, or belongs to another key.
        """
        self._key.error = None
        with _as_file(operations.reference(self._number)) as reference:
            try:
                context.load_cert_chain(chain, reference)
            except OSError as e:  # ssl.SSLError is one, too
                self.raise_if_failed()
                foreign = getattr(e, "reason", None) in FOREIGN
                why = "it belongs to another key" if foreign else e.strerror
                raise TlsCertificateUnusable(
                    f"cannot use the certificate in '{chain}' with the key in the TPM: {why}",
                    path=chain,
                ) from e

    @contextlib.contextmanager
    def as_file(self) -> Iterator[str]:
        """The path of a file that load_cert_chain() takes for a private key, for the length of the
        `with`: for a library that makes its contexts by itself. No secret is in it."""
        with _as_file(operations.reference(self._number)) as reference:
            yield reference

    @property
    def error(self) -> BaseException | None:
        """What this thread's last signature with this key raised (a TpmError, mostly), or None."""
        return self._key.error

    def raise_if_failed(self) -> None:
        """To be called when a connection failed: raises `error`, once, if there is one.

        No exception passes through OpenSSL, so `ssl` and `requests` know only "EVP lib".
        """
        if (error := self._key.error) is not None:
            self._key.error = None
            raise error


@contextlib.contextmanager
def _as_file(text: bytes) -> Iterator[str]:
    """A path to `text` in memory: nothing is left behind, however this process ends."""
    fd = os.memfd_create(NAME)
    try:
        os.write(fd, text)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


@functools.cache
def _register() -> None:
    """At the first key, not at import."""
    libcrypto = lib.Libcrypto()
    init = functools.partial(_init, libcrypto)
    arguments = (o.POINTER, o.DISPATCH, o.OUT_POINTER, o.OUT_POINTER)
    libcrypto.load_provider(NAME, operations.callback(o.INT, init, *arguments))
    for kind in KINDS:
        if libcrypto.default_provider_of(kind) == NAME:
            raise TlsProvider(
                f"cannot use a TPM key for TLS: OpenSSL would take all {kind} keys for the TPM's"
            )


def _init(libcrypto: lib.Libcrypto, _: int, core: Any, functions: Any, context: Any) -> int:
    """OSSL_provider_init_fn, provider-base(7). There is no teardown: OpenSSL's cleanup comes after
    the interpreter is gone.

    Every fetch of any algorithm in this process asks us for ours, in whatever thread and however
    late, so no Python must answer: the provider's context is a stack (DEFINE_STACK_OF(3)) with our
    tables at their operations' numbers, and the query is libcrypto's look-up in it, which does not
    touch the third argument (`no_cache`, 0 unless set).
    """
    read = next(row.function for row in _rows(core) if row.function_id == o.BIO_READ_EX)
    context[0] = libcrypto.stack(_algorithms(libcrypto, o.BIO_READ_EX_TYPE(read)))
    query = libcrypto.address("OPENSSL_sk_value")
    functions[0] = lib.dispatch({o.Provider.QUERY_OPERATION: query})
    return o.OK


def _rows(dispatch: Any) -> Iterator[o.Dispatch]:
    at = 0
    while dispatch[at].function_id:
        yield dispatch[at]
        at += 1


def _algorithms(libcrypto: lib.Libcrypto, read: Any) -> dict[int, int]:
    properties = f"provider={NAME}"
    managers = {kind: operations.keymgmt(kind) for kind in KINDS}
    signatures = {operations.SIGNATURES[kind]: signature.dispatch() for kind in KINDS}
    decoders = {kind: operations.decoder(kind, read, libcrypto) for kind in KINDS}
    return {
        o.Operation.KEYMGMT: lib.algorithms(properties, managers),
        o.Operation.SIGNATURE: lib.algorithms(properties, signatures),
        o.Operation.DECODER: lib.algorithms(f"{properties},input=pem", decoders),
    }
