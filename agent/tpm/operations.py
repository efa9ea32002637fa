"""What OpenSSL may ask of a key in the TPM through our provider; three operations (provider(7)):

- the *decoder* turns a reference (a few lines of PEM, no secret) into a key, so that
  SSLContext.load_cert_chain() can be given one;
- the *key management* shows the public half, which OpenSSL compares with the certificate, and
  refuses to export a private one, so that OpenSSL must come to us to sign;
- the *signature* (signature.py) hashes what is to be signed and has the TPM sign the digest.
"""

import base64
import ctypes
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.tpm import libcrypto as lib
from agent.tpm import openssl as o

GROUPS = {"secp256r1": "prime256v1"}  # OpenSSL's name, where it is not the SEC's
STRENGTHS = ((15360, 256), (7680, 192), (4096, 152), (3072, 128), (2048, 112), (1024, 80))
SIGNATURES = {"RSA": "RSA", "EC": "ECDSA"}  # the signature's name, by the key's

PUBLIC_RSA = {"n": o.ParamType.UNSIGNED_INTEGER, "e": o.ParamType.UNSIGNED_INTEGER}
PUBLIC_EC = {"group": o.ParamType.UTF8_STRING, "pub": o.ParamType.OCTET_STRING}
PUBLIC = PUBLIC_RSA | PUBLIC_EC
MEASURES = {
    "bits": o.ParamType.INTEGER,
    "max-size": o.ParamType.INTEGER,
    "security-bits": o.ParamType.INTEGER,
    "default-digest": o.ParamType.UTF8_STRING,
    "point-format": o.ParamType.UTF8_STRING,
}
LABEL = b"TPM2CLOUD KEY"
REFERENCE = re.compile(rb"-----BEGIN %b-----\n([A-Za-z0-9+/=]+)\n-----END" % LABEL)
REFERENCE_SIZE = 256  # bytes; more than a reference ever has


class Signer(Protocol):
    """What can sign with a key that nobody can take out."""

    @property
    def public_key(self) -> RSAPublicKey | EllipticCurvePublicKey: ...

    def sign(self, digest: bytes, hash_name: str, *, pss: bool = False) -> bytes:
        """RSA: PKCS #1 v1.5, or PSS with a salt as long as the digest, big-endian, as long as the
        modulus. ECC: DER (RFC 3279, 2.2.3). `hash_name`: "sha256", "sha384" or "sha512"."""
        ...


class Key:
    """A key, what it says of itself to OpenSSL, and what went wrong with it in this thread."""

    def __init__(self, signer: Signer) -> None:
        self.signer = signer
        self.kind = "RSA" if isinstance(signer.public_key, RSAPublicKey) else "EC"
        self.public = _public(signer.public_key)
        self.parameters = self.public | _measures(signer.public_key)
        self.max_size = int(self.parameters["max-size"])
        self._failure = threading.local()

    @property
    def error(self) -> BaseException | None:
        found: BaseException | None = getattr(self._failure, "error", None)
        return found

    @error.setter
    def error(self, error: BaseException | None) -> None:
        self._failure.error = error


# OpenSSL has one default library context in a process, and knows a key of ours by its number.
keys: dict[int, Key] = {}


def _public(key: RSAPublicKey | EllipticCurvePublicKey) -> dict[str, o.Value]:
    """EVP_PKEY-RSA(7), EVP_PKEY-EC(7)."""
    if isinstance(key, RSAPublicKey):
        numbers = key.public_numbers()
        return {"n": numbers.n, "e": numbers.e}
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return {"group": GROUPS.get(key.curve.name, key.curve.name), "pub": point}


def _measures(key: RSAPublicKey | EllipticCurvePublicKey) -> dict[str, o.Value]:
    bits, size = key.key_size, (key.key_size + 7) // 8
    common: dict[str, o.Value] = {"bits": bits, "default-digest": "SHA256"}
    if isinstance(key, RSAPublicKey):  # NIST SP 800-57 part 1, table 2; for 4096 as OpenSSL has it
        strength = next((strength for least, strength in STRENGTHS if bits >= least), 0)
        return common | {"max-size": size, "security-bits": strength}
    body = 2 * (2 + 1 + size)  # two INTEGERs: tag and length, a zero before a high bit, the number
    longest = (2 if body < 128 else 3) + body
    return common | {
        "max-size": longest,
        "security-bits": bits // 2,
        "point-format": "uncompressed",
    }


class KeyData(ctypes.Structure):
    """What OpenSSL holds for a key: on the C heap, as is signature.Context."""

    _fields_ = (("id", ctypes.c_uint64),)


def callback(result: type[Any] | None, python: Callable[..., Any], *arguments: type[Any]) -> int:
    """A C function. No exception passes through C: this thread's keys keep it (Key.error)."""

    def guarded(*values: Any) -> Any:
        try:
            return python(*values)
        except BaseException as e:
            for key in keys.values():
                key.error = e
            return o.FAILED

    return lib.function(result, guarded, *arguments)


