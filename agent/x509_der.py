"""Certificates as TPM makers really encode them, made readable.

`cryptography` reads strict DER only, and the certificates of whole families of TPMs are not:

- Nuvoton's names have their attributes in one SET, unsorted (ITU-T X.690, 11.6);
- Intel's write out `critical FALSE` and `cA FALSE`, which are the defaults (X.690, 11.5), and the
  root of its on-die CA has NULL parameters in ECDSA's identifier (RFC 5758, 3.2);
- serial numbers are random octets, and half of those would be negative (RFC 5280, 4.1.2.2).

None of it changes what is said. So each is put right in a copy, to be read; the signature is that
over the bytes as they came (see x509_path.py). Everything else that is no DER stays unreadable:
lengths of BER's, the numbers that a parser could take for one thing or another.
"""

import re
import ssl
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import Certificate

from agent.x509 import NONSENSE, first_der

BOOLEAN, INTEGER, OCTET_STRING, NULL, OID = 0x01, 0x02, 0x04, 0x05, 0x06
SEQUENCE, SET, VERSION = 0x30, 0x31, 0xA0
CONSTRUCTED = 0x20
FALSE = b"\x01\x01\x00"
ECDSA = bytes.fromhex("06082a8648ce3d0403")  # ecdsa-with-SHA2, less its last octet
BASIC_CONSTRAINTS = bytes.fromhex("0603551d13")
DEEPEST = 16  # nested values; a certificate has about ten
LARGEST = 1 << 16  # bytes of a certificate; an NV index holds 2 KiB
PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class Issued:
    """A certificate. `der`: its bytes as they came. `read`: what it says, in strict DER; if that
    differs, the signature of `read` is not valid any more."""

    der: bytes
    read: Certificate = field(compare=False)

    @property
    def self_issued(self) -> bool:
        return self.read.issuer == self.read.subject

    @property
    def pem(self) -> bytes:
        return ssl.DER_cert_to_PEM_cert(self.der).encode()

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the bytes as they came, hex."""
        digest = hashes.Hash(hashes.SHA256())
        digest.update(self.der)
        return digest.finalize().hex()


def read(der: bytes) -> Issued:
    """One certificate, its names, extensions and key readable; nothing behind it. Raises
    ValueError."""
    if len(der) > LARGEST:
        raise ValueError("it is too large for a certificate")
    try:
        return Issued(der, _strict(der))
    except ValueError as e:
        put_right = normal(der)
        if put_right == der:
            raise
        try:
            return Issued(der, _strict(put_right))
        except ValueError:
            raise e from None


def _strict(der: bytes) -> Certificate:
    try:
        with warnings.catch_warnings():  # of oddities that are read all the same: long names, ...
            warnings.simplefilter("ignore")
            found = x509.load_der_x509_certificate(der)
            if found.serial_number < 1:  # a warning now, an error one day
                raise ValueError("its serial number is not positive (RFC 5280, 4.1.2.2)")
            _ = found.subject, found.issuer, found.extensions, found.public_key()
    except UnsupportedAlgorithm as e:
        raise ValueError(f"its key: {e}") from e
    except NONSENSE as e:
        raise ValueError(str(e)) from e
    return found


def leading(data: bytes) -> Issued:
    """The certificate at the start of an NV index. Raises ValueError."""
    der = first_der(data)
    if not der or len(der) > len(data):
        raise ValueError("no certificate begins there, or it is cut off")
    return read(der)


def sequence(data: bytes) -> list[Issued]:
    """The certificates of an NV chain, one behind the other; padding between them is passed over
    (0x00 or 0xFF: neither begins a certificate). Raises ValueError."""
    found = []
    while data := data.lstrip(b"\x00\xff"):
        found.append(leading(data))
        data = data[len(found[-1].der) :]
    return found


def pem_or_der(data: bytes) -> list[Issued]:
    """All certificates of a PEM text, or the one of a DER. Raises ValueError."""
    if b"-----BEGIN" not in data:
        return [read(data)]
    return [read(ssl.PEM_cert_to_DER_cert(each.decode("ascii"))) for each in PEM.findall(data)]


# --- what is put right ---


def normal(der: bytes) -> bytes:
    """The same value with these oddities gone. Raises ValueError if it is not made of DER's
    tags and lengths."""
    tag, body, rest = _value(der)
    if rest:
        raise ValueError("there is something behind it")
    return _normal(tag, body, DEEPEST)


def _normal(tag: int, body: bytes, depth: int) -> bytes:
    if not tag & CONSTRUCTED:
        return _encoded(tag, body)
    if not depth:
        raise ValueError("it is nested too deeply")
    parts = [_normal(tag, body, depth - 1) for tag, body in _values(body)]
    if tag == SET:
        parts.sort()
    if tag == SEQUENCE:
        parts = _sequence(parts, depth)
    return _encoded(tag, b"".join(parts))


def _sequence(parts: list[bytes], depth: int) -> list[bytes]:
    """Of an extension (RFC 5280, 4.1), an algorithm's identifier, or what is signed as a whole."""
    tags = [part[0] for part in parts]
    if tags == [OID, BOOLEAN, OCTET_STRING] and parts[1] == FALSE:
        parts, tags = [parts[0], parts[2]], [OID, OCTET_STRING]
    if tags[:1] == [OID] and tags[-1] == OCTET_STRING and len(tags) in (2, 3):
        return [*parts[:-1], _extension(parts[0], parts[-1], depth)]
    if tags == [OID, NULL] and parts[0].startswith(ECDSA):
        return parts[:1]
    if tags[:3] == [VERSION, INTEGER, SEQUENCE] and parts[1][2] & 0x80:
        return [parts[0], _encoded(INTEGER, b"\0" + parts[1][2:]), *parts[2:]]
    return parts


def _extension(oid: bytes, wrapped: bytes, depth: int) -> bytes:
    """The octets of extnValue: DER again, with names in it, perhaps."""
    _, inside, _ = _value(wrapped)
    try:
        tag, body, rest = _value(inside)
        if rest or tag != SEQUENCE:
            return wrapped
        if oid == BASIC_CONSTRAINTS:
            return _encoded(OCTET_STRING, _encoded(SEQUENCE, body.removeprefix(FALSE)))
        return _encoded(OCTET_STRING, _normal(tag, body, depth - 1))
    except ValueError:  # something that only its reader understands
        return wrapped


def _values(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        tag, body, data = _value(data)
        yield tag, body


def _value(data: bytes) -> tuple[int, bytes, bytes]:
    """Tag, contents, and what is behind. Raises ValueError: also for BER's indefinite or long
    lengths (X.690, 10.1), and for tags of several octets, of which X.509 has none."""
    if len(data) < 2 or data[0] & 0x1F == 0x1F:
        raise ValueError("it is no DER")
    octets = data[1] & 0x7F if data[1] & 0x80 else 0
    begin = 2 + octets
    end = begin + (int.from_bytes(data[2:begin], "big") if octets else data[1])
    if _encoded(data[0], data[begin:end]) != data[:end]:
        raise ValueError("it is no DER: cut off, or a length is not the shortest")
    return data[0], data[begin:end], data[end:]


def _encoded(tag: int, body: bytes) -> bytes:
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body
