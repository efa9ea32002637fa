"""Ways to misbehave in what EST transports: CA certificates, attributes of a CSR, encodings."""

import base64
from collections.abc import Callable, Sequence

from cryptography import x509

from tests.lab import pki
from tests.lab.hostile import Way, certs, hang, http, moved, whole
from tests.lab.hostile_bench import Bench, Row
from tests.lab.hostile_http import How, Ways, est, for_ever

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


def attributes(body: bytes, kind: str = "application/csrattrs") -> How:
    return at("csrattrs", lambda _: whole(http(200, base64.encodebytes(body), Content_Type=kind)))


def answered(operation: str, reply: bytes) -> How:
    return at(operation, lambda _: whole(reply))


def refusing(body: bytes) -> How:
    """What it would have liked to see is told, and who does not show it is refused."""

    def ways(_: Bench) -> Ways:
        wish = http(200, base64.encodebytes(body), Content_Type="application/csrattrs")
        return {"csrattrs": whole(wish), "simpleenroll": whole(http(400))}

    return est(ways)


def elsewhere(status: int, location: str) -> How:
    return at("cacerts", lambda _: whole(moved(location, status)))


def here(bench: Bench) -> Ways:
    right = whole(certs(*bench.issuer.chain))
    return {"cacerts": whole(moved("/other/there", 302)), "there": right}


def oids(*dotted: Sequence[int]) -> bytes:
    return tlv(SEQUENCE, *(tlv(OID, bytes(each)) for each in dotted))


P384 = (0x2B, 0x81, 0x04, 0x00, 0x22)
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


def nested(levels: int) -> bytes:
    """From the inside out."""
    der = b""
    for _ in range(levels):
        der = tlv(SEQUENCE, der)
    return der


ASKED = [
    Row("/cacerts: 404", "RFC 7030, 4.1", "est-not-found", answered("cacerts", http(404))),
    Row("/cacerts: 500", "RFC 9110, 15.6.1", "server-busy", answered("cacerts", http(500))),
    Row(
        "/cacerts: 401 for ever",
        "RFC 7030, 4.1.2",
        "est-unauthorized",
        answered("cacerts", http(401)),
    ),
    Row(
        "/cacerts: 202",
        "RFC 7030, 4.1.3",
        "est-garbled",
        answered("cacerts", http(202, Retry_After="5")),
    ),
    Row(
        "/cacerts: elsewhere on this server",
        "RFC 7030, 3.2.1",
        "",
        est(here),
        "it is the same server",
    ),
    Row("/cacerts: round and round", "RFC 9110, 15.4", "est-redirected", elsewhere(302, "cacerts")),
    Row(
        "/cacerts: at another server",
        "RFC 7030, 3.2.1",
        "est-redirected",
        elsewhere(307, "https://elsewhere.invalid/"),
    ),
    Row(
        "/cacerts: at an address that is none",
        "RFC 3986, 3.2.2",
        "est-redirected",
        elsewhere(302, "https://[::1"),
    ),
    Row(
        "/cacerts: in a field of 60 KB",
        "RFC 9110, 10.2.2",
        "http-garbled",
        elsewhere(302, "/" + "x" * 70000),
    ),
    Row(
        "/csrattrs: 404",
        "RFC 7030, 4.5.2",
        "",
        answered("csrattrs", http(404)),
        "it need not be there",
    ),
    Row(
        "/csrattrs: 500",
        "RFC 7030, 4.5.2",
        "",
        answered("csrattrs", http(500)),
        "to enroll may go well all the same",
    ),
    Row(
        "/csrattrs: 401 for ever",
        "RFC 7030, 4.5.1",
        "",
        answered("csrattrs", http(401)),
        "to enroll may go well all the same",
    ),
    Row(
        "/csrattrs: a web page",
        "RFC 7030, 4.5.2",
        "",
        answered("csrattrs", http(200, b"<html>", Content_Type="text/html")),
        "to enroll may go well all the same",
    ),
    Row(
        "/csrattrs: not base64",
        "RFC 8951, 4",
        "",
        answered("csrattrs", http(200, b"\xff", Content_Type="application/csrattrs")),
        "to enroll may go well all the same",
    ),
    Row(
        "/csrattrs: nothing", "RFC 8951, 4", "", answered("csrattrs", http(200)), "it wants nothing"
    ),
    Row(
        "/csrattrs: two megabytes",
        "RFC 9110, 17.5",
        "",
        answered("csrattrs", http(200, bytes(2 << 20))),
        "it is not read to its end",
    ),
    Row(
        "/csrattrs: 100,000 OIDs",
        "RFC 8951, 4",
        "",
        attributes(oids(*[(0x2A, 3)] * 100000)),
        "what is not known is to be ignored",
    ),
    Row(
        "/csrattrs: an OID of 100 KB",
        "RFC 8951, 4",
        "",
        attributes(oids(b"\x2a" + b"\xff" * 100000 + b"\1")),
        "what is not known is to be ignored",
    ),
    Row(
        "/csrattrs: nested 20,000 deep",
        "RFC 8951, 4",
        "",
        attributes(nested(DEEP)),
        "what makes no sense is no wish",
    ),
    Row(
        "/csrattrs: another sort of key",
        "RFC 8951, 4",
        "",
        attributes(oids(P384)),
        "the CA may take this one all the same",
    ),
    Row(
        "/csrattrs: another sort of key, or nothing",
        "RFC 8951, 4",
        "est-bad-request",
        refusing(oids(P384)),
    ),
    Row(
        "/csrattrs: silence",
        "RFC 9112, 9.5",
        "timed-out",
        at("csrattrs", lambda _: hang),
        slow=True,
    ),
    Row(
        "/cacerts: silence", "RFC 9112, 9.5", "timed-out", at("cacerts", lambda _: hang), slow=True
    ),
    Row(
        "/csrattrs: without end",
        "RFC 9112, 6.3",
        "",
        at("csrattrs", lambda _: for_ever(b"HTTP/1.1 200 -\r\n\r\n", bytes(10000))),
        "it is not read to its end",
    ),
]

ROWS = [*ENCODED, *BAGS, *ASKED]
