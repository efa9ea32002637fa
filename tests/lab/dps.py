"""A Device Provisioning Service on 127.0.0.1, a process of its own: `python -m tests.lab.dps FILE`.

It answers as the real one does (REST API 2021-06-01, Runtime Registration: Register Device,
Operation Status Lookup), and looks as closely. A registration needs one of two proofs:

- a TLS client certificate whose chain, made of what the client sent, leads to an enrolled CA (an
  enrolment group), or which is itself enrolled, which is in date, is meant for clients, and whose
  common name is the registration id. Strangers complete the handshake and then get 401, with the
  reason;
- a token signed with a key that only the TPM with the enrolled endorsement key can have unwrapped.

Here is HTTP; the service is in dps_service, proofs in dps_attestation, dps_enrolments, dps_tpm and
dps_sas, what tests may wish in dps_behaviour, limits in dps_limits, the hubs' devices in dps_hubs.
"""

import contextlib
import io
import json
import os
import sys
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from OpenSSL import SSL

from tests.lab.dps_behaviour import Reply, Request
from tests.lab.dps_service import Service

JSON = "application/json; charset=utf-8"
PORTAL = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>Log in.</body></html>\n"
HUGE = 8 << 20


class Stream(io.RawIOBase):
    """A TLS connection as a file."""

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return int(self._connection.recv_into(buffer))
        except (SSL.ZeroReturnError, SSL.SysCallError):
            return 0

    def write(self, data: Any) -> int:
        return int(self._connection.sendall(bytes(data)))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def setup(self) -> None:
        tls = SSL.Connection(self.server.context, self.request)
        tls.set_accept_state()
        tls.do_handshake()
        leaf = tls.get_peer_certificate(as_cryptography=True)
        sent = tls.get_peer_cert_chain(as_cryptography=True) or []
        self.chain = [] if leaf is None else [leaf, *(c for c in sent if c != leaf)]
        self.rfile = io.BufferedReader(Stream(tls))
        self.wfile = Stream(tls)  # type: ignore[assignment]
        self.connection = tls

    def finish(self) -> None:
        with contextlib.suppress(SSL.Error):  # the client has gone already
            self.connection.shutdown()

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The `Date` header, by the service's clock."""
        now = self.server.service.script.now() if timestamp is None else timestamp
        return formatdate(now, usegmt=True)

    def _reply(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token, kind = self.headers.get("Authorization"), self.headers.get("Content-Type")
        asked = Request(self.command, self.path, body, token, self.chain, kind)
        reply = self.server.service.answer(asked)
        if reply.odd == "silence":
            self.close_connection = True
            return
        kind, data = content(reply)
        self.send_response(200 if reply.odd == "html" else reply.status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data) * (2 if reply.odd == "cut" else 1)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.close_connection = reply.odd == "cut"
        self.end_headers()
        with contextlib.suppress(SSL.Error):  # the client may have had enough
            self.wfile.write(data)

    do_PUT = do_GET = do_POST = do_DELETE = _reply

    def log_message(self, format: str, *args: object) -> None:
        """The service keeps its own log."""


def content(reply: Reply) -> tuple[str, bytes]:
    """Content type and body: JSON, or one of dps_behaviour.ODD:

    "html": what a captive portal says, with 200; "truncated": half the JSON; "cut": half of what
    Content-Length promises; "empty": nothing; "list": JSON of another kind; "content-type": the
    right thing as text; "huge": 8 MB; "binary": no text; "silence": the connection ends.
    """
    data = json.dumps(reply.body).encode()
    kinds = {"html": "text/html; charset=utf-8", "content-type": "text/plain"}
    half = data[: len(data) // 2]
    bodies = {"html": PORTAL, "truncated": half, "cut": half, "empty": b"", "list": b"[]"}
    if reply.odd in ("huge", "binary"):
        bodies = {"huge": data[:-1] + b" " * HUGE + b"}", "binary": b"\xff\xfe" + os.urandom(98)}
    return kinds.get(reply.odd, JSON), bodies.get(reply.odd, data)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, settings: dict[str, Any]) -> None:
        self.service, self.context = Service(settings), SSL.Context(SSL.TLS_SERVER_METHOD)
        self.context.set_min_proto_version(SSL.TLS1_2_VERSION)
        self.context.use_certificate_chain_file(settings["certificate"])
        self.context.use_privatekey_file(settings["key"])
        self.context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        self.context.set_options(SSL.OP_NO_TICKET)
        # Whoever it is gets an answer; `proven` gives it.
        self.context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        super().__init__(("127.0.0.1", settings["port"]), Handler)


if __name__ == "__main__":
    Server(json.loads(Path(sys.argv[1]).read_text())).serve_forever()
