"""A Device Provisioning Service: a device is registered, and told its hub.

Over HTTPS (REST API, Runtime Registration), by a certificate or by a TPM. When it may be asked at
all is the caller's business (agent/turn.py); here it is asked once, and its answer waited for.
"""

import base64
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from agent import sas
from agent.dps_wire import BUSY, Assigned, Wire
from agent.errors import (
    CaptivePortal,
    DpsAssigning,
    DpsBusy,
    DpsForgot,
    DpsNotEnrolled,
    DpsRedirected,
    DpsScope,
    DpsTrouble,
    DpsUnauthorized,
    Later,
    Unreachable,
)
from agent.http import Https, Reply, host_of, retry_after

__all__ = ["LEAST", "Assigned", "Dps", "pace"]
LEAST, USUAL, MOST = 2.1, 3.0, 300.0  # seconds between polls; DPS allows 5 per 10 seconds
PATIENCE = 300.0  # seconds, for a hub to be assigned
TOKEN = 3600  # seconds; longer than it takes
TRIES = 4  # a challenge may be out of date when it is answered
NO_CHALLENGE = "operations/none"  # where nothing is


def pace(told: int | None) -> float:
    """Seconds to the next poll: as DPS says in Retry-After, never faster than it allows."""
    return USUAL if told is None else min(max(float(told), LEAST), MOST)


