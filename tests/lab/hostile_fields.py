"""Ways to misbehave in the header fields of an answer."""

from tests.lab.hostile import cut
from tests.lab.hostile_bench import Row
from tests.lab.hostile_http import (
    changed,
    ending,
    est,
    fields,
    for_ever,
    instead,
    says,
    with_cookies,
)

OK = b"HTTP/1.1 200 OK\r\n"
NO_BODY = "there is no use for it"
NO_MATTER = "it says nothing about the answer"

SYNTAX = [
    Row(
        "101 fields", "RFC 9110, 5.4", "http-garbled", fields(*(b"X-%d: y" % n for n in range(101)))
    ),
    Row(
        "90 fields of 60 KB each",
        "RFC 9110, 5.4",
        "http-garbled",
        fields(*(b"X-%d: %s" % (n, b"y" * 60000) for n in range(90))),
    ),
    Row(
        "Fields without end",
        "RFC 9110, 5.4",
        "http-garbled",
        instead(for_ever(OK, b"X: y\r\n" * 1000)),
    ),
    Row("A field of 70 KB", "RFC 9110, 5.4", "http-garbled", fields(b"X: " + b"y" * 70000)),
    Row(
        "A field without end",
        "RFC 9110, 5.4",
        "http-garbled",
        instead(for_ever(OK + b"X: ", b"y" * 10000)),
    ),
    Row(
        "A line without a colon",
        "RFC 9112, 5",
        "est-garbled",
        changed(lambda parts: parts.fields.insert(0, b"nonsense"), ends=True),
    ),
    Row(
        "A space before the colon",
        "RFC 9112, 5.1",
        "",
        changed(lambda parts: parts.put(b"Content-Length : 3"), ends=True),
        "it is a name that nobody knows",
    ),
    Row(
        "The connection ends in the fields",
        "RFC 9112, 8",
        "reply-truncated",
        instead(cut(b"HTTP/1.1 202 Accepted\r\nX: y\r\n", 0)),
    ),
    Row("A folded line", "RFC 9112, 5.2", "", fields(b"X: a\r\n b"), "it means a space"),
    Row("NUL in a value", "RFC 9110, 5.5", "", fields(b"X: a\0b"), NO_MATTER),
    Row(
        "A bare CR in a value, and a length behind it",
        "RFC 9112, 2.2",
        "http-garbled",
        fields(b"X: a\rContent-Length: 3"),
    ),
    Row("Bytes above 127 in a value", "RFC 9110, 5.5", "", fields(b"X: \xff\xfe"), NO_MATTER),
    Row(
        "Lines that end in LF alone",
        "RFC 9112, 2.2",
        "",
        changed(lambda parts: setattr(parts, "end", b"\n")),
        "it may be taken for the end of a line",
    ),
    Row("A field of no name", "RFC 9112, 5", "", fields(b": y"), NO_MATTER),
]

LENGTH = [
    Row(
        "Content-Length twice, the same",
        "RFC 9112, 6.3",
        "",
        changed(lambda p: p.fields.append(b"Content-Length: %d" % len(p.body))),
        "a list of one value may be taken for it",
    ),
    Row(
        "Content-Length twice, two lengths",
        "RFC 9112, 6.3",
        "http-garbled",
        changed(lambda p: p.fields.append(b"Content-Length: 9")),
    ),
    Row(
        "Content-Length as a list of two lengths",
        "RFC 9112, 6.3",
        "http-garbled",
        fields(b"Content-Length: 9, 10"),
    ),
    Row(
        "Content-Length in letters",
        "RFC 9112, 6.3",
        "",
        fields(b"Content-Length: many", b"Connection: close"),
        "the answer is as long as the connection",
    ),
    Row(
        "A negative Content-Length",
        "RFC 9112, 6.3",
        "",
        fields(b"Content-Length: -1", b"Connection: close"),
        "the answer is as long as the connection",
    ),
    Row(
        "Content-Length of 5000 digits",
        "RFC 9110, 8.6",
        "",
        fields(b"Content-Length: " + b"9" * 5000, b"Connection: close"),
        "the answer is as long as the connection",
    ),
    Row(
        "Content-Length of a terabyte",
        "RFC 9110, 8.6",
        "reply-truncated",
        changed(lambda p: p.put(b"Content-Length: 1099511627776"), ends=True),
    ),
    Row(
        "Content-Length longer than the answer",
        "RFC 9112, 8",
        "reply-truncated",
        changed(lambda p: p.put(b"Content-Length: %d" % (len(p.body) + 1)), ends=True),
    ),
    Row(
        "Content-Length shorter than the answer",
        "RFC 9112, 6.3",
        "est-garbled",
        fields(b"Content-Length: 200"),
    ),
    Row(
        "Content-Length 0, and an answer",
        "RFC 9112, 6.3",
        "est-garbled",
        fields(b"Content-Length: 0"),
    ),
    Row(
        "No length: the answer ends with the connection",
        "RFC 9112, 6.3",
        "",
        changed(ending, ends=True),
        "that is how it may end",
    ),
]

