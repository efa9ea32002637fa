"""Ways to misbehave in the first line of an answer, and before it."""

from tests.lab.hostile import whole
from tests.lab.hostile_bench import Row
from tests.lab.hostile_http import answering, before, first, instead, says, slowly_for_ever

STATUS_LINE = [
    Row(
        "No reason phrase, nor the space before it",
        "RFC 9112, 4",
        "",
        first(b"HTTP/1.1 200"),
        "nobody reads the phrase",
    ),
    Row(
        "A reason phrase with terminal escapes",
        "RFC 9112, 4",
        "",
        first(b"HTTP/1.1 200 \x1b[2J\x07ok"),
        "nobody reads the phrase",
    ),
    Row("HTTP/1.0", "RFC 9110, 2.5", "", first(b"HTTP/1.0 200 OK"), "it is understood as well"),
    Row(
        "HTTP/1.9",
        "RFC 9110, 2.5",
        "",
        first(b"HTTP/1.9 200 OK"),
        "a minor version more is understood",
    ),
    Row("HTTP/2.0 in plain letters", "RFC 9112, 2.3", "http-garbled", first(b"HTTP/2.0 200 OK")),
    Row("ICY instead of HTTP", "RFC 9112, 2.3", "http-garbled", first(b"ICY 200 OK")),
    Row(
        "No status line: HTTP/0.9",
        "RFC 9112, 2.3",
        "http-garbled",
        answering(lambda reply: whole(reply.partition(b"\r\n\r\n")[2])),
    ),
    Row("A status of four digits", "RFC 9112, 4", "http-garbled", first(b"HTTP/1.1 2000 OK")),
    Row("A status of letters", "RFC 9112, 4", "http-garbled", first(b"HTTP/1.1 2OO OK")),
    Row("Status 099", "RFC 9110, 15", "http-garbled", first(b"HTTP/1.1 099 -")),
    Row("A negative status", "RFC 9112, 4", "http-garbled", first(b"HTTP/1.1 -200 OK")),
    Row(
        "A status line of 70 KB",
        "RFC 9112, 3",
        "http-garbled",
        first(b"HTTP/1.1 200 " + b"o" * 70000),
    ),
    Row("An empty line before the status line", "RFC 9112, 2.2", "http-garbled", before(b"\r\n")),
    Row(
        "An SSH server", "RFC 9112, 2.3", "http-garbled", instead(whole(b"SSH-2.0-OpenSSH_9.2\r\n"))
    ),
    Row(
        "100 (Continue) that nobody asked for",
        "RFC 9110, 15.2",
        "",
        before(b"HTTP/1.1 100 Continue\r\n\r\n"),
        "it must be skipped",
    ),
    Row(
        "103 (Early Hints) before the answer",
        "RFC 8297, 2",
        "",
        before(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
        "it must be skipped",
    ),
    Row(
        "100 (Continue) without end",
        "RFC 9110, 15.2",
        "timed-out",
        instead(slowly_for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n")),
        slow=True,
    ),
    Row(
        "101 (Switching Protocols)",
        "RFC 9110, 15.2.2",
        "est-refused",
        says(101, Upgrade="websocket", Connection="Upgrade"),
    ),
]

STATUS = [
    Row(f"{status} ({words})", f"RFC {of}", code, says(status, b"", **headers))
    for status, words, of, code, headers in [
        (201, "Created", "7030, 4.2.3", "est-garbled", {"Location": "/certificate"}),
        (203, "Non-Authoritative Information", "9110, 15.3.4", "est-garbled", {}),
        (204, "No Content", "7030, 4.2.3", "est-garbled", {}),
        (205, "Reset Content", "9110, 15.3.6", "est-garbled", {}),
        (206, "Partial Content", "9110, 15.3.7", "est-garbled", {"Content_Range": "bytes 0-1/99"}),
        (300, "Multiple Choices", "9110, 15.4.1", "est-redirected", {}),
        (
            301,
            "Moved Permanently, to http",
            "7030, 3.2.1",
            "est-redirected",
            {"Location": "http://localhost/"},
        ),
        (302, "Found, nowhere", "9110, 15.4.3", "est-redirected", {}),
        (304, "Not Modified", "9110, 15.4.5", "est-redirected", {}),
        (
            307,
            "Temporary Redirect, to itself",
            "7030, 3.2.1",
            "est-redirected",
            {"Location": "simpleenroll"},
        ),
        (
            308,
            "Permanent Redirect, to a file",
            "9110, 15.4.9",
            "est-redirected",
            {"Location": "file:///etc/shadow"},
        ),
        (400, "Bad Request", "7030, 4.2.3", "est-bad-request", {}),
        (401, "Unauthorized, without a challenge", "9110, 15.5.2", "est-unauthorized", {}),
        (
            401,
            "Unauthorized, Basic for ever",
            "7617, 2",
            "est-unauthorized",
            {"WWW_Authenticate": 'Basic realm="x"'},
        ),
        (
            401,
            "Unauthorized, wants Negotiate",
            "4559, 4",
            "est-unauthorized",
            {"WWW_Authenticate": "Negotiate"},
        ),
        (403, "Forbidden", "9110, 15.5.4", "est-forbidden", {}),
        (404, "Not Found", "9110, 15.5.5", "est-not-found", {}),
        (
            407,
            "Proxy Authentication Required, of no proxy",
            "9110, 15.5.8",
            "est-refused",
            {"Proxy_Authenticate": "Basic"},
        ),
        (408, "Request Timeout", "9110, 15.5.9", "server-busy", {}),
        (413, "Content Too Large", "9110, 15.5.14", "est-refused", {}),
        (415, "Unsupported Media Type", "9110, 15.5.16", "est-bad-request", {}),
        (421, "Misdirected Request", "9110, 15.5.20", "est-refused", {}),
        (426, "Upgrade Required", "9110, 15.5.22", "est-refused", {"Upgrade": "h2c"}),
        (429, "Too Many Requests", "6585, 4", "server-busy", {}),
        (451, "Unavailable For Legal Reasons", "7725, 3", "est-refused", {}),
        (500, "Internal Server Error", "9110, 15.6.1", "server-busy", {}),
        (501, "Not Implemented", "9110, 15.6.2", "server-busy", {}),
        (
            503,
            "Service Unavailable, until 2094",
            "9110, 15.6.4",
            "server-busy",
            {"Retry_After": "Sat, 06 Nov 2094 08:49:37 GMT"},
        ),
        (505, "HTTP Version Not Supported", "9110, 15.6.6", "server-busy", {}),
        (511, "Network Authentication Required", "6585, 6", "server-busy", {}),
        (600, "that there is not", "9110, 15", "server-busy", {}),
        (999, "that there is not", "9110, 15", "server-busy", {}),
    ]
]

ROWS = [*STATUS_LINE, *STATUS]
