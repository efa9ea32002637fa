"""Ways to misbehave of an EST server in what it sends as CA certificates: encodings, PKCS #7."""

import base64
from collections.abc import Callable

from cryptography import x509

from tests.lab import pki
from tests.lab.hostile import Way, http, whole
from tests.lab.hostile_bench import Bench, Row
from tests.lab.hostile_http import How, est

P7 = "application/pkcs7-mime"
SEQUENCE, SET, INTEGER, OID, OCTETS = 0x30, 0x31, 2, 6, 4
SIGNED, DATA, ENVELOPED = (bytes.fromhex("2a864886f70d0107") + bytes([n]) for n in (2, 1, 3))


def tlv(tag: int, *parts: bytes) -> bytes:
    """DER."""
    body = b"".join(parts)
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    length = bytes([len(body)]) if len(body) < 0x80 else bytes([0x80 | len(size)]) + size
    return bytes([tag]) + length + body


def bag(*ders: bytes, lists: bytes = b"", signers: bytes = b"", kind: bytes = SIGNED) -> bytes:
    """PKCS #7 with these certificates, whatever they are (RFC 5652, 5.1)."""
    content = tlv(SEQUENCE, tlv(OID, DATA))
    held = (tlv(0xA0, *ders) if ders else b"") + (tlv(0xA1, lists) if lists else b"")
    inside = (tlv(INTEGER, b"\1"), tlv(SET), content, held, tlv(SET, signers))
    return tlv(SEQUENCE, tlv(OID, kind), tlv(0xA0, tlv(SEQUENCE, *inside)))


def at(operation: str, make: Callable[[Bench], Way]) -> How:
    return est(lambda bench: {operation: make(bench)})


def cacerts(make: Callable[[Bench], bytes]) -> How:
    """The body of the answer to a request for the CA certificates."""
    return at("cacerts", lambda bench: whole(http(200, make(bench), Content_Type=P7)))


def bagged(make: Callable[[Bench], bytes]) -> How:
    """The same, in base64."""
    return cacerts(lambda bench: base64.encodebytes(make(bench)))


def wrapped(wrap: Callable[[bytes], bytes]) -> How:
    """The right ones, wrapped so."""
    return cacerts(lambda bench: wrap(pki.certs_only(*bench.issuer.chain)))


def ours(bench: Bench) -> list[bytes]:
    return [pki.der(c) for c in bench.issuer.chain]


def crowd(count: int) -> list[bytes]:
    """Of strangers' CAs."""
    key = pki.new_key()
    return [pki.der(_stranger(key, n)) for n in range(count)]


def _stranger(key: pki.PrivateKey, n: int) -> x509.Certificate:
    root = pki.root(f"Crowd {n % 7}")
    return root.issue(key.public_key(), f"CA {n}", ca=True, usages=())


def nested(levels: int) -> bytes:
    """From the inside out."""
    der = b""
    for _ in range(levels):
        der = tlv(SEQUENCE, der)
    return der


