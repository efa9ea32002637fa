"""What EST requests and replies are made of: base64, CSRs, CSR attributes."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import Encoding

from agent.errors import CsrInvalid


def sound(doing: str, csr: x509.CertificateSigningRequest) -> bytes:
    """The DER of a CSR, whose signature verifies: a key that signs wrongly must not reach the CA's
    log. Raises CsrInvalid."""
    if not csr.is_signature_valid:
        raise CsrInvalid(f"cannot {doing}: the CSR's own signature is wrong")
    return csr.public_bytes(Encoding.DER)


def wrapped(data: bytes, columns: int, end: bytes) -> bytes:
    """Base64 in lines; each of them, the last too, is ended by `end`."""
    text = base64.b64encode(data)
    return b"".join(text[i : i + columns] + end for i in range(0, len(text), columns))


def unwrapped(text: bytes) -> bytes:
    """What base64 means, however wrapped (RFC 8951, 3.1), in PEM armour or not. Raises
    ValueError."""
    bare = re.sub(rb"-----(BEGIN|END) [A-Z0-9 ]+-----", b"", text)
    return base64.b64decode(b"".join(bare.split()), validate=True)


def login_schemes(header: str) -> list[str]:
    """How a server wants one to log in, lower case: WWW-Authenticate (RFC 9110, 11.6.1)."""
    header = re.sub(r'"[^"]*"', '""', header)  # what is quoted names no scheme
    found = re.findall(r"(?:^|,)\s*([A-Za-z][\w-]*)(?=\s+[^\s=]|\s*(?:,|$))", header)
    return list(dict.fromkeys(map(str.lower, found)))


@dataclass(frozen=True)
class CsrAttrs:
    """What the CA would like to see in a CSR; what is not known is to be ignored."""

    oids: frozenset[str] = frozenset()
    """Every OID named, dotted, those of `attributes` too."""
    attributes: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    """The attributes that came with values; each value is a DER TLV."""


@asn1.sequence
@dataclass(frozen=True)
class _Attribute:
    type: x509.ObjectIdentifier
    values: asn1.SetOf[asn1.TLV]


@asn1.sequence
@dataclass(frozen=True)
class _Wrapped:
    csrattrs: asn1.TLV


@asn1.sequence
@dataclass(frozen=True)
class _Unwrapped:
    csrattrs: list[x509.ObjectIdentifier | _Attribute]


def csrattrs(der: bytes) -> CsrAttrs:
    """CsrAttrs ::= SEQUENCE OF AttrOrOID (RFC 8951, 4). The decoder only takes a class for its
    outermost SEQUENCE, hence one more around it. Raises ValueError."""
    within = asn1.encode_der(_Wrapped(asn1.decode_der(asn1.TLV, der)))
    entries = asn1.decode_der(_Unwrapped, within).csrattrs
    attributes = {
        entry.type.dotted_string: tuple(asn1.encode_der(v) for v in entry.values.as_list())
        for entry in entries
        if isinstance(entry, _Attribute)
    }
    bare = {e.dotted_string for e in entries if isinstance(e, x509.ObjectIdentifier)}
    return CsrAttrs(frozenset(bare | attributes.keys()), attributes)
