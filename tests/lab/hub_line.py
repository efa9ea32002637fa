"""A client's line to the hub of the lab: TLS, and WebSockets (RFC 6455) in it. Whoever comes with a
client certificate completes the handshake; what it is worth is judged later, as IoT Hub does."""

import base64
import contextlib
import hashlib
import socket
import struct
from collections.abc import Callable

from cryptography import x509
from OpenSSL import SSL

PATH, SUBPROTOCOL = "/$iothub/websocket", "mqtt"
MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
HEADER = 1 << 14  # bytes at most
CONTINUED, BINARY, CLOSE, PING, PONG = 0, 2, 8, 9, 10


class Gone(Exception):
    """Nobody is at the other end any more."""


def server_context(certificate: str, key: str) -> SSL.Context:
    """TLS 1.2 and 1.3; client certificates are asked for, not insisted on, and not judged."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.use_certificate_chain_file(certificate)
    context.use_privatekey_file(key)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    return context


class TlsLine:
    """One thread reads and writes; any may `cut`."""

    def __init__(self, context: SSL.Context, plain: socket.socket) -> None:
        self._plain, self._tls = plain, SSL.Connection(context, plain)
        self._tls.set_accept_state()

    def shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except SSL.Error as e:
            raise Gone(f"no TLS: {e!r}") from e

    @property
    def protocol(self) -> str:
        return self._tls.get_protocol_version_name()

    def chain(self) -> list[x509.Certificate]:
        """What the client showed, its own first."""
        leaf = self._tls.get_peer_certificate(as_cryptography=True)
        sent = self._tls.get_peer_cert_chain(as_cryptography=True) or []
        return [] if leaf is None else [leaf, *(c for c in sent if c != leaf)]

    def take(self, count: int) -> bytes:
        """Exactly so many bytes."""
        data = b""
        while len(data) < count:
            try:
                data += self._tls.recv(count - len(data))
            except SSL.Error as e:
                raise Gone(f"connection lost: {e!r}") from e
        return data

    def write(self, data: bytes) -> None:
        try:
            self._tls.sendall(data)
        except SSL.Error as e:
            raise Gone(f"connection lost: {e!r}") from e

    def finish(self) -> None:
        """End TLS in good order."""
        with contextlib.suppress(SSL.Error):  # the client has gone already
            self._tls.shutdown()

    def cut(self) -> None:
        """The other end sees a connection that breaks off."""
        with contextlib.suppress(OSError):  # it has broken off already
            self._plain.shutdown(socket.SHUT_RDWR)


class WebSocket:
    """MQTT's bytes in binary frames; how they are cut into frames means nothing."""

    def __init__(self, line: TlsLine) -> None:
        self._line, self._buffer = line, b""
        self.finish, self.cut = line.finish, line.cut
        self._upgrade()

    def _upgrade(self) -> None:
        request, *lines = self._head().split("\r\n")
        headers = {n.strip().lower(): v.strip() for n, _, v in (x.partition(":") for x in lines)}
        offered = [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",")]
        method, _, url = request.removesuffix(" HTTP/1.1").partition(" ")
        if (method, url.partition("?")[0]) != ("GET", PATH):
            self._refuse("404 Not Found", request)
        upgrade = headers.get("upgrade", "").lower(), headers.get("sec-websocket-version")
        if upgrade != ("websocket", "13") or SUBPROTOCOL not in offered:
            self._refuse("400 Bad Request", f"headers {headers}")
        seen = hashlib.sha1(f"{headers['sec-websocket-key']}{MAGIC}".encode())  # noqa: S324
        answer = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {base64.b64encode(seen.digest()).decode()}",
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
        ]
        self._line.write("".join(f"{each}\r\n" for each in [*answer, ""]).encode())

    def _head(self) -> str:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._line.take(1)
            if len(head) > HEADER:
                raise Gone("a request without end")
        return head[:-4].decode("latin-1")

    def _refuse(self, status: str, why: str) -> None:
        self._line.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        raise Gone(f"no WebSocket, {status}: {why}")

    def take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._buffer += self._data()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _data(self) -> bytes:
        """The payload of the next frame of data; control frames are answered."""
        kind, payload = _frame(self._line.take)
        if kind in (BINARY, CONTINUED):
            return payload
        if kind == CLOSE:
            self._send(CLOSE, payload)
            raise Gone("WebSocket closed by the client")
        if kind == PING:
            self._send(PONG, payload)
        elif kind != PONG:
            raise Gone(f"a WebSocket frame of type {kind}")
        return b""

    def write(self, data: bytes) -> None:
        self._send(BINARY, data)

    def _send(self, kind: int, data: bytes) -> None:
        assert len(data) < 126  # the hub's answers are short
        self._line.write(bytes([0x80 | kind, len(data)]) + data)


def _frame(take: Callable[[int], bytes]) -> tuple[int, bytes]:
    first, second = take(2)
    length = second & 127
    if length == 126:
        [length] = struct.unpack(">H", take(2))
    elif length == 127:
        [length] = struct.unpack(">Q", take(8))
    if not second & 0x80 or first & 0x70 or length > 1 << 20:
        raise Gone(f"a WebSocket frame that begins with {first:#x} {second:#x}")
    mask, masked = take(4), take(length)
    return first & 15, bytes(byte ^ mask[i & 3] for i, byte in enumerate(masked))