class Dps:
    """`https`: with the client certificate of the device, for `by_certificate`; every exchange goes
    over it. `endpoint`: https://HOST, nothing behind. `payload`: JSON for a custom allocation.
    `rest`: how it is waited."""

    def __init__(
        self,
        https: Https,
        endpoint: str,
        id_scope: str,
        registration_id: str,
        *,
        api_version: str,
        payload: Any = None,
        rest: Callable[[float], object] = time.sleep,
    ) -> None:
        self._https, self._payload, self._rest = https, payload, rest
        self._at = f"{endpoint.rstrip('/')}/{quote(id_scope, safe='')}/registrations/"
        self._at += quote(registration_id, safe="")
        self._version = quote(api_version, safe="")
        self._resource = f"{id_scope}/registrations/{registration_id}"
        self._id, self._wire = registration_id, Wire(host_of(endpoint), id_scope, registration_id)

    def by_certificate(self) -> Assigned:
        """With the client certificate of `https`, whose common name is the registration id.

        Raises what Https.request does; later: DpsBusy, DpsTrouble, DpsAssigning, DpsClock; refused:
        DpsNotEnrolled, DpsScope, DpsBadRequest, DpsUnauthorized, DpsDisabled, DpsFailed and its
        kinds, DpsRedirected, DpsGarbled, CaptivePortal, DpsRefused.
        """
        return self._followed(self._register({}, {}), {})

    def by_tpm(self, ek: bytes, srk: bytes, sign: Callable[[bytes, bytes], bytes]) -> Assigned:
        """`ek`, `srk`: TPM2B_PUBLIC. `sign`: HMAC-SHA256 (32 bytes) of its second argument, by the
        key in the challenge that is its first (Tpm.imported). Raises as `by_certificate`, and what
        `sign` does."""
        for left in reversed(range(TRIES)):
            login = self._login(ek, srk, sign)
            try:
                return self._followed(self._register({}, login), login)
            except DpsUnauthorized:
                if not left:
                    raise
            self._rest(LEAST * 2 ** (TRIES - 1 - left))
        raise AssertionError("the last one is raised")

    def _login(
        self, ek: bytes, srk: bytes, sign: Callable[[bytes, bytes], bytes]
    ) -> Mapping[str, str]:
        who = {"endorsementKey": _base64(ek), "storageRootKey": _base64(srk)}
        challenge = self._wire.challenge(self._register({"tpm": who}, {}))

        def signed(data: bytes) -> bytes:
            return sign(challenge.blob, data)

        expires = int(time.time()) + TOKEN
        token = sas.token(self._resource, signed, expires, challenge.key_name)
        self._wire = replace(self._wire, sent=token)
        return {"Authorization": token}

    def there(self) -> None:
        """It would answer a registration: by no 429 or 5xx. Who does not log in is turned away by
        anything else. Raises what Https.request does, DpsBusy and DpsTrouble."""
        reply = self._request("GET", NO_CHALLENGE, {})
        if reply.status == BUSY or reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise self._wire.refusal(reply)

    def last(self, login: Mapping[str, str] | None = None) -> Assigned | None:
        """What came of the last registration (Device Registration Status Lookup), by the client
        certificate of `https`; None: nothing yet. Raises as `by_certificate`; DpsNotEnrolled also
        for a device that is enrolled, and has not registered yet."""
        body = json.dumps({"registrationId": self._id}).encode()
        found = self._found(self._request("POST", "", login or {}, body))
        return self._wire.outcome({"status": found.get("status"), "registrationState": found})

    def last_by_tpm(
        self, ek: bytes, srk: bytes, sign: Callable[[bytes, bytes], bytes]
    ) -> Assigned | None:
        """As `last`, by the TPM: arguments as of `by_tpm`. Raises also what `sign` does. That there
        was no registration yet is told by None: the challenge shows that the TPM is enrolled."""
        login = self._login(ek, srk, sign)
        try:
            return self.last(login)
        except DpsNotEnrolled:
            return None

    def scope(self) -> None:
        """As `there`; but it answers as DPS does, and knows the ID scope, as far as it tells that
        to who does not log in. Raises also DpsScope, DpsRedirected, CaptivePortal."""
        refused = self._wire.refusal(self._request("GET", NO_CHALLENGE, {}))
        if isinstance(refused, DpsBusy | DpsTrouble | DpsScope | DpsRedirected | CaptivePortal):
            raise refused

    # --- exchanges ---

    def _register(self, more: Mapping[str, Any], login: Mapping[str, str]) -> Reply:
        payload = {} if self._payload is None else {"payload": self._payload}
        body = {"registrationId": self._id, **more, **payload}
        return self._request("PUT", "register", login, json.dumps(body).encode())

    def _request(
        self, method: str, what: str, login: Mapping[str, str], body: bytes | None = None
    ) -> Reply:
        headers = {"Accept": "application/json", **login}
        if body is not None:
            headers["Content-Type"] = "application/json; charset=utf-8"
        url = f"{self._at}{what and '/'}{what}?api-version={self._version}"
        return self._https.request(method, url, headers=headers, body=body)

    def _followed(self, reply: Reply, login: Mapping[str, str]) -> Assigned:
        """What comes of a registration that was asked for: it is polled for."""
        found = self._found(reply)
        if (done := self._wire.outcome(found)) is not None:
            return done
        at = f"operations/{quote(self._wire.operation(found), safe='')}"
        began, rested, trouble = time.monotonic(), 0.0, self._still()
        told = retry_after(reply.headers)
        while max(rested, time.monotonic() - began) + pace(told) <= PATIENCE:
            self._rest(pace(told))
            rested += pace(told)
            try:
                polled = self._request("GET", at, login)
                done, told = self._polled(polled), retry_after(polled.headers)
            except (DpsBusy, DpsTrouble, Unreachable) as e:  # of a poll: the operation goes on
                trouble, told = e, e.seconds
            if done is not None:
                return done
        raise trouble

    def _polled(self, reply: Reply) -> Assigned | None:
        if reply.status == HTTPStatus.NOT_FOUND:
            raise DpsForgot(
                f"cannot register '{self._id}' at {self._wire.host}: it has forgotten the "
                "registration that it had begun",
                host=self._wire.host,
            )
        return self._wire.outcome(self._found(reply))

    def _found(self, reply: Reply) -> dict[str, Any]:
        if reply.status not in (HTTPStatus.OK, HTTPStatus.ACCEPTED):
            raise self._wire.refusal(reply)
        return self._wire.document(reply)

    def _still(self) -> Later:
        why = f"it has assigned no hub for {PATIENCE:g} seconds"
        return DpsAssigning(f"cannot register '{self._id}' at {self._wire.host}: {why}")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
