"""An HTTPS server that misbehaves: each way a short name, to be put where a test wants it.

    tls = pki.root("TLS CA").server(directory)
    ways = {"cacerts": whole(certs(ca)), "simpleenroll": [whole(later("600")), hang]}
    with Hostile(tls, ways) as server:
        ...                     # talk to server.url, and then look at server.requests

The last segment of the path picks the way; a list is gone through, one request each, the last way
stays. What is not named is 404. A way is a function of a `Talk`; these take what they send:
`whole`, `chunked`, `drip`, `cut`, `then_hang`, `issue`; these are ways as they stand: `hang`,
`reset`, `echo`. What is sent is bytes: `http(status, body, header=value)`, `certs(...)`,
`later(...)`, `moved(...)`.

What goes wrong before HTTP is an argument: `plain=True` speaks no TLS, `mute=True` accepts and says
nothing, `tls_1_1=True` speaks nothing newer, `clients=ca` refuses clients of any other CA,
`context` is whatever a test makes of it. A server certificate with another name or in another year
comes from `identity`.
"""

import base64
import contextlib
import socket
import ssl
import struct
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from tests.lab import pki

LIMIT = 10.0  # seconds after which a forgotten connection ends by itself


@dataclass(frozen=True)
class Request:
    """What came in; names of `headers` in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Talk:
    """One request, the line to answer on, and what is set when the server ends."""

    request: Request
    line: socket.socket
    over: threading.Event


Way = Callable[[Talk], None]


# --- what can be sent ----------------------------------------------------------------------------


def http(status: int, body: bytes = b"", **headers: str) -> bytes:
    """A reply in good order; `Retry_After="5"` is the header Retry-After."""
    named = {"Content-Length": str(len(body))} if status != 204 else {}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def certs(
    *certificates: x509.Certificate,
    wrap: Callable[[bytes], bytes] = base64.encodebytes,
    kind: str = "application/pkcs7-mime; smime-type=certs-only",
) -> bytes:
    """An EST reply; `wrap` makes its body of the DER."""
    der = pkcs7.serialize_certificates(list(certificates), Encoding.DER)
    return http(200, wrap(der), Content_Type=kind, Content_Transfer_Encoding="base64")


def later(retry_after: str) -> bytes:
    return http(202, Retry_After=retry_after)


def moved(location: str, status: int = 301) -> bytes:
    return http(status, Location=location)


# --- ways to send it -----------------------------------------------------------------------------


def whole(reply: bytes) -> Way:
    return lambda talk: talk.line.sendall(reply)


def chunked(reply: bytes, *, broken: bool = False) -> Way:
    """In chunks of 100 bytes; or with a first chunk that is longer than it says."""
    head, _, body = reply.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
    pieces = [body[i : i + 100] for i in range(0, len(body), 100)]
    chunks = [b"%x\r\n%s\r\n" % (len(p) - (3 if broken else 0), p) for p in pieces]
    head = b"\r\n".join([*lines, b"Transfer-Encoding: chunked", b"", b""])
    return whole(head + b"".join(chunks) + b"0\r\n\r\n")


def drip(reply: bytes, seconds: float = 0.05) -> Way:
    """One byte at a time."""

    def way(talk: Talk) -> None:
        for byte in reply:
            talk.line.sendall(bytes([byte]))
            if talk.over.wait(seconds):
                return

    return way


def cut(reply: bytes, missing: int = 10) -> Way:
    """The last bytes do not come, and the connection is closed in good order."""

    def way(talk: Talk) -> None:
        talk.line.sendall(reply[: len(reply) - missing])
        raise EOFError

    return way


def then_hang(reply: bytes) -> Way:
    def way(talk: Talk) -> None:
        talk.line.sendall(reply)
        hang(talk)

    return way


def issue(make: Callable[[x509.CertificateSigningRequest], Sequence[x509.Certificate]]) -> Way:
    """Certificates made from the CSR: right ones, or as wrong as a test wants them."""

    def way(talk: Talk) -> None:
        if not talk.request.body:  # as of who only tries whether he would be let in
            return talk.line.sendall(http(400))
        csr = x509.load_der_x509_csr(base64.b64decode(talk.request.body))
        return talk.line.sendall(certs(*make(csr)))

    return way


def hang(talk: Talk) -> None:
    talk.over.wait(LIMIT)
    raise EOFError


def reset(talk: Talk) -> None:
    """RST instead of FIN."""
    talk.line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise EOFError


def echo(talk: Talk) -> None:
    """A 400 that quotes the whole request, secrets too."""
    quoted = "".join(f"{name}: {value}\n" for name, value in talk.request.headers.items())
    talk.line.sendall(http(400, quoted.encode()))


# --- the server ----------------------------------------------------------------------------------


class Hostile:
    """Runs for the length of a `with`."""

    def __init__(
        self,
        tls: pki.Tls,
        ways: Mapping[str, Way | Sequence[Way]] | None = None,
        *,
        plain: bool = False,
        mute: bool = False,
        tls_1_1: bool = False,
        clients: pki.Authority | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.ways = {k: [w] if callable(w) else list(w) for k, w in (ways or {}).items()}
        self._context = None if plain else context or _context(tls, tls_1_1, clients)
        self._mute = mute
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"https://localhost:{self.port}/.well-known/est"
        self.requests: list[Request] = []
        self._lines: set[socket.socket] = set()
        self.connections = 0
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for line in list(self._lines):
            with contextlib.suppress(
                OSError
            ):  # closed already; not SSLSocket.shutdown: other thread
                socket.socket.shutdown(line, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._over.is_set():
                line, _ = self._listener.accept()
                self.connections += 1
                thread = threading.Thread(target=self._serve, args=(line,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, line: socket.socket) -> None:
        line.settimeout(LIMIT)
        with contextlib.suppress(OSError, EOFError), line:
            if self._mute:
                self._over.wait(LIMIT)
            elif self._context is None:
                line.recv(1 << 12)
                line.sendall(http(400, b"This is not HTTPS"))
            else:
                wrap = self._context.wrap_socket
                with wrap(line, server_side=True, do_handshake_on_connect=False) as secured:
                    self._lines.add(secured)
                    _shake_hands(secured)
                    self._talk(secured)
                    self._lines.remove(secured)

    def _talk(self, line: socket.socket) -> None:
        with line.makefile("rb") as stream:
            while request := _request(stream):
                self.requests.append(request)
                ways = self.ways.get(request.path.rpartition("/")[2], [whole(http(404))])
                way = ways.pop(0) if len(ways) > 1 else ways[0]
                way(Talk(request, line, self._over))


def _shake_hands(line: ssl.SSLSocket) -> None:
    """A failed handshake is no reason to slam the door: the alert would be lost in the RST."""
    try:
        line.do_handshake()
    except ssl.SSLError as e:
        with socket.socket(fileno=line.detach()) as bare:
            bare.settimeout(LIMIT)
            bare.shutdown(socket.SHUT_WR)
            while bare.recv(1 << 12):
                pass
        raise EOFError from e


def _request(stream: BinaryIO) -> Request | None:
    first = stream.readline(1 << 16).split()
    if len(first) != 3:
        return None
    headers = {}
    while line := stream.readline(1 << 16).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    body = stream.read(int(headers.get("content-length", "0")))
    return Request(first[0].decode(), first[1].decode(), headers, body)


def _context(tls: pki.Tls, tls_1_1: bool, clients: pki.Authority | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.chain, tls.key)
    if tls_1_1:
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=pki.pem(*clients.chain).decode())
    return context


def identity(
    ca: pki.Authority,
    directory: Path,
    *,
    name: str = "localhost",
    starts: timedelta = -timedelta(hours=1),
    lasts: timedelta = pki.YEAR,
) -> pki.Tls:
    """A server certificate like `Authority.server` makes, but for another name or time."""
    files = ca.server(directory)
    key = pki.new_key()
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    own = ca.issue(
        key.public_key(), name, starts=starts, lasts=lasts, usages=[pki.SERVER], extensions=[names]
    )
    files.chain.write_bytes(pki.pem(own, *ca.chain[:-1]))
    files.key.write_bytes(pki.private_pem(key))
    return files
