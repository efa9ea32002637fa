"""A server in front of another, that has its own certificate, says another time, and tells when
somebody comes.

    with Relay(tls, world.dps.port, date=lambda said: None) as relay:
        ...                           # clients use relay.url instead of world.dps.url
        relay.heard = lambda: clock.jump(DAY)    # whenever somebody has said ClientHello

Who logs in by a TLS certificate gets no further than here: it is for other logins.
"""

import http.client
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from tests.lab import pki

Said = Callable[[str], str | None]
SECONDS = 20.0


class Relay:
    """`behind`: a port on localhost, vouched for by `trust`. `date`: what to say of the time, None
    for nothing. `heard`: called in the midst of each handshake; `asked`: before each request."""

    def __init__(
        self, tls: pki.Tls, behind: int, trust: Path, date: Said = lambda said: said
    ) -> None:
        self._behind, self._date = behind, date
        self.heard: Callable[[], None] = lambda: None
        self.asked: Callable[[str], None] = lambda path: None
        self._inner = ssl.create_default_context(cafile=trust)
        self._inner.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self._outer = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._outer.load_cert_chain(tls.chain, tls.key)
        self._outer.sni_callback = lambda *_: self.heard()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._server.outer = self._outer
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"https://localhost:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = SECONDS

            def _pass_on(self) -> None:
                relay.asked(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                relay.answer(self, body)

            do_GET = do_PUT = do_POST = _pass_on

            def log_message(self, *_: object) -> None:
                """To nobody."""

        return Handler

    def answer(self, to: BaseHTTPRequestHandler, body: bytes) -> None:
        """What the server behind says, but for the time."""
        line = http.client.HTTPSConnection(
            "localhost", self._behind, context=self._inner, timeout=SECONDS
        )
        try:
            line.request(to.command, to.path, body, dict(to.headers))
            reply = line.getresponse()
            whole = reply.read()
        finally:
            line.close()
        to.send_response_only(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("date", "content-length", "transfer-encoding", "connection"):
                to.send_header(name, value)
        if (said := self._date(reply.getheader("Date", ""))) is not None:
            to.send_header("Date", said)
        to.send_header("Content-Length", str(len(whole)))
        to.end_headers()
        to.wfile.write(whole)


class _Server(ThreadingHTTPServer):
    """Each handshake in the thread of its connection."""

    daemon_threads = True
    outer: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            request.settimeout(SECONDS)
            with self.outer.wrap_socket(request, server_side=True) as line:
                super().finish_request(line, client_address)
        except OSError:
            pass  # the client has gone: that is for it to tell

    def handle_error(self, *_: object) -> None:
        """A client that goes is none."""
