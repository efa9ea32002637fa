"""The provider's third operation: signatures by the TPM (provider-signature(7))."""

import ctypes
import hashlib
import threading
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from agent.errors import TpmPssSalt
from agent.tpm import libcrypto as lib
from agent.tpm import openssl as o
from agent.tpm.operations import KeyData, Signer, callback, keys

HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
PKCS1_PADDING, PSS_PADDING = (1, "pkcs1"), (6, "pss")  # RSA_PKCS1_PADDING, RSA_PKCS1_PSS_PADDING
SALT_DIGEST = (-1, "digest")  # RSA_PSS_SALTLEN_DIGEST
SETTABLE = {
    "digest": o.ParamType.UTF8_STRING,
    "mgf1-digest": o.ParamType.UTF8_STRING,
    "pad-mode": o.ParamType.UTF8_STRING,
    "saltlen": o.ParamType.UTF8_STRING,
}

_signing = threading.RLock()  # an ESAPI context is not thread-safe, and keys may share one


class Digest(bytes):
    """What a key is given to sign, which knows what it is of: for one that wants to see that."""

    message: bytes


class _Context(ctypes.Structure):
    """What OpenSSL holds for a signature to be made."""

    _fields_ = (("id", ctypes.c_uint64), ("pss", ctypes.c_bool), ("hash", ctypes.c_char * 8))


def dispatch() -> int:
    """The OSSL_DISPATCH array; signs in one go, as TLS does."""
    n, pointer, size = o.Signature, o.POINTER, o.SIZE
    settable = lib.descriptors(SETTABLE)
    signing = (pointer, pointer, o.OUT_SIZE, size, pointer, size)
    return lib.dispatch(
        {
            n.NEWCTX: callback(pointer, _newctx, pointer, o.STRING),
            n.DIGEST_SIGN_INIT: callback(o.INT, _init, pointer, o.STRING, pointer, o.PARAMS),
            n.DIGEST_SIGN: callback(o.INT, _digest_sign, *signing),
            n.FREECTX: lib.free(),
            n.SET_CTX_PARAMS: callback(o.INT, _set_params, pointer, o.PARAMS),
            n.SETTABLE_CTX_PARAMS: callback(pointer, lambda c, p: settable, pointer, pointer),
        }
    )


def _newctx(provider: int, properties: bytes | None) -> int:
    return lib.memory(ctypes.sizeof(_Context))


def _init(address: int, digest: bytes | None, keydata: int | None, params: Any) -> int:
    context = _Context.from_address(address)
    if keydata:
        context.id = KeyData.from_address(keydata).id
    if digest and not _set(context, "digest", digest.decode()):
        return o.FAILED
    return _set_params(address, params)


def _set_params(address: int, params: Any) -> int:
    context = _Context.from_address(address)
    return int(all(_set(context, name, o.read(param)) for name, param in o.each(params)))


def _set(context: _Context, name: str, value: o.Value) -> bool:
    """Whether this is something the TPM can do (and then it will); what it cannot is refused,
    not done otherwise. So is what only old TLS asks for: SHA-1 and MD5."""
    match name:
        case "digest":
            context.hash = (wanted := _hash_name(value)).encode()
            return wanted in HASHES
        case "mgf1-digest":
            return _hash_name(value) == str(context.hash.decode())
        case "pad-mode":
            context.pss = value in PSS_PADDING
            return value in PKCS1_PADDING + PSS_PADDING
        case "saltlen":
            size = HASHES[context.hash.decode()].digest_size
            return value in (*SALT_DIGEST, size, str(size))
    return True


def _hash_name(value: o.Value) -> str:
    """OpenSSL's "SHA256", "SHA2-256" or "SHA-256" as Python has it: "sha256"."""
    return str(value).lower().replace("sha2-", "sha").replace("-", "")


def _digest_sign(address: int, out: int, length: Any, room: int, data: int, size: int) -> int:
    context = _Context.from_address(address)
    key = keys[context.id]
    if not out:  # OpenSSL asks how long it can get
        length[0] = key.max_size
        return o.OK
    key.error = None
    try:
        made = _sign(key.signer, ctypes.string_at(data, size), context)
    except BaseException as e:
        key.error = e
        return o.FAILED
    if len(made) > room:
        return o.FAILED
    ctypes.memmove(out, made, len(made))
    length[0] = len(made)
    return o.OK


def _sign(signer: Signer, data: bytes, context: _Context) -> bytes:
    name = context.hash.decode()
    digest = Digest(hashlib.new(name, data).digest())
    digest.message = data
    with _signing:
        made = signer.sign(digest, name, pss=context.pss)
    if context.pss and isinstance(signer.public_key, RSAPublicKey):
        _check_salt(signer.public_key, made, digest, HASHES[name])
    return made


def _check_salt(
    key: RSAPublicKey, made: bytes, digest: bytes, algorithm: hashes.HashAlgorithm
) -> None:
    """TLS wants a salt as long as the digest (RFC 8446, 4.2.3); a TPM of an older revision of the
    specification may take the longest that fits, and the server would only say no."""
    padding = PSS(MGF1(algorithm), PSS.DIGEST_LENGTH)
    try:
        key.verify(made, digest, padding, Prehashed(algorithm))
    except InvalidSignature as e:
        raise TpmPssSalt(
            "cannot sign for TLS: the salt of the TPM's RSA-PSS signature is not as long as the "
            "digest"
        ) from e
