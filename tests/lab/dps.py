"""A Device Provisioning Service on 127.0.0.1, a process of its own: `python -m tests.lab.dps FILE`.

It answers as the real one does (REST API 2021-06-01, Runtime Registration: Register Device,
Operation Status Lookup), and looks as closely: a registration needs a TLS client certificate whose
chain, made of what the client sent, leads to an enrolled CA (an enrolment group), which is in date,
is meant for clients, and whose common name is the registration id. Strangers complete the handshake
and then get 401, with the reason. Error codes are the real ones where they are published (400, 401,
404, 429 and three more digits), the rest of the digits are ours.
"""

import contextlib
import io
import json
import re
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import (
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)
from OpenSSL import SSL

PATHS = re.compile(r"^/([^/]+)/registrations/([^/]+)/(register|operations/([^/]+))$")
VERSIONS = ["2019-03-31", "2021-06-01", "2021-10-01"]


class Error(Exception):
    """An answer other than success: HTTP status, error code, words."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class Behaviour:
    """What a test may ask for, read from the file whenever it has changed."""

    throttle: int = 0  # so many requests get 429
    polls: int = 1  # so often an operation is still "assigning"
    retry_after: int = 1  # seconds, in the header
    disabled: list[str] = field(default_factory=list)  # registration ids
    failing: list[str] = field(default_factory=list)  # registration ids: no hub (400208)


@dataclass
class Operation:
    registration_id: str
    polls: int


class Service:
    """Everything but HTTP; `answer` is called from many threads."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._scope, self._hub = settings["scope"], settings["hub"]
        files = [Path(name).read_bytes() for name in settings["enrolled"]]
        self._enrolled = [c for data in files for c in x509.load_pem_x509_certificates(data)]
        self._log, self._script = Path(settings["log"]), Path(settings["behaviour"])
        self._behaviour, self._changed = Behaviour(), 0
        self._operations: dict[str, Operation] = {}
        self._lock = threading.Lock()

    def answer(
        self, method: str, url: str, body: bytes, chain: list[x509.Certificate]
    ) -> tuple[int, dict[str, Any]]:
        """HTTP status and JSON; logged before it is sent."""
        with self._lock:
            self._follow_script()
            try:
                status, reply = self._answer(method, url, body, chain)
            except Error as e:
                words = {"errorCode": e.code, "message": str(e), "trackingId": str(uuid.uuid4())}
                status, reply = e.status, {**words, "timestampUtc": _now()}
            self._write_log(method, url, status, reply, chain)
            return status, reply

    @property
    def retry_after(self) -> int:
        return self._behaviour.retry_after

    def _follow_script(self) -> None:
        if self._script.exists() and (now := self._script.stat().st_mtime_ns) != self._changed:
            self._behaviour = Behaviour(**json.loads(self._script.read_text()))
            self._changed = now

    def _answer(
        self, method: str, url: str, body: bytes, chain: list[x509.Certificate]
    ) -> tuple[int, dict[str, Any]]:
        path = urlsplit(url)
        found = PATHS.match(path.path)
        if found is None or parse_qs(path.query).get("api-version", [""])[0] not in VERSIONS:
            raise Error(400, 400000, f"Bad request: '{url}'")
        scope, registration_id, _, operation = map(unquote, found.groups(""))
        self._throttle()
        if scope != self._scope:
            raise Error(404, 404201, f"ID scope '{scope}' not found")
        authenticate(chain, registration_id, self._enrolled)
        if (method, bool(operation)) == ("PUT", False):
            return self._register(registration_id, body)
        if (method, bool(operation)) == ("GET", True):
            return self._look_up(registration_id, operation)
        raise Error(405, 405000, f"Method {method} not allowed")

    def _throttle(self) -> None:
        if self._behaviour.throttle > 0:
            self._behaviour.throttle -= 1
            raise Error(429, 429001, "Operations are being throttled")

    def _register(self, registration_id: str, body: bytes) -> tuple[int, dict[str, Any]]:
        try:
            asked = json.loads(body)["registrationId"]
        except (ValueError, KeyError, TypeError) as e:
            raise Error(400, 400001, f"Bad request: {e!r}") from e
        if asked != registration_id:
            raise Error(400, 400004, f"registrationId in the body is '{asked}'")
        operation = f"5.{uuid.uuid4().hex[:16]}.{uuid.uuid4()}"
        self._operations[operation] = Operation(registration_id, self._behaviour.polls)
        return 202, {"operationId": operation, "status": "assigning"}

    def _look_up(self, registration_id: str, operation: str) -> tuple[int, dict[str, Any]]:
        running = self._operations.get(operation)
        if running is None or running.registration_id != registration_id:
            raise Error(404, 404202, f"Operation '{operation}' not found")
        if running.polls > 0:
            running.polls -= 1
            state = {"registrationId": registration_id, "status": "assigning"}
            return 202, {
                "operationId": operation,
                "status": "assigning",
                "registrationState": state,
            }
        state = self._state(registration_id)
        return 200, {
            "operationId": operation,
            "status": state["status"],
            "registrationState": state,
        }

    def _state(self, registration_id: str) -> dict[str, Any]:
        state = {"x509": {}, "registrationId": registration_id, "createdDateTimeUtc": _now()}
        if registration_id in self._behaviour.disabled:
            return state | {"status": "disabled"}
        if registration_id in self._behaviour.failing:
            words = {"errorCode": 400208, "errorMessage": "No IoT hub is available"}
            return state | {"status": "failed", **words}
        where = {"assignedHub": self._hub, "deviceId": registration_id}
        more = {"substatus": "initialAssignment", "lastUpdatedDateTimeUtc": _now(), "etag": "lab"}
        return state | {"status": "assigned", **where, **more}

    def _write_log(
        self,
        method: str,
        url: str,
        status: int,
        reply: dict[str, Any],
        chain: list[x509.Certificate],
    ) -> None:
        line: dict[str, Any] = {"time": time.time(), "method": method, "url": url, "http": status}
        if chain:
            leaf = chain[0]
            line["subject"], line["issuer"] = _text(leaf.subject), _text(leaf.issuer)
            line["serial"] = f"{leaf.serial_number:X}"
            line["fingerprint"] = leaf.fingerprint(hashes.SHA256()).hex()
            line["chain"] = [_text(c.subject) for c in chain]
        with self._log.open("a") as log:
            log.write(json.dumps(line | {"reply": reply}) + "\n")


