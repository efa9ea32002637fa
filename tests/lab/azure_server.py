"""Azure on 127.0.0.1, a process of its own: `python -m tests.lab.azure_server FILE`.

One port has Entra ID (azure_entra) and Resource Manager (azure_arm), and each of a few more may
become a provisioning service's (azure_enrolments). What they know is in a file (azure_store), how
they misbehave in another (azure_wire), each request and its fate in a log.

Built from the published REST reference and specifications (azure-rest-api-specs): it shares nothing
with the operator's tool, Azure's own SDKs get on with it (tests/test_azure_cloud.py), and it was
never compared with Azure itself. What the reference does not say is assumed here to be the stricter
of what could be: that a group needs certificates that are verified, that DPS takes RSA endorsement
keys alone, that properties nobody knows are refused. Codes and words of errors are the real ones as
far as they are published or were reported; a client must not depend on those of DPS.

Not here: roles (but see Behaviour.forbidden), locks, quotas, private endpoints, deployments of
templates, Entra ID's other ways to log in, symmetric keys, queries with conditions, registration
records.
"""

import json
import re
import ssl
import sys
import threading
import time
from collections.abc import Mapping
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.lab.azure_arm import Arm
from tests.lab.azure_enrolments import Enrolments
from tests.lab.azure_entra import Entra
from tests.lab.azure_store import Store
from tests.lab.azure_wire import Error, Reply, Request, Script, said


class Cloud:
    """Everything but HTTP; `answer` is called from many threads."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._script, store = Script(Path(settings["behaviour"])), Store(Path(settings["store"]))
        self._port, self._log = settings["port"], Path(settings["log"])
        self._entra = Entra(settings, self._script)
        self._enrolments = Enrolments(settings, self._script, store, self._entra)
        self._arm = Arm(settings, self._script, store, self._enrolments.emptied)
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Reply | None:
        """None: the connection breaks off. Logged before it is sent."""
        with self._lock:
            self._script.follow()
            reply = self._entra.answer(request) if request.port == self._port else None
            if reply is None:
                reply = self._spoilt(request)
            self._note(request, reply)
            return reply

    def _spoilt(self, request: Request) -> Reply | None:
        """The answer, unless a test wishes something else."""
        wish, script = self._script.wish, self._script
        if wish.only and not re.search(wish.only, f"{request.method} {request.path}"):
            return self._said(request)
        script.count += 1
        cut = script.count in wish.cut_at
        if cut and not wish.cut_done:
            return None
        reply = self._late(request, script.count) or self._said(request)
        if wish.garble and re.search(wish.garble, f"{request.method} {request.path}"):
            reply = Reply(200, wish.nonsense.encode())
        return None if cut else reply

    def _late(self, request: Request, number: int) -> Reply | None:
        wish, numbers = self._script.wish, request.port != self._port
        if wish.throttle > 0 or (wish.throttle_every and number % wish.throttle_every == 0):
            wish.throttle -= wish.throttle > 0
            code: str | int = 429001 if numbers else "TooManyRequests"
            later = self._script.retry_after()
            return said(Error(429, code, "Operations are being throttled", later), numbers=numbers)
        if wish.fail > 0 or (wish.fail_every and number % wish.fail_every == 0):
            wish.fail -= wish.fail > 0
            broken = 500000 if numbers else "InternalServerError"
            return said(Error(500, broken, "As the test wishes"), numbers=numbers)
        return None

    def _said(self, request: Request) -> Reply:
        numbers = request.port != self._port
        try:
            if numbers:
                return self._enrolments.answer(request)
            self._entra.admit(request)
            return self._arm.answer(request)
        except Error as e:
            return said(e, numbers=numbers)

    def _note(self, request: Request, reply: Reply | None) -> None:
        line = {"time": time.time(), "port": request.port, "method": request.method}
        line |= {"path": request.path, "version": request.version, **request.log}
        line |= {"status": 0 if reply is None else reply.status}
        if reply is not None and reply.status >= 400 and isinstance(reply.body, dict):
            line["error"] = reply.body
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: "Server"

    def setup(self) -> None:
        self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def _reply(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        port = int(self.server.server_address[1])
        reply = self.server.cloud.answer(
            Request(self.command, self.path, dict_of(self.headers), body, port)
        )
        if reply is None:
            self.close_connection = True
            return
        empty = reply.body is None or self.command == "HEAD"
        as_it_is = isinstance(reply.body, bytes)
        data = b"" if empty else reply.body if as_it_is else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if data:
            self.send_header("Content-Type", "application/json; charset=utf-8")
        if reply.status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_PUT = do_GET = do_POST = do_DELETE = do_PATCH = do_HEAD = _reply

    def log_message(self, format: str, *args: object) -> None:
        """The cloud keeps its own log."""


def dict_of(headers: Message) -> Mapping[str, str]:
    """By name, in the spelling of this lab."""
    return {name.title(): value for name, value in headers.items()}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, cloud: Cloud, tls: ssl.SSLContext, port: int) -> None:
        self.cloud, self.tls = cloud, tls
        super().__init__(("127.0.0.1", port), Handler)


def serve(settings: dict[str, Any]) -> None:
    """For ever."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(settings["certificate"], settings["key"])
    cloud = Cloud(settings)
    servers = [Server(cloud, tls, port) for port in settings["service_ports"]]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    Server(cloud, tls, settings["port"]).serve_forever()


if __name__ == "__main__":
    serve(json.loads(Path(sys.argv[1]).read_text()))
