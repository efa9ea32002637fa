"""Ways to misbehave in TLS: of an EST server, and what becomes of DPS is the same."""

import ssl
import warnings
from collections.abc import Callable

from tests.lab import pki
from tests.lab.hostile import Talk, Way, http, whole
from tests.lab.hostile_bench import Bench, Row
from tests.lab.hostile_http import How, answer, est
from tests.lab.hostile_raw import (
    ALERT,
    DATA,
    HANDSHAKE,
    RC4,
    RETRY,
    TLS_1_3,
    Speak,
    alert,
    dripping,
    endlessly,
    extension,
    hung_up,
    message,
    once,
    raw,
    record,
    server_hello,
    slammed,
    then_silent,
    twice,
)

WEAK = "ALL:@SECLEVEL=0"
MUTUAL = {"ldevid": {"est": {"auth": "mtls", "username": None}}}
Context = Callable[[ssl.SSLContext, Bench], object]


def said(speak: Speak) -> How:
    return lambda _: raw(speak)


def secured(change: Context, way: Callable[[Bench], Way] | None = None) -> How:
    """A good server, whose TLS is made otherwise; to enroll is answered in this way."""

    def context(bench: Bench) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.set_ciphers(WEAK)
        made.load_cert_chain(bench.tls.chain, bench.tls.key)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            change(made, bench)
        return made

    ways = (lambda bench: {"simpleenroll": way(bench)}) if way else (lambda _: {})
    return est(ways, context=context)


def only(version: ssl.TLSVersion, ciphers: str = WEAK) -> How:
    def change(context: ssl.SSLContext, _: Bench) -> None:
        context.minimum_version = context.maximum_version = version
        context.set_ciphers(ciphers)

    return secured(change)


def mutual(change: Context = lambda *_: None, way: Callable[[Bench], Way] | None = None) -> How:
    """It asks for a client certificate."""

    def changed(context: ssl.SSLContext, bench: Bench) -> None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=pki.pem(*bench.world.oem.chain).decode())
        change(context, bench)

    return secured(changed, way)


def afterwards(bench: Bench) -> Way:
    """The client certificate is asked for once the request is here (RFC 8446, 4.6.2)."""

    def way(talk: Talk) -> None:
        line = talk.line
        assert isinstance(line, ssl.SSLSocket)
        line.verify_client_post_handshake()
        line.sendall(answer(bench, talk))

    return way


def many_names(context: ssl.SSLContext, bench: Bench) -> None:
    """The CAs that it would like to see: as many as there is room for."""
    for n in range(300):
        context.load_verify_locations(cadata=pki.pem(pki.root(f"CA {n}").root).decode())


def alone(context: ssl.SSLContext, _: Bench) -> None:
    """Whoever does not offer HTTP/2, is refused as RFC 7301 has it: here by what it is called."""
    context.set_alpn_protocols(["h2"])


def unrecognized(context: ssl.SSLContext, _: Bench) -> None:
    context.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME


def without_goodbye(bench: Bench) -> Way:
    """The answer has no length, and ends without close_notify."""

    def way(talk: Talk) -> None:
        head, _, body = answer(bench, talk).partition(b"\r\n\r\n")
        fields = [f for f in head.split(b"\r\n") if not f.startswith(b"Content-Length")]
        talk.line.sendall(b"\r\n".join([*fields, b"", b""]) + body)
        raise EOFError

    return way


def tickets(context: ssl.SSLContext, _: Bench) -> None:
    context.num_tickets = 1000


SETTINGS = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64"  # RFC 9113, 6.5

