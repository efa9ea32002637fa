"""What DPS answers, and what it means: every field is looked at before it is used.

REST API of the Device Provisioning Service, Runtime Registration (Register Device, Operation Status
Lookup), 2019-03-31 to 2021-10-01.
"""

import base64
import binascii
import datetime
import json
import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from agent.errors import (
    AgentError,
    CaptivePortal,
    DpsApiVersion,
    DpsBadRequest,
    DpsBusy,
    DpsClock,
    DpsDeviceName,
    DpsDisabled,
    DpsFailed,
    DpsGarbled,
    DpsHubDenied,
    DpsNoHub,
    DpsNotEnrolled,
    DpsRedirected,
    DpsRefused,
    DpsScope,
    DpsTrouble,
    DpsUnauthorized,
)
from agent.http import Reply, http_date, printable, retry_after

BUSY = HTTPStatus.TOO_MANY_REQUESTS
CHALLENGE = 8192  # bytes: no blob is longer; they come as base64
SKEW = datetime.timedelta(minutes=5)  # nobody turns a token away for less
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")  # RFC 1123, 2.1
_DEVICE = re.compile(r"[A-Za-z0-9._:%#*?!(),=@$'+-]{1,128}")
_WILDCARD = re.compile("[+#]")  # MQTT 3.1.1, 4.7.1: in no topic that is published to
_OPERATION = re.compile(r"[!-~]{1,256}")
_KEY_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SIGNATURE = re.compile(r"sig(=|%3D)[^&\s]*", re.IGNORECASE)
_VERSION = re.compile(r"(?<![?&])\bapi[- ]?version\b", re.IGNORECASE)  # but not in a URL
_FAILED: dict[str, type[DpsFailed]] = {"400208": DpsNoHub, "400209": DpsHubDenied}


@dataclass(frozen=True)
class Assigned:
    """`hub`: host name of the IoT Hub. `device_id`: this device's name there. `substatus`: such as
    "initialAssignment", or None. `key`: with attestation by TPM, the hub key, encrypted for this
    TPM (a blob for Tpm.imported), or None if none came. `payload`: JSON of a custom allocation."""

    hub: str
    device_id: str
    substatus: str | None
    key: bytes | None
    payload: Any


@dataclass(frozen=True)
class Challenge:
    """`blob`: for Tpm.imported; the key in it signs the token, which names it `key_name`."""

    blob: bytes
    key_name: str


