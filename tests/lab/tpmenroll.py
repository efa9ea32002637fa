"""What a server with `tpmenroll` reads and answers: in good order, or as odd as a test wants it.

The envelope is as the program in tests/lab/est.py writes it, byte for byte; a test compares them.
"""

import base64
import re
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.lab.hostile import http

DATA, ENCRYPTED_DATA = "2a864886f70d010701", "2a864886f70d010706"
AES128, AES192, AES256 = (f"60864801650304{last}" for last in ("0106", "011a", "012e"))
KINDS = (
    "application/octet-stream",
    "application/octet-stream",
    "application/pkcs7-mime; smime-type=enveloped-data",
)
MIXED = "multipart/mixed; boundary=estTPMEnrollBoundary"
CREDENTIAL = bytes.fromhex("0020") + bytes(32) + bytes(18)  # HMAC-SHA-256, an encrypted AES-128 key
SECRET = bytes(256)  # from an RSA-2048 EK


def envelope(
    plain: bytes,
    key: bytes,
    *,
    nonce: bytes = b"only once...",
    algorithm: str = AES128,
    outer: str = ENCRYPTED_DATA,
    tag_size: int = 16,
    encrypt: Callable[[bytes], bytes] | None = None,
) -> bytes:
    """`plain` in PKCS#7 EncryptedData; `algorithm` and `outer` are OIDs, hexadecimal."""
    text = encrypt(plain) if encrypt else AESGCM(key).encrypt(nonce, plain, None)
    gcm = tlv(0x30, tlv(0x84, nonce) + tlv(0x02, bytes([tag_size])))
    how = tlv(0x30, oid(algorithm) + tlv(0x10, gcm))
    content = tlv(0x30, oid(DATA) + how + tlv(0xA0, tlv(0x04, text)))
    return tlv(0x30, oid(outer) + tlv(0xA0, tlv(0x30, tlv(0x02, b"\0") + content)))


def tlv(tag: int, value: bytes) -> bytes:
    """DER."""
    size = len(value)
    if size < 0x80:
        return bytes([tag, size]) + value
    long = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(long)]) + long + value


def oid(value: str) -> bytes:
    return tlv(0x06, bytes.fromhex(value))


def lines(data: bytes) -> bytes:
    """As the server wraps base64."""
    text = base64.b64encode(data)
    return b"".join(text[i : i + 76] + b"\r\n" for i in range(0, len(text), 76))


def answer(
    *parts: bytes,
    kinds: Sequence[str] = KINDS,
    wrap: Callable[[bytes], bytes] = lines,
    more: str = "Content-Transfer-Encoding: base64\r\n",
    mixed: str = MIXED,
    end: bytes = b"--estTPMEnrollBoundary--\r\n",
) -> bytes:
    """A reply; `more` are the headers that each part has but for its type."""
    heads = [f"--estTPMEnrollBoundary\r\n{more}Content-Type: {kind}\r\n\r\n" for kind in kinds]
    pieces = [head.encode() + wrap(part) for head, part in zip(heads, parts, strict=True)]
    return http(200, b"\r\n".join([*pieces, end]), Content_Type=mixed)


def asked(body: bytes) -> list[tuple[str, bytes]]:
    """The parts of a request: type and content. Stricter than any server need be."""
    parts = re.fullmatch(rb"((?s:.*))--estTPMEnrollBoundary--\r\n", body)
    assert parts
    found = []
    for part in parts[1].split(b"--estTPMEnrollBoundary\r\n")[1:]:
        head, _, text = part.partition(b"\r\n\r\n")
        kind, encoding = head.decode().split("\r\n")
        assert encoding == "Content-Transfer-Encoding: base64"
        assert re.fullmatch(rb"([A-Za-z0-9+/]{76}\r\n)*[A-Za-z0-9+/]{1,76}={0,2}\r\n", text)
        found.append((kind.removeprefix("Content-Type: "), base64.b64decode(text)))
    return found