# --- key management: provider-keymgmt(7) ----------------------------------------------------------


def keymgmt(kind: str) -> int:
    """The OSSL_DISPATCH array for keys of a kind, "RSA" or "EC"."""
    n, pointer = o.Keymgmt, o.POINTER
    gettable, exportable = lib.descriptors(PUBLIC | MEASURES), lib.descriptors(PUBLIC)
    signature = lib.forever(ctypes.create_string_buffer(SIGNATURES[kind].encode()))

    def name(operation: int) -> int | None:
        return signature if operation == o.Operation.SIGNATURE else None

    def types(selection: int) -> int | None:
        return None if selection & o.Select.PRIVATE_KEY else exportable

    return lib.dispatch(
        {
            n.LOAD: callback(pointer, _load, pointer, o.SIZE),
            n.FREE: lib.free(),
            n.GET_PARAMS: callback(o.INT, _get_params, pointer, o.PARAMS),
            n.GETTABLE_PARAMS: callback(pointer, lambda provider: gettable, pointer),
            n.QUERY_OPERATION_NAME: callback(pointer, name, o.INT),
            # A public key, its parameters, and, in the TPM, the private key: all is there.
            n.HAS: callback(o.INT, lambda keydata, selection: o.OK, pointer, o.INT),
            n.EXPORT: callback(o.INT, _export, pointer, o.INT, pointer, pointer),
            n.EXPORT_TYPES: callback(pointer, types, o.INT),
        }
    )


def _load(reference: int, size: int) -> int:
    if size != ctypes.sizeof(KeyData):
        return o.FAILED
    address = lib.memory(size)
    ctypes.memmove(address, reference, size)
    return address


def _get_params(keydata: int, params: Any) -> int:
    known = _key(keydata).parameters
    asked = [(param, known[name]) for name, param in o.each(params) if name in known]
    return int(all(o.answer(param, value) for param, value in asked))


def _export(keydata: int, selection: int, receive: int, argument: int) -> int:
    if selection & o.Select.PRIVATE_KEY or not selection & o.Select.PUBLIC_KEY:
        return o.FAILED
    public = o.Parameters(_key(keydata).public)
    return int(o.PARAMS_CALLBACK(receive)(public.array, argument))


def _key(keydata: int) -> Key:
    return keys[KeyData.from_address(keydata).id]


# --- decoder: provider-decoder(7) -----------------------------------------------------------------


def reference(number: int) -> bytes:
    """The PEM text by which load_cert_chain() finds the key of this number."""
    body = base64.b64encode(bytes(KeyData(number)))
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (LABEL, body, LABEL)


def decoder(kind: str, read: Callable[..., int], libcrypto: lib.Libcrypto) -> int:
    """The OSSL_DISPATCH array that finds keys of a kind; `read`: the core's BIO_read_ex.

    Whenever a public key is parsed, OpenSSL makes and frees contexts of all decoders: ours are
    copies of the provider's own context, made and freed in C.
    """
    n, pointer = o.Decoder, o.POINTER

    def decode(
        _: int, bio: int, selection: int, receive: int, argument: int, *password: int
    ) -> int:
        found = REFERENCE.match(b"".join(_begin(bio, read)))
        if found is None:
            return o.OK  # an ordinary key: the next decoder's
        keydata = base64.b64decode(found[1])
        return _deliver(kind, keydata, receive, argument)

    decoding = (pointer, pointer, o.INT, pointer, pointer, pointer, pointer)
    exporting = (pointer, pointer, o.SIZE, pointer, pointer)
    return lib.dispatch(
        {
            n.NEWCTX: libcrypto.address("OPENSSL_sk_dup"),
            n.FREECTX: libcrypto.address("OPENSSL_sk_free"),
            n.DECODE: callback(o.INT, decode, *decoding),
            # Never into the hands of another provider.
            n.EXPORT_OBJECT: callback(o.INT, lambda *reference: o.FAILED, *exporting),
        }
    )


def _begin(bio: int, read: Callable[..., int]) -> Iterator[bytes]:
    """The first bytes of what is to be decoded."""
    buffer, got, left = ctypes.create_string_buffer(REFERENCE_SIZE), o.SIZE(), REFERENCE_SIZE
    while left and read(bio, buffer, left, ctypes.byref(got)) == o.OK and got.value:
        yield buffer.raw[: got.value]
        left -= got.value


def _deliver(kind: str, keydata: bytes, receive: int, argument: int) -> int:
    key = keys.get(KeyData.from_buffer_copy(keydata).id)
    if key is None or key.kind != kind:
        return o.OK
    found = o.Parameters({"type": o.OBJECT_PKEY, "data-type": kind, "reference": keydata})
    return int(o.PARAMS_CALLBACK(receive)(found.array, argument))
