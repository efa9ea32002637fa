"""Ways to misbehave in how the body of an answer is sent, and how it ends."""

import gzip
import zlib

from tests.lab.hostile import cut, drip, hang, http, reset, then_hang, whole
from tests.lab.hostile_bench import Row
from tests.lab.hostile_http import (
    LAST,
    answering,
    bomb,
    chunk,
    cut_in_two,
    est,
    fields,
    for_ever,
    in_chunks,
    instead,
    packed,
    says,
    slowly_for_ever,
)

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LONG = OK + b"Content-Length: 1000\r\n\r\n"
MB = 1 << 20

CHUNKS = [
    Row(
        "Chunks",
        "RFC 9112, 7.1",
        "",
        in_chunks(lambda b: chunk(b[:9]) + chunk(b[9:]) + LAST),
        "they are HTTP/1.1",
    ),
    Row(
        "Chunks of one byte each",
        "RFC 9112, 7.1",
        "",
        in_chunks(lambda b: b"".join(chunk(b[n : n + 1]) for n in range(len(b))) + LAST),
        "they are HTTP/1.1",
    ),
    Row(
        "Chunks, and Content-Length besides",
        "RFC 9112, 6.1",
        "",
        in_chunks(lambda b: chunk(b) + LAST, b"Content-Length: 5"),
        "the chunks count",
    ),
    Row(
        "A chunk with an extension",
        "RFC 9112, 7.1.1",
        "",
        in_chunks(lambda b: chunk(b, b";a=b") + LAST),
        "it is to be ignored",
    ),
    Row(
        "A chunk with an extension of a megabyte",
        "RFC 9112, 7.1.1",
        "http-garbled",
        in_chunks(lambda b: chunk(b, b";" + b"a" * MB) + LAST),
    ),
    Row(
        "A chunk with an extension without end",
        "RFC 9112, 7.1.1",
        "http-garbled",
        instead(for_ever(CHUNKED + b"5;", b"a" * 10000)),
    ),
    Row(
        "A chunk with a size in letters",
        "RFC 9112, 7.1",
        "reply-truncated",
        in_chunks(lambda b: b"many\r\n" + b + b"\r\n" + LAST),
    ),
    Row(
        "A chunk with a negative size",
        "RFC 9112, 7.1",
        "http-garbled",
        in_chunks(lambda b: b"-5\r\n" + b + b"\r\n" + LAST),
    ),
    Row(
        "A chunk of -1 bytes, and then no end",
        "RFC 9112, 7.1",
        "http-garbled",
        instead(for_ever(CHUNKED + b"-1\r\n", bytes(10000))),
    ),
    Row(
        "A trailer line without end",
        "RFC 9112, 7.1.2",
        "http-garbled",
        instead(for_ever(CHUNKED + chunk(b"x") + b"0\r\nX: ", b"y" * 10000)),
    ),
    Row(
        "A chunk of 16 exabytes",
        "RFC 9112, 7.1",
        "reply-truncated",
        in_chunks(lambda b: b"FFFFFFFFFFFFFFFF\r\n" + b),
    ),
    Row(
        "A chunk longer than it says",
        "RFC 9112, 7.1",
        "reply-truncated",
        in_chunks(lambda b: b"5\r\n" + b + b"\r\n" + LAST),
    ),
    Row("The last chunk does not come", "RFC 9112, 8", "reply-truncated", in_chunks(chunk)),
    Row(
        "Trailer fields",
        "RFC 9112, 7.1.2",
        "",
        in_chunks(lambda b: chunk(b) + b"0\r\nContent-Length: 1\r\nX: y\r\n\r\n"),
        "they are to be ignored",
    ),
    Row(
        "Trailer fields without end",
        "RFC 9112, 7.1.2",
        "timed-out",
        instead(for_ever(CHUNKED + chunk(b"x") + b"0\r\n", b"X: y\r\n" * 1000)),
        slow=True,
    ),
    Row(
        "Chunks without end",
        "RFC 9112, 7.1",
        "reply-too-large",
        instead(for_ever(CHUNKED, chunk(b"x" * 10000))),
    ),
    Row(
        "Chunks of nothing but their size, without end",
        "RFC 9112, 7.1",
        "timed-out",
        instead(slowly_for_ever(CHUNKED, chunk(b"x"))),
        slow=True,
    ),
    Row(
        "Transfer-Encoding: gzip, chunked",
        "RFC 9112, 7.2",
        "est-garbled",
        in_chunks(lambda b: chunk(gzip.compress(b)) + LAST, b"Transfer-Encoding: gzip, chunked"),
    ),
    Row(
        "Transfer-Encoding: identity",
        "RFC 9112, 7",
        "",
        fields(b"Transfer-Encoding: identity"),
        "it means that nothing was done",
    ),
    Row(
        "A Transfer-Encoding that nobody knows",
        "RFC 9112, 6.1",
        "",
        fields(b"Transfer-Encoding: xchunked"),
        "Content-Length counts",
    ),
]

