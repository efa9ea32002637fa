"""Ways to misbehave of an EST server: its CA certificates (hostile_est_bags.py), and whatever it
answers to who asks for them, or for the attributes of a CSR."""

import base64
from collections.abc import Sequence

from tests.lab.hostile import certs, hang, http, moved, whole
from tests.lab.hostile_bench import Bench, Row
from tests.lab.hostile_est_bags import BAGS, DEEP, ENCODED, OID, SEQUENCE, at, nested, tlv
from tests.lab.hostile_http import How, Ways, est, for_ever


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
