"""Ways to misbehave in HTTP: each is an EST server's answer to a request to enroll, good but for
this. What HTTP makes of it is the same for DPS, for one client asks both."""

import base64
import gzip
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from tests.lab.hostile import (
    Hostile,
    Talk,
    Way,
    certs,
    cut,
    http,
    issue,
    reset,
    whole,
)
from tests.lab.hostile_bench import Bench

How = Callable[[Bench], AbstractContextManager[int]]
Ways = Mapping[str, Any]


def est(ways: Callable[[Bench], Ways] = lambda _: {}, **server: Any) -> How:
    """A good EST server, but for these ways."""

    @contextmanager
    def how(bench: Bench) -> Any:
        usual: dict[str, Any] = {
            "cacerts": whole(certs(*bench.issuer.chain)),
            "csrattrs": whole(http(204)),
            "simpleenroll": issue(lambda csr: [good(bench, csr)]),
        }
        given = {name: make(bench) if callable(make) else make for name, make in server.items()}
        with Hostile(bench.tls, {**usual, **ways(bench)}, **given) as there:
            yield there.port

    return how


def good(bench: Bench, csr: x509.CertificateSigningRequest) -> x509.Certificate:
    return bench.issuer.issue(csr.public_key(), csr.subject)


@dataclass
class Parts:
    """Of a reply."""

    first: bytes
    fields: list[bytes]
    body: bytes
    end: bytes = b"\r\n"

    def put(self, *fields: bytes) -> None:
        """In the place of those of the same names."""
        names = {each.partition(b":")[0].strip().lower() for each in fields}
        kept = [f for f in self.fields if f.partition(b":")[0].lower() not in names]
        self.fields = [*kept, *fields]

    def without(self, name: bytes) -> None:
        self.fields = [f for f in self.fields if not f.startswith(name)]

    def __bytes__(self) -> bytes:
        return self.end.join([self.first, *self.fields, b"", b""]) + self.body


Change = Callable[[Parts], object]


def answer(bench: Bench, talk: Talk) -> bytes:
    """The good one."""
    csr = x509.load_der_x509_csr(base64.b64decode(talk.request.body))
    return certs(good(bench, csr))


def answering(way: Callable[[bytes], Way]) -> How:
    """To enroll gets the good answer, sent in a way of its own."""

    def made(bench: Bench) -> Way:
        return lambda talk: way(answer(bench, talk))(talk)

    return est(lambda bench: {"simpleenroll": made(bench)})


def changed(change: Change, *, ends: bool = False) -> How:
    """... changed; `ends`: and the connection with it."""

    def way(reply: bytes) -> Way:
        head, _, body = reply.partition(b"\r\n\r\n")
        first, *fields = head.split(b"\r\n")
        parts = Parts(first, fields, body)
        change(parts)
        return cut(bytes(parts), 0) if ends else whole(bytes(parts))

    return answering(way)


def first(line: bytes) -> How:
    return changed(lambda parts: setattr(parts, "first", line))


def fields(*lines: bytes) -> How:
    return changed(lambda parts: parts.put(*lines))


def before(data: bytes) -> How:
    return answering(lambda reply: whole(data + reply))


def says(status: int, body: bytes = b"", **headers: str) -> How:
    return est(lambda _: {"simpleenroll": whole(http(status, body, **headers))})


def instead(way: Way) -> How:
    return est(lambda _: {"simpleenroll": way})


def ending(parts: Parts) -> None:
    """It says no length: it is as long as the connection lasts."""
    parts.without(b"Content-Length")
    parts.put(b"Connection: close")


def in_chunks(make: Callable[[bytes], bytes], *more: bytes) -> How:
    def change(parts: Parts) -> None:
        parts.without(b"Content-Length")
        parts.put(b"Transfer-Encoding: chunked", *more)
        parts.body = make(parts.body)

    return changed(change, ends=True)


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


LAST = b"0\r\n\r\n"


def packed(encoding: bytes, pack: Callable[[bytes], bytes]) -> How:
    def change(parts: Parts) -> None:
        parts.body = pack(parts.body)
        parts.put(b"Content-Encoding: " + encoding, b"Content-Length: %d" % len(parts.body))

    return changed(change)


def bomb(_: bytes) -> bytes:
    """A gigabyte in a megabyte, or less."""
    return gzip.compress(bytes(200 << 20), 9)


def for_ever(begin: bytes, piece: bytes) -> Way:
    def way(talk: Talk) -> None:
        talk.line.sendall(begin)
        while not talk.over.is_set():
            talk.line.sendall(piece)

    return way


def slowly_for_ever(begin: bytes, piece: bytes) -> Way:
    def way(talk: Talk) -> None:
        talk.line.sendall(begin)
        while not talk.over.wait(0.01):
            talk.line.sendall(piece)

    return way


def with_cookies(bench: Bench) -> Ways:
    """Who sends one back is refused."""

    def way(talk: Talk) -> None:
        talk.line.sendall(http(400) if "cookie" in talk.request.headers else answer(bench, talk))

    cookies = {"Set_Cookie": "id=1; Path=/; Secure"}
    return {"csrattrs": whole(http(204, b"", **cookies)), "simpleenroll": way}


def cut_in_two(reply: bytes) -> Way:
    def way(talk: Talk) -> None:
        talk.line.sendall(reply[: len(reply) // 2])
        reset(talk)

    return way