@dataclass(frozen=True)
class Wire:
    """Who asks whom: what the messages name. All of its methods raise what they return wrong.
    `sent`: the token that was sent with the question; no message repeats its signature."""

    host: str
    id_scope: str
    registration_id: str
    sent: str = field(default="", repr=False)

    def document(self, reply: Reply) -> dict[str, Any]:
        """The JSON object of a reply. Raises CaptivePortal, DpsGarbled."""
        if _is_page(reply):
            raise self._error(CaptivePortal, f"a web page comes instead ({reply.status})")
        try:
            found = json.loads(reply.body)
        except (ValueError, RecursionError) as e:
            raise self.garbled(f"its answer ({reply.status}) is not JSON") from e
        if not isinstance(found, dict):
            raise self.garbled(f"its answer ({reply.status}) is no JSON object")
        return found

    def garbled(self, why: str) -> AgentError:
        return self._error(DpsGarbled, why)

    # --- answers that are none ---

    def refusal(self, reply: Reply) -> AgentError:
        """What any status but success means."""
        said, status = self._said(reply), reply.status
        if status == BUSY:
            return self._busy(DpsBusy, f"it takes no more at present ({said})", reply)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.REQUEST_TIMEOUT:
            if status == HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED:  # RFC 6585, 6
                return self._error(CaptivePortal, f"something in between wants a login ({said})")
            return self._busy(DpsTrouble, f"it has trouble ({said})", reply)
        if _is_page(reply):
            return self._error(CaptivePortal, f"a web page comes instead ({said})")
        if 300 <= status < 400:
            at = self._shown(reply.headers.get("Location", ""))
            return self._error(DpsRedirected, f"it sends us away ({said})", location=at)
        return self._no(reply, said)

    def _no(self, reply: Reply, said: str) -> AgentError:
        if reply.status == HTTPStatus.UNAUTHORIZED:
            return self.unauthorized(reply)
        if reply.status == HTTPStatus.BAD_REQUEST:
            kind = DpsApiVersion if _VERSION.search(said) else DpsBadRequest
            return self._error(kind, f"it rejects the request ({said})")
        if reply.status == HTTPStatus.NOT_FOUND:
            if "scope" in said.lower():
                return self._error(DpsScope, f"it knows no ID scope '{self.id_scope}' ({said})")
            return self._error(DpsNotEnrolled, f"it does not know this device ({said})")
        return self._error(DpsRefused, f"it refuses ({said})")

    def unauthorized(self, reply: Reply) -> AgentError:
        """A 401 that is no challenge: mostly, it is the clock."""
        said = self._said(reply)
        there, here = http_date(reply.headers.get("Date", "")), datetime.datetime.now(datetime.UTC)
        if there is not None and abs(there - here) > SKEW:
            clocks = f"{here:%Y-%m-%d %H:%M:%S}Z, and there it is {there:%Y-%m-%d %H:%M:%S}Z"
            return self._error(DpsClock, f"it turns us away, and the clock here says {clocks}")
        return self._error(DpsUnauthorized, f"it does not let us in ({said})")

    def _said(self, reply: Reply) -> str:
        """Status, and what the body tells: never what we signed, should it be repeated there."""
        try:
            found = json.loads(reply.body)
        except (ValueError, RecursionError):
            found = None
        found = found if isinstance(found, dict) else {}
        code = self._text(found.get("errorCode") or reply.headers.get("x-ms-error-code"))
        return self._words(str(reply.status), found.get("message"), code, found.get("trackingId"))

    def _busy(self, kind: type[DpsBusy] | type[DpsTrouble], why: str, reply: Reply) -> AgentError:
        seconds = retry_after(reply.headers)
        return kind(self._message(why), seconds=seconds, host=self.host)

    def _error(self, kind: type[AgentError], why: str, **more: str) -> AgentError:
        return kind(
            self._message(why),
            host=self.host,
            registration_id=self.registration_id,
            id_scope=self.id_scope,
            **more,
        )

    def _message(self, why: str) -> str:
        return f"cannot register '{self.registration_id}' at {self.host}: {why}"

    # --- answers ---

    def challenge(self, reply: Reply) -> Challenge:
        """Raises what it is, if it is none."""
        if reply.status != HTTPStatus.UNAUTHORIZED or _is_page(reply):
            if reply.status < 300 and not _is_page(reply):
                raise self.garbled(f"it does not ask who we are ({reply.status})")
            raise self.refusal(reply)
        found = self.document(reply)
        if found.get("authenticationKey") is None:
            raise self.unauthorized(reply)
        name = _either(found.get("keyName"), "registration")
        if not isinstance(name, str) or not _KEY_NAME.fullmatch(name):
            raise self.garbled("it names no key")
        return Challenge(self._blob(found["authenticationKey"]), name)

    def operation(self, found: dict[str, Any]) -> str:
        name = found.get("operationId")
        if not isinstance(name, str) or not _OPERATION.fullmatch(name):
            raise self.garbled("it names no operation")
        return name

    def outcome(self, found: dict[str, Any]) -> Assigned | None:
        """None: not yet. Raises DpsFailed and its like, DpsDisabled, DpsGarbled."""
        state = found.get("registrationState")
        state = state if isinstance(state, dict) else {}
        status = _either(found.get("status"), state.get("status"))
        if status in ("assigning", "unassigned"):
            return None
        if status == "assigned":
            return self._assigned(state)
        code = self._text(state.get("errorCode"))
        said = self._words(str(status), state.get("errorMessage"), code, found.get("trackingId"))
        if status in ("disabled", "blacklisted"):
            raise self._error(DpsDisabled, f"the enrolment is disabled ({said})")
        if status == "failed":
            kind = _FAILED.get(code, DpsFailed)
            raise self._error(kind, f"it could not be assigned to a hub ({said})")
        raise self.garbled("its answer has no status that is known")

    def _assigned(self, state: dict[str, Any]) -> Assigned:
        hub, device, sub = (state.get(name) for name in ("assignedHub", "deviceId", "substatus"))
        if not isinstance(hub, str) or not _HOST.fullmatch(hub):
            raise self.garbled("the hub it assigns is no host name")
        if not isinstance(device, str) or not _DEVICE.fullmatch(device):
            raise self.garbled("the device id it assigns cannot be one")
        if _WILDCARD.search(device):
            why = f"it names this device '{device}', and a name with + or # can send no messages"
            raise self._error(DpsDeviceName, why, device=device)
        whose = _either(state.get("registrationId"), self.registration_id)
        if not isinstance(whose, str) or whose.lower() != self.registration_id.lower():
            raise self.garbled("its answer is about another registration")
        tpm = state.get("tpm")
        key = tpm.get("authenticationKey") if isinstance(tpm, dict) else None
        return Assigned(
            hub,
            device,
            self._shown(sub) if isinstance(sub, str) else None,
            None if key is None else self._blob(key),
            state.get("payload"),
        )

    def _blob(self, text: object) -> bytes:
        """Of what was encrypted for the TPM, which judges it itself."""
        try:
            text = "".join(text.split()) if isinstance(text, str) else ""
            if not 0 < len(text) <= CHALLENGE * 4 // 3 + 4:
                raise ValueError(len(text))
            return base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error) as e:
            raise self.garbled("the key it sends is not base64, or too long") from e

    # --- quoted ---

    def _words(self, status: str, message: object, code: str, tracking: object) -> str:
        quoted = self._shown(message) if isinstance(message, str) else ""
        parts = [self._shown(status, 40), f"'{quoted}'" if quoted else ""]
        parts.append(f"errorCode {code}" if code else "")
        known = self._text(tracking)
        parts.append(f"trackingId {known}" if known else "")
        return ", ".join(filter(None, parts))

    def _text(self, value: object) -> str:
        """A number or a short text, as it is shown; of anything else, nothing."""
        fine = isinstance(value, str | int) and not isinstance(value, bool)
        return self._shown(str(value), 80) if fine else ""

    def _shown(self, text: str, limit: int = 200) -> str:
        """What a stranger sent; not the signature that we sent him, however he writes it."""
        text = _SIGNATURE.sub("sig=...", text)
        if ours := _SIGNATURE.search(self.sent):
            text = _written(ours[0].partition("=")[2]).sub("...", text)
        return printable(text, limit)


def _is_page(reply: Reply) -> bool:
    kind = reply.headers.get("Content-Type", "").lower()
    return "html" in kind or reply.body.lstrip()[:1] == b"<"


def _either(value: Any, default: Any) -> Any:
    """A null is as good as nothing: some write what is missing so."""
    return default if value is None else value


def _written(signature: str) -> re.Pattern[str]:
    """Base64, percent-encoded, in all the ways that it is written."""
    ways = {"+": r"(\+|-| |%2B|%20)", "/": r"(/|_|%2F)"}
    plain = unquote(signature).rstrip("=")
    return re.compile("".join(ways.get(c, c) for c in plain) + "(=|%3D)*", re.IGNORECASE)