CODED = [
    Row(
        "Content-Encoding: gzip, that nobody asked for",
        "RFC 9110, 12.5.3",
        "est-garbled",
        packed(b"gzip", gzip.compress),
    ),
    Row(
        "Content-Encoding: deflate",
        "RFC 9110, 8.4.1",
        "est-garbled",
        packed(b"deflate", zlib.compress),
    ),
    Row(
        "Content-Encoding: br, and it is none",
        "RFC 9110, 8.4",
        "",
        packed(b"br", bytes),
        "nothing is decoded, and it is as it should be",
    ),
    Row("A gzip bomb", "RFC 9110, 17.6", "est-garbled", packed(b"gzip", bomb)),
    Row(
        "Content-Encoding: identity",
        "RFC 9110, 12.5.3",
        "",
        packed(b"identity", bytes),
        "it means that nothing was done",
    ),
]

ENDS = [
    Row(
        "An empty 200",
        "RFC 7030, 4.2.3",
        "est-garbled",
        says(200, Content_Type="application/pkcs7-mime"),
    ),
    Row(
        "A megabyte of answer, and a byte",
        "RFC 9110, 17.5",
        "reply-too-large",
        says(200, bytes(MB + 1)),
    ),
    Row("A 400 of two megabytes", "RFC 9110, 17.5", "reply-too-large", says(400, b"x" * (2 * MB))),
    Row(
        "An answer without end",
        "RFC 9112, 6.3",
        "reply-too-large",
        instead(for_ever(OK + b"\r\n", bytes(10000))),
    ),
    Row(
        "A redirect without end",
        "RFC 9112, 6.3",
        "reply-too-large",
        instead(for_ever(b"HTTP/1.1 301 -\r\nLocation: x\r\n\r\n", bytes(10000))),
    ),
    Row(
        "A 204 with a body",
        "RFC 9112, 6.3",
        "est-garbled",
        instead(whole(b"HTTP/1.1 204 -\r\nContent-Length: 5\r\n\r\nHello")),
    ),
    Row(
        "Two answers to one request",
        "RFC 9112, 9.2",
        "",
        answering(lambda reply: whole(reply + reply)),
        "the second goes with the connection",
    ),
    Row(
        "An answer to what nobody asked yet",
        "RFC 9112, 9.3",
        "",
        est(lambda _: {"csrattrs": whole(http(204) + http(400))}),
        "what is left of a connection is not used",
    ),
    Row(
        "One byte in 50 milliseconds",
        "RFC 9112, 9.5",
        "timed-out",
        instead(drip(http(200, bytes(1000)))),
        slow=True,
    ),
    Row(
        "One byte of a field now and then",
        "RFC 9112, 9.5",
        "timed-out",
        instead(drip(OK + b"X: " + bytes(1000), 0.5)),
        slow=True,
    ),
    Row("No answer at all", "RFC 9112, 9.5", "timed-out", instead(hang), slow=True),
    Row(
        "Silence in mid-status",
        "RFC 9112, 9.5",
        "timed-out",
        instead(then_hang(b"HTTP/1.")),
        slow=True,
    ),
    Row(
        "Silence in the fields",
        "RFC 9112, 9.5",
        "timed-out",
        instead(then_hang(OK + b"X: y\r\n")),
        slow=True,
    ),
    Row(
        "Silence in the body",
        "RFC 9112, 9.5",
        "timed-out",
        instead(then_hang(LONG + b"MII")),
        slow=True,
    ),
    Row(
        "Silence in the fields of a 401",
        "RFC 9112, 9.5",
        "timed-out",
        instead(then_hang(b"HTTP/1.1 401 -\r\nWWW-Auth")),
        slow=True,
    ),
    Row(
        "The connection is closed instead of an answer",
        "RFC 9112, 9.5",
        "unreachable",
        instead(cut(b"", 0)),
    ),
    Row(
        "The connection is reset instead of an answer",
        "RFC 9293, 3.10.7",
        "unreachable",
        instead(reset),
    ),
    Row(
        "The connection is reset in mid-body",
        "RFC 9112, 8",
        "reply-truncated",
        answering(cut_in_two),
    ),
    Row(
        "A body of NULs",
        "RFC 8951, 3.1",
        "est-garbled",
        says(200, bytes(1000), Content_Type="application/pkcs7-mime"),
    ),
]
ROWS = [*CHUNKS, *CODED, *ENDS]
