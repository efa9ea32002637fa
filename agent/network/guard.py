"""What the process with the TPM signs for the one with the network: a login, and nothing else.

So a worker in a stranger's hands gets no certificate request, no quote and no token for elsewhere
signed. Each judge serves one connection, with one key: the one of this very login.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import new
from typing import Any, Protocol
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

TIMES = 4  # signatures within one call: a login, over connections that were lost
SLACK = 60  # seconds between two looks at the clock
SIZES = {"sha256": 32, "sha384": 48, "sha512": 64}  # bytes
# RFC 8446, 4.4.3: then comes the hash of the handshake.
TLS_1_3 = b" " * 64 + b"TLS 1.3, client CertificateVerify\0"
# RFC 5246, 7.3 and 7.4.8: all messages of a handshake, up to the client's key exchange.
# ClientHello, ServerHello, Certificate, CertificateStatus (RFC 6066, 8), ServerKeyExchange,
# CertificateRequest, ServerHelloDone; Certificate, ClientKeyExchange.
TLS_1_2 = re.compile(rb"\x01\x02\x0b\x16?\x0c?\x0d\x0e\x0b\x10")


class Denied(Exception):
    """What is to be signed is no login."""


class Signs(Protocol):
    """agent.tpm.operations.Signer."""

    @property
    def public_key(self) -> Any: ...

    def sign(self, digest: bytes, hash_name: str, *, pss: bool = False) -> bytes: ...


class Judge(Protocol):
    def sign(self, frame: dict[str, Any]) -> bytes:
        """What the frame asks for. Raises Denied, and what the key does."""
        ...


class NoKey:
    """For who logs in to nobody."""

    def sign(self, frame: dict[str, Any]) -> bytes:
        raise Denied("there is no key in this")


@dataclass(frozen=True)
class Tls:
    """A TLS client's CertificateVerify, by this key. The message comes whole, not as a digest that
    could be anything's."""

    signer: Signs

    def sign(self, frame: dict[str, Any]) -> bytes:
        message, name, pss = frame.get("sign"), frame.get("hash"), frame.get("pss") is True
        if not (isinstance(message, bytes) and isinstance(name, str) and name in SIZES):
            raise Denied("that is no handshake")
        if not (is_tls_1_3(message) or is_tls_1_2(message)):
            raise Denied("that is no handshake")
        rsa = isinstance(self.signer.public_key, RSAPublicKey)
        return self.signer.sign(new(name, message).digest(), name, pss=pss and rsa)


def is_tls_1_3(message: bytes) -> bool:
    """What a client signs in TLS 1.3; the suites' hashes are SHA-256 and SHA-384."""
    return message.startswith(TLS_1_3) and len(message) - len(TLS_1_3) in (32, 48)


def is_tls_1_2(message: bytes) -> bool:
    """What a client signs in TLS 1.2: its handshake, whole."""
    kinds, at = bytearray(), 0
    while at + 4 <= len(message):
        kinds.append(message[at])
        at += 4 + int.from_bytes(message[at + 1 : at + 4], "big")
    return at == len(message) and TLS_1_2.fullmatch(kinds) is not None


@dataclass(frozen=True)
class Token:
    """A shared access signature (agent/sas.py) for this resource that ends soon enough.

    `lifetime`: seconds; `make`: HMAC-SHA256 by the key that the hub knows.
    """

    resource: str
    lifetime: float
    make: Callable[[bytes], bytes]

    def sign(self, frame: dict[str, Any]) -> bytes:
        text = frame.get("sign")
        head = f"{quote(self.resource, safe='')}\n".encode()
        if not isinstance(text, bytes) or not text.startswith(head):
            raise Denied("that is no token for this hub")
        expires = text.removeprefix(head)
        if not re.fullmatch(rb"[0-9]{1,12}", expires):
            raise Denied("that is no token for this hub")
        if int(expires) > time.time() + self.lifetime + SLACK:
            raise Denied("that token would be good for too long")
        return self.make(text)