DEEP = 20000
ENCODED = [
    Row("DER without base64", "RFC 8951, 3.1", "est-garbled", wrapped(bytes)),
    Row(
        "Base64 in one line",
        "RFC 8951, 3.1",
        "",
        wrapped(base64.b64encode),
        "lines may be of any length",
    ),
    Row(
        "Base64 in lines of one letter",
        "RFC 8951, 3.1",
        "",
        wrapped(lambda der: b"\r\n".join(bytes([c]) for c in base64.b64encode(der))),
        "lines may be of any length",
    ),
    Row(
        "Base64 in PEM armour",
        "RFC 8951, 3.1",
        "",
        wrapped(
            lambda der: (
                b"-----BEGIN PKCS7-----\n" + base64.encodebytes(der) + b"-----END PKCS7-----\n"
            )
        ),
        "some servers do, and what is meant is clear",
    ),
    Row(
        "Base64 of URLs",
        "RFC 4648, 5",
        "est-garbled",
        wrapped(lambda der: base64.urlsafe_b64encode(der + b"\xfb\xff")),
    ),
    Row(
        "Base64 without padding",
        "RFC 4648, 3.2",
        "est-garbled",
        wrapped(lambda der: base64.b64encode(der + b"x" * (-len(der) % 3 + 1)).rstrip(b"=")),
    ),
    Row(
        "Base64 and exclamation marks",
        "RFC 4648, 3.3",
        "est-garbled",
        wrapped(lambda der: base64.b64encode(der) + b"!!!"),
    ),
    Row(
        "Base64 with a byte order mark",
        "RFC 4648, 3.3",
        "est-garbled",
        wrapped(lambda der: b"\xef\xbb\xbf" + base64.b64encode(der)),
    ),
    Row(
        "Base64 twice",
        "RFC 8951, 3.1",
        "est-garbled",
        wrapped(lambda der: base64.b64encode(base64.encodebytes(der))),
    ),
    Row(
        "Half of the DER",
        "RFC 5652, 5.1",
        "est-garbled",
        wrapped(lambda der: base64.encodebytes(der[: len(der) // 2])),
    ),
    Row(
        "A web page, as what was asked for",
        "RFC 7030, 4.1.3",
        "est-garbled",
        cacerts(lambda _: b"<html>Log in</html>"),
    ),
]

BAGS = [
    Row(
        "A certificate, not PKCS #7",
        "RFC 7030, 4.1.3",
        "est-garbled",
        bagged(lambda bench: ours(bench)[0]),
    ),
    Row("PKCS #7 without certificates", "RFC 7030, 4.1.3", "est-garbled", bagged(lambda _: bag())),
    Row(
        "PKCS #7 with CRLs alone",
        "RFC 7030, 4.1.3",
        "est-garbled",
        bagged(lambda _: bag(lists=tlv(SEQUENCE, bytes(9)))),
    ),
    Row(
        "PKCS #7 of plain data",
        "RFC 5652, 4",
        "est-garbled",
        bagged(lambda _: tlv(SEQUENCE, tlv(OID, DATA), tlv(0xA0, tlv(OCTETS, b"x")))),
    ),
    Row(
        "PKCS #7, enveloped",
        "RFC 5652, 6.1",
        "est-garbled",
        bagged(lambda bench: bag(*ours(bench), kind=ENVELOPED)),
    ),
    Row(
        "PKCS #7 with garbage for a certificate",
        "RFC 5652, 10.2.2",
        "est-garbled",
        bagged(lambda bench: bag(*ours(bench), tlv(SEQUENCE, b"garbage"))),
    ),
    Row(
        "PKCS #7, and garbage behind it",
        "RFC 5652, 3",
        "",
        bagged(lambda bench: bag(*ours(bench)) + b"garbage"),
        "DER says itself where it ends",
    ),
    Row(
        "PKCS #7 that says to be 4 GB long",
        "X.690, 8.1.3",
        "est-garbled",
        bagged(lambda _: b"\x30\x84\xff\xff\xff\xff" + bytes(99)),
    ),
    Row(
        "A bomb: nested 20,000 deep",
        "X.690, 8.1.3",
        "est-garbled",
        bagged(lambda _: b"\x30\x80" * DEEP + b"\0\0" * DEEP),
    ),
    Row(
        "A bomb: nested 20,000 deep, of definite lengths",
        "X.690, 8.1.3",
        "est-garbled",
        bagged(lambda _: nested(DEEP)),
    ),
    Row(
        "A bomb: 200,000 empty certificates",
        "RFC 5652, 10.2.2",
        "est-garbled",
        bagged(lambda _: bag(tlv(SEQUENCE) * 200000)),
    ),
    Row(
        "A crowd of 300 strangers' CAs besides",
        "RFC 7030, 4.1.3",
        "",
        bagged(lambda bench: bag(*ours(bench), *crowd(300))),
        "none of them is believed",
    ),
    Row(
        "The CA, 500 times",
        "RFC 7030, 4.1.3",
        "",
        bagged(lambda bench: bag(*ours(bench) * 500)),
        "once is as good",
    ),
    Row(
        "A CRL of half a megabyte besides",
        "RFC 7030, 4.1.3",
        "est-garbled",
        bagged(lambda bench: bag(*ours(bench), lists=tlv(SEQUENCE, bytes(1 << 19)))),
    ),
    Row(
        "A signer's signature besides, of nonsense",
        "RFC 7030, 4.1.3",
        "est-garbled",
        bagged(lambda bench: bag(*ours(bench), signers=tlv(SEQUENCE, b"x"))),
    ),
    Row(
        "CA certificates in the wrong order",
        "RFC 7030, 4.1.3",
        "",
        bagged(lambda bench: bag(*reversed(ours(bench)))),
        "they come in no certain order",
    ),
    Row(
        "A leaf among the CA certificates",
        "RFC 7030, 4.1.3",
        "",
        bagged(
            lambda bench: bag(
                *ours(bench), pki.der(bench.issuer.issue(pki.new_key().public_key(), "leaf"))
            )
        ),
        "it vouches for nobody",
    ),
    Row(
        "Somebody else's CA certificates",
        "RFC 7030, 4.1.3",
        "issued-by-another-ca",
        bagged(lambda _: bag(*crowd(2))),
    ),
]