def authenticate(
    chain: list[x509.Certificate], registration_id: str, enrolled: list[x509.Certificate]
) -> None:
    """Raise 401 unless these certificates, leaf first, prove the registration id."""
    if not chain:
        raise Error(401, 401002, "Unauthorized: no client certificate")
    leaf, *others = chain
    names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [n.value for n in names] != [registration_id]:
        words = f"subject '{_text(leaf.subject)}' is not registration id '{registration_id}'"
        raise Error(401, 401002, f"Unauthorized: {words}")
    verifier = (
        PolicyBuilder()
        .store(Store(enrolled))
        .extension_policies(
            ee_policy=ExtensionPolicy.permit_all(),
            ca_policy=ExtensionPolicy.webpki_defaults_ca(),
        )
        .build_client_verifier()
    )
    try:
        verifier.verify(leaf, others)
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (VerificationError, x509.ExtensionNotFound) as e:
        raise Error(401, 401002, f"Unauthorized: no chain to an enrolled CA: {e}") from e
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usages:
        raise Error(401, 401002, "Unauthorized: not a certificate for client authentication")


def _text(subject: x509.Name) -> str:
    return subject.rfc4514_string()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


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

    def _reply(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        service = self.server.service
        status, reply = service.answer(self.command, self.path, body, self.chain)
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        if status in (202, 429):
            self.send_header("Retry-After", str(service.retry_after))
        self.end_headers()
        self.wfile.write(data)

    do_PUT = do_GET = do_POST = do_DELETE = _reply

    def log_message(self, format: str, *args: object) -> None:
        """The service keeps its own log."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, settings: dict[str, Any]) -> None:
        self.service, self.context = Service(settings), SSL.Context(SSL.TLS_SERVER_METHOD)
        self.context.set_min_proto_version(SSL.TLS1_2_VERSION)
        self.context.use_certificate_chain_file(settings["certificate"])
        self.context.use_privatekey_file(settings["key"])
        self.context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        self.context.set_options(SSL.OP_NO_TICKET)
        # Whoever it is gets an answer; `authenticate` gives it.
        self.context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        super().__init__(("127.0.0.1", settings["port"]), Handler)


if __name__ == "__main__":
    Server(json.loads(Path(sys.argv[1]).read_text())).serve_forever()
