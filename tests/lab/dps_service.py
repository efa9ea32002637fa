"""The provisioning service itself, without HTTP: what it knows, checks and answers.

Device registration as in the REST reference (Runtime Registration: Register Device, Operation
Status Lookup, Device Registration Status Lookup), with TPM and X.509 attestation. Error codes are
the real ones where they are published (400208, 400209, 401002), else the HTTP status and three
digits of ours.
"""

import json
import os
import re
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography import x509

from tests.lab import dps_tpm
from tests.lab.dps_attestation import Attestation
from tests.lab.dps_behaviour import ODD, Behaviour, Error, Reply, Request, Script
from tests.lab.dps_enrolments import Enrolments, Entry, thumbprint
from tests.lab.dps_hubs import Hubs
from tests.lab.dps_limits import Limits
from tests.lab.dps_tpm import Parents

PATHS = re.compile(r"^/([^/]+)/registrations/([^/]+)(?:/(register|operations/([^/]+)))?$")
VERSIONS = ["2019-03-31", "2021-06-01", "2021-10-01"]
JSON = re.compile(r"application/json *(;|$)", re.IGNORECASE)
REGISTRATION_ID = re.compile(r"[A-Za-z0-9._:-]{0,127}[A-Za-z0-9-]")


@dataclass
class Operation:
    registration_id: str
    polls: int
    parents: Parents | None = None
    certificate: x509.Certificate | None = None
    state: dict[str, Any] | None = None  # once assigned