MEANING = [
    Row(
        "No Content-Type",
        "RFC 7030, 4.2.3",
        "est-garbled",
        changed(lambda p: p.without(b"Content-Type")),
    ),
    Row(
        "Content-Type text/html",
        "RFC 7030, 4.2.3",
        "est-garbled",
        fields(b"Content-Type: text/html"),
    ),
    Row(
        "Content-Type application/x-pkcs7-mime",
        "RFC 8551, 3.2",
        "est-garbled",
        fields(b"Content-Type: application/x-pkcs7-mime"),
    ),
    Row(
        "Content-Type in upper case, with odd parameters",
        "RFC 9110, 8.3.1",
        "",
        fields(b'Content-Type: APPLICATION/PKCS7-MIME ;; smime-type="x";charset'),
        "its case and parameters mean nothing here",
    ),
    Row(
        "Content-Type of something enveloped",
        "RFC 8551, 3.2.2",
        "",
        fields(b"Content-Type: application/pkcs7-mime; smime-type=enveloped-data"),
        "what it is shows inside",
    ),
    Row(
        "Content-Type twice",
        "RFC 9110, 8.3",
        "",
        changed(lambda p: p.fields.append(b"Content-Type: text/html")),
        "the first counts, and what it is shows inside",
    ),
    Row(
        "Content-Transfer-Encoding: binary",
        "RFC 8951, 3.1",
        "",
        fields(b"Content-Transfer-Encoding: binary"),
        "it is to be ignored",
    ),
    Row(
        "Set-Cookie", "RFC 6265, 5.2", "", est(with_cookies), "it is ignored, and none is sent back"
    ),
    Row(
        "60 cookies of 4 KB each",
        "RFC 6265, 6.1",
        "",
        fields(*(b"Set-Cookie: %d=%s" % (n, b"y" * 4000) for n in range(60))),
        "they are ignored",
    ),
    Row(
        "A cookie that no parser likes",
        "RFC 6265, 5.2",
        "",
        fields(b'Set-Cookie: =;;;="; expires=\xff; Domain=..'),
        "they are ignored",
    ),
    Row(
        "Strict-Transport-Security, for 136 years",
        "RFC 6797, 8.1",
        "",
        fields(b"Strict-Transport-Security: max-age=4294967295"),
        "only https is spoken anyway",
    ),
    Row(
        "Alt-Svc: another server, HTTP/3",
        "RFC 7838, 2.4",
        "",
        fields(b'Alt-Svc: h3="elsewhere.invalid:443"; persist=1'),
        "it need not be followed",
    ),
    Row(
        "Refresh: to another page",
        "RFC 9110, 5.1",
        "",
        fields(b"Refresh: 0; url=https://elsewhere.invalid/"),
        "fields that are not known are ignored",
    ),
    Row(
        "Location with a 200",
        "RFC 9110, 10.2.2",
        "",
        fields(b"Location: https://elsewhere.invalid/"),
        "it means nothing there",
    ),
    Row(
        "Upgrade: h2c",
        "RFC 9110, 7.8",
        "",
        fields(b"Upgrade: h2c", b"Connection: upgrade"),
        "it is only an offer",
    ),
    Row(
        "Proxy-Authenticate with a 200",
        "RFC 9110, 11.7.1",
        "",
        fields(b"Proxy-Authenticate: Basic"),
        "nobody answers it",
    ),
    Row(
        "Date: long ago",
        "RFC 9110, 6.6.1",
        "",
        fields(b"Date: Thu, 01 Jan 1970 00:00:00 GMT"),
        "nobody's clock goes back for it",
    ),
    Row(
        "Date: no date",
        "RFC 9110, 5.6.7",
        "",
        fields(b"Date: yesterday"),
        "it is as if there were none",
    ),
    Row(
        "Age: a century",
        "RFC 9111, 5.1",
        "",
        fields(b"Age: 3155760000", b"Cache-Control: max-age=1"),
        "what came is not kept for another request",
    ),
]

RETRY = [
    Row(f"Retry-After: {words}", of, code, says(status, b"", Retry_After=text))
    for words, of, code, status, text in [
        ("0, with a 202", "RFC 7030, 4.2.3", "est-pending", 202, "0"),
        (
            "a date long ago, with a 202",
            "RFC 9110, 10.2.3",
            "est-pending",
            202,
            "Sun, 06 Nov 1994 08:49:37 GMT",
        ),
        (
            "the year 9999, with a 202",
            "RFC 9110, 10.2.3",
            "est-pending",
            202,
            "Fri, 31 Dec 9999 23:59:59 GMT",
        ),
        (
            "the year 99999, with a 202",
            "RFC 9110, 5.6.7",
            "est-pending",
            202,
            "Fri, 31 Dec 99999 23:59:59 GMT",
        ),
        ("a thousand digits, with a 202", "RFC 9110, 10.2.3", "est-pending", 202, "9" * 1000),
        ("negative, with a 202", "RFC 9110, 10.2.3", "est-pending", 202, "-60"),
        ("a fraction, with a 202", "RFC 9110, 10.2.3", "est-pending", 202, "1.5"),
        ("nonsense, with a 202", "RFC 9110, 10.2.3", "est-pending", 202, "soon"),
        ("Arabic digits, with a 503", "RFC 9110, 10.2.3", "server-busy", 503, "\xd9\xa1\xd9\xa2"),
        (
            "a date in the form of RFC 850, with a 503",
            "RFC 9110, 5.6.7",
            "server-busy",
            503,
            "Sunday, 06-Nov-94 08:49:37 GMT",
        ),
    ]
]
NONE_SAID = Row("202 without Retry-After", "RFC 7030, 4.2.3", "est-pending", says(202))
ROWS = [*SYNTAX, *LENGTH, *MEANING, *RETRY, NONE_SAID]