BEFORE = [
    Row("HTTP without TLS", "RFC 8446, 5", "tls-failed", said(once(http(400, b"No TLS here")))),
    Row("An SSH server", "RFC 8446, 5", "tls-failed", said(once(b"SSH-2.0-OpenSSH_9.2p1\r\n"))),
    Row("Zeroes", "RFC 8446, 5.1", "tls-failed", said(once(bytes(10000)))),
    Row("Random bytes", "RFC 8446, 5.1", "tls-failed", said(once(bytes(range(255, -1, -1)) * 9))),
    Row("It hangs up", "RFC 8446, 6.1", "unreachable", said(hung_up)),
    Row("It slams the door (RST)", "RFC 9293, 3.10.7", "unreachable", said(slammed)),
    Row("Silence", "RFC 8446, 4", "timed-out", said(then_silent(b"")), slow=True),
    Row(
        "Silence in mid-record",
        "RFC 8446, 5.1",
        "timed-out",
        said(then_silent(record(HANDSHAKE, bytes(100))[:50])),
        slow=True,
    ),
    Row("close_notify at once", "RFC 8446, 6.1", "unreachable", said(once(alert(0, 1)))),
    *(
        Row(f"Alert {words} ({code})", "RFC 8446, 6.2", told, said(once(alert(code))))
        for code, words, told in [
            (40, "handshake_failure", "tls-failed"),
            (42, "bad_certificate", "tls-client-refused"),
            (70, "protocol_version", "tls-failed"),
            (80, "internal_error", "tls-failed"),
            (112, "unrecognized_name", "tls-failed"),
            (120, "no_application_protocol", "tls-failed"),
            (255, "that there is not", "tls-failed"),
        ]
    ),
    Row("Warnings without end", "RFC 8446, 6", "tls-failed", said(endlessly(alert(90, 1)))),
    Row(
        "An alert of five bytes", "RFC 8446, 6", "tls-failed", said(once(record(ALERT, b"\2(abc")))
    ),
    Row(
        "Records of no content, without end",
        "RFC 8446, 5.1",
        "tls-failed",
        said(endlessly(record(HANDSHAKE, b""))),
    ),
    Row(
        "A record longer than there may be",
        "RFC 8446, 5.1",
        "tls-failed",
        said(once(record(HANDSHAKE, bytes(20000)))),
    ),
    Row(
        "A record of an unknown type",
        "RFC 8446, 5.1",
        "tls-failed",
        said(once(record(99, bytes(9)))),
    ),
    Row(
        "Data before the handshake", "RFC 8446, 5", "tls-failed", said(once(record(DATA, bytes(9))))
    ),
    Row(
        "SSL 2.0",
        "RFC 6176, 3",
        "tls-failed",
        said(once(b"\x80\x13\x04\0\1\0\2\0\0\0\3\0\0" + bytes(9))),
    ),
    Row(
        "ServerHello of SSL 3.0",
        "RFC 7568, 3",
        "tls-failed",
        said(once(server_hello(version=0x0300))),
    ),
    Row(
        "ServerHello with a cipher suite that nobody offered",
        "RFC 8446, 4.1.3",
        "tls-failed",
        said(once(server_hello(suite=RC4))),
    ),
    Row(
        "ServerHello with an extension that nobody asked for",
        "RFC 8446, 4.2",
        "tls-failed",
        said(once(server_hello(extensions=extension(0x1234, b"x")))),
    ),
    Row(
        "ServerHello that breaks off inside",
        "RFC 8446, 4.1.3",
        "tls-failed",
        said(once(record(HANDSHAKE, message(2, bytes(10))))),
    ),
    Row("HelloRetryRequest again and again", "RFC 8446, 4.1.4", "tls-failed", said(twice)),
    Row(
        "HelloRetryRequest for no other group",
        "RFC 8446, 4.1.4",
        "tls-failed",
        said(once(server_hello(RETRY, extensions=TLS_1_3))),
    ),
    Row(
        "HelloRetryRequest for a group that nobody offered",
        "RFC 8446, 4.2.8",
        "tls-failed",
        said(once(server_hello(RETRY, extensions=TLS_1_3 + extension(51, b"\xfe\xfe")))),
    ),
    Row(
        "A handshake message of 16 megabytes",
        "RFC 8446, 4",
        "tls-failed",
        said(once(record(HANDSHAKE, b"\2\xff\xff\xff" + bytes(1000)))),
    ),
    Row(
        "A HelloRequest without end",
        "RFC 5246, 7.4.1.1",
        "timed-out",
        said(endlessly(record(HANDSHAKE, message(0, b"")))),
        slow=True,
    ),
    Row(
        "One byte of ServerHello now and then",
        "RFC 8446, 4",
        "timed-out",
        said(dripping),
        slow=True,
    ),
]

AGREED = [
    Row("TLS 1.0 alone", "RFC 8996, 2", "tls-failed", only(ssl.TLSVersion.TLSv1)),
    Row("TLS 1.1 alone", "RFC 8996, 2", "tls-failed", only(ssl.TLSVersion.TLSv1_1)),
    Row("TLS 1.2 alone", "RFC 9325, 3.1.1", "", only(ssl.TLSVersion.TLSv1_2), "it is good enough"),
    Row(
        "TLS 1.2 without forward secrecy",
        "RFC 9325, 4.1",
        "tls-failed",
        only(ssl.TLSVersion.TLSv1_2, "AES128-SHA256:@SECLEVEL=0"),
    ),
    Row(
        "TLS 1.2, no authentication",
        "RFC 9325, 4.1",
        "tls-failed",
        only(ssl.TLSVersion.TLSv1_2, "aNULL:@SECLEVEL=0"),
    ),
    Row(
        "TLS 1.2, no encryption",
        "RFC 9325, 4.1",
        "tls-failed",
        only(ssl.TLSVersion.TLSv1_2, "eNULL:@SECLEVEL=0"),
    ),
    Row(
        "HTTP/2 alone, by ALPN",
        "RFC 7301, 3.2",
        "",
        secured(alone),
        "who offers no ALPN is answered in HTTP/1.1",
    ),
    Row(
        "HTTP/2 alone, and nothing else",
        "RFC 9113, 3.4",
        "http-garbled",
        est(lambda _: {"cacerts": whole(SETTINGS)}),
    ),
    Row("It does not know the name (SNI)", "RFC 6066, 3", "tls-failed", secured(unrecognized)),
    Row("A thousand session tickets", "RFC 8446, 4.6.1", "", secured(tickets), "they are not kept"),
    Row(
        "No close_notify where it says where the answer ends",
        "RFC 8446, 6.1",
        "",
        secured(lambda *_: None, without_goodbye),
        "DER says itself where it ends",
    ),
    Row(
        "Wants a client certificate that there is none",
        "RFC 8446, 4.4.2.4",
        "tls-client-refused",
        mutual(),
    ),
    Row(
        "Wants a client certificate, and names 300 CAs",
        "RFC 8446, 4.2.4",
        "",
        mutual(many_names),
        "the IDevID is shown whatever they are",
        settings=MUTUAL,
    ),
    Row(
        "Wants a client certificate in mid-connection",
        "RFC 8446, 4.6.2",
        "",
        secured(lambda c, b: _later(c, b), afterwards),
        "the IDevID is shown",
        settings=MUTUAL,
    ),
    Row(
        "Does not like the client's CA",
        "RFC 8446, 6.2",
        "tls-client-refused",
        secured(lambda c, b: _of_others(c, b)),
        settings=MUTUAL,
    ),
]


def _later(context: ssl.SSLContext, bench: Bench) -> None:
    context.post_handshake_auth = True
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=pki.pem(*bench.world.oem.chain).decode())


def _of_others(context: ssl.SSLContext, _: Bench) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=pki.pem(pki.root("Others").root).decode())


ROWS = [*BEFORE, *AGREED]