class Service:
    """Everything but HTTP; `answer` is called from many threads."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._scope, self._hub = settings["scope"], settings["hubs"][0]
        self.script = Script(Path(settings["behaviour"]))
        self._enrolments = Enrolments(settings["enrolled"], Path(settings["enrolments"]))
        self._attestation = Attestation(self._scope, self._enrolments, self.script)
        self._hubs, self._log = Hubs(Path(settings["registry"])), Path(settings["log"])
        self._operations: dict[str, Operation] = {}
        self._limits, self._lock = Limits(), threading.Lock()

    @property
    def wish(self) -> Behaviour:
        return self.script.wish

    def answer(self, request: Request) -> Reply:
        """HTTP status and JSON; logged before it is sent."""
        with self._lock:
            self.script.follow()
            self._enrolments.follow()
            try:
                reply = self._answer(request)
            except Error as e:
                reply = self.script.said(e)
            self._spoil(request, reply)
            self._write_log(request, reply)
            return reply

    def _answer(self, request: Request) -> Reply:
        path = urlsplit(request.url)
        found = PATHS.match(path.path)
        if found is None:
            raise Error(400, 400000, f"Bad request: '{request.url}'")
        if (version := parse_qs(path.query).get("api-version", [""])[0]) not in VERSIONS:
            raise Error(400, 400000, f"The api-version '{version}' is not supported")
        scope, registration_id, what, operation = map(unquote, found.groups(""))
        wanted = "GET" if operation else "PUT" if what else "POST"
        if request.method != wanted:
            raise Error(405, 405000, f"Method {request.method} not allowed")
        body = self._body(request) if what == "register" else {}
        self._step(request, registration_id, what, body)
        self._throttle(request, registration_id)
        if scope != self._scope:
            raise Error(404, 404201, f"ID scope '{scope}' not found")
        if not REGISTRATION_ID.fullmatch(registration_id):
            raise Error(400, 400004, f"'{registration_id}' is no registration id")
        if request.kind is not None and not JSON.match(request.kind):
            raise Error(415, 415001, f"Content-Type '{request.kind}' is not supported")
        return self._told(request, registration_id, operation, body)

    def _step(self, request: Request, registration_id: str, what: str, body: Any) -> None:
        """What it is about, for the log and for tests that spoil a step."""
        unproven = request.token is None and isinstance(body, dict) and "tpm" in body
        register = "challenge" if unproven else "register"
        step = {"": "lookup", "register": register}.get(what, "operation")
        request.log |= {"registration_id": registration_id, "step": step}

    def _told(self, request: Request, registration_id: str, operation: str, body: Any) -> Reply:
        if operation:
            return self._look_up(request, registration_id, operation)
        if request.log["step"] == "lookup":
            return self._last(request, registration_id)
        return self._register(request, registration_id, body)

    def _body(self, request: Request) -> Any:
        """The JSON of a register; None for what is none, which is refused in time."""
        try:
            return json.loads(request.body)
        except ValueError:
            return None

    def _throttle(self, request: Request, registration_id: str) -> None:
        """Count, and raise 429 or whatever else a test wants."""
        step, too_many = request.log["step"], False
        if step == "operation":
            request.log["count"], too_many = self._limits.poll(registration_id.lower())
        elif step != "lookup":
            request.log["count"], too_many = self._limits.registration()
        if self.wish.throttle > 0 or (too_many and self.wish.limits):
            self.wish.throttle -= self.wish.throttle > 0
            raise Error(429, 429001, "Operations are being throttled")
        if (status := self.wish.odd.get(step, "")).isdigit() and self._oddly():
            raise Error(int(status), 1000 * int(status) + 1, "As the test wishes")

    def _oddly(self) -> bool:
        """Whether this answer is still one of those to be odd."""
        if self.wish.odd_times == 0:
            return False
        self.wish.odd_times -= self.wish.odd_times > 0
        return True

    def _spoil(self, request: Request, reply: Reply) -> None:
        kind = self.wish.odd.get(request.log.get("step", ""), "")
        if kind in ODD and reply.status != 429 and self._oddly():
            reply.odd = kind

    def _register(self, request: Request, registration_id: str, body: Any) -> Reply:
        asked = body.get("registrationId") if isinstance(body, dict) else None
        if not isinstance(asked, str) or asked.lower() != registration_id.lower():
            raise Error(400, 400004, f"registrationId in the body is '{asked}'")
        request.log["payload"] = body.get("payload")
        if request.token is None and "tpm" in body:
            return self._attestation.challenge(registration_id, body["tpm"])
        entry, parents = self._attestation.proven(request, registration_id)
        if parents is not None and "tpm" in body:
            self._attestation.again(entry, body["tpm"], parents)
        operation = f"5.{uuid.uuid4().hex[:16]}.{uuid.uuid4()}"
        leaf = request.chain[0] if parents is None else None
        begun = Operation(registration_id.lower(), self.wish.polls, parents, leaf)
        self._operations[operation] = begun
        where = request.url.partition("/register?")
        headers = {"Location": f"{where[0]}/operations/{operation}?{where[2]}"}
        started = {"operationId": operation, "status": "assigning"}
        return Reply(202, changed(started, self.wish.accepted), headers | self.script.retry_after())

    def _look_up(self, request: Request, registration_id: str, operation: str) -> Reply:
        entry, _ = self._attestation.proven(request, registration_id)
        running = self._operations.get(operation)
        lower = registration_id.lower()
        if running is None or running.registration_id != lower or self.wish.forgets:
            raise Error(404, 404202, f"Operation '{operation}' not found")
        if running.polls != 0:
            running.polls -= running.polls > 0
            state = {"registrationId": registration_id, "status": "assigning"}
            words = {"operationId": operation, "status": "assigning", "registrationState": state}
            return Reply(202, words, self.script.retry_after())
        state = self._state(entry, running)
        status = state.get("status")
        return Reply(200, {"operationId": operation, "status": status, "registrationState": state})

    def _last(self, request: Request, registration_id: str) -> Reply:
        """What came of the last registration of who proves to be this device."""
        entry, _ = self._attestation.proven(request, registration_id)
        lower = registration_id.lower()
        begun = [each for each in self._operations.values() if each.registration_id == lower]
        if not begun:
            raise Error(404, 404203, f"No registration of '{registration_id}'")
        state = self._so_far(entry, begun[-1]) | (self._refused(entry) or begun[-1].state or {})
        return Reply(200, {"status": "assigning", **state})

    def _state(self, entry: Entry, running: Operation) -> dict[str, Any]:
        """How it ended; once assigned, it has the same key whoever asks again."""
        state = self._so_far(entry, running)
        if refused := self._refused(entry):
            return state | refused
        if running.state is None:
            running.state = state | self._assigned(entry, running)
        return running.state

    def _so_far(self, entry: Entry, running: Operation) -> dict[str, Any]:
        kind = "x509" if running.parents is None else "tpm"
        at = self.script.text()
        return {kind: {}, "registrationId": entry.registration_id, "createdDateTimeUtc": at}

    def _refused(self, entry: Entry) -> dict[str, Any] | None:
        if entry.registration_id in self.wish.disabled or not entry.enabled:
            return {"status": "disabled"}
        if entry.registration_id not in self.wish.failing:
            return None
        words = {400208: "No IoT hub is available", 400209: "The IoT hub is not authorised"}
        failure = self.wish.failure
        message = words.get(failure, "As the test wishes")
        return {"status": "failed", "errorCode": failure, "errorMessage": message}

    def _assigned(self, entry: Entry, running: Operation) -> dict[str, Any]:
        hub, key, leaf = entry.hub or self._hub, None, running.certificate
        if running.parents is not None:
            old = None if self.wish.new_keys else self._hubs.key(entry.device_id)
            key = old or os.urandom(self.wish.key_size)
        left = self._hubs.put(hub, entry.device_id, key, None if leaf is None else thumbprint(leaf))
        substatus = "initialAssignment" if left is None else "deviceDataMigrated"
        state = {"status": "assigned", "assignedHub": hub, "deviceId": entry.device_id}
        state |= {
            "substatus": substatus,
            "lastUpdatedDateTimeUtc": self.script.text(),
            "etag": "lab",
        }
        if key is not None and running.parents is not None:
            blob = dps_tpm.blob(running.parents, key, self.wish.hub_key)
            state["tpm"] = {} if blob is None else {"authenticationKey": blob}
        if self.wish.payload is not None:
            state["payload"] = self.wish.payload
        return changed(state, self.wish.state)

    def _write_log(self, request: Request, reply: Reply) -> None:
        line: dict[str, Any] = {"time": time.time(), "method": request.method, "url": request.url}
        status = 200 if reply.odd == "html" else reply.status
        line |= {"http": status, "token": request.token is not None, "odd": reply.odd}
        if request.chain:
            leaf = request.chain[0]
            line["subject"], line["issuer"] = _text(leaf.subject), _text(leaf.issuer)
            line["serial"] = f"{leaf.serial_number:X}"
            line["fingerprint"] = thumbprint(leaf)
            line["chain"] = [_text(c.subject) for c in request.chain]
        understood = reply.odd in ("", "content-type")
        line |= {"reply": reply.body if understood else {}}
        with self._log.open("a") as log:
            log.write(json.dumps(line | request.log) + "\n")


def changed(content: dict[str, Any], wishes: dict[str, Any]) -> dict[str, Any]:
    """With the wishes put over it; None takes away."""
    return {name: value for name, value in (content | wishes).items() if value is not None}


def _text(subject: x509.Name) -> str:
    return subject.rfc4514_string()
