"""The service API of DPS: enrolment groups, individual enrolments, and how they are written.

REST API of the Device Provisioning Service, data plane, 2021-10-01. Not by Azure's own package for
it, azure-iot-deviceprovisioning 1.0.0b1: a beta, that asks for tokens of the public cloud only, and
adds them before the policy that tries again, so that what was throttled for long is sent with an
old one. The pipeline is that of azure-core, as in all of Azure's packages.
"""

import json
import logging
import time
from base64 import b64decode
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

from azure.core import PipelineClient
from azure.core.pipeline import PipelineRequest
from azure.core.pipeline.policies import (
    BearerTokenCredentialPolicy,
    HeadersPolicy,
    RetryPolicy,
    SansIOHTTPPolicy,
    UserAgentPolicy,
)
from azure.core.rest import HttpRequest, HttpResponse
from cryptography.hazmat.primitives import hashes, hmac

from agent import __version__, sas
from agent.errors import AzureForbidden, AzureGarbled
from agent.http import printable
from agent.operator import azure
from agent.operator.resources import Arm

log = logging.getLogger(__name__)
API = "2021-10-01"
BULK = 10  # enrolments in one request, at most
PAGE = 100  # enrolments in one answer
TOKEN = 3600  # seconds a token is good for; one is made for each request
SAFE = ("GET", "PUT", "POST")  # to be sent again, see `_sent`
RIGHT = "EnrollmentWrite"
Record = dict[str, Any]


class SasPolicy(SansIOHTTPPolicy[Any, Any]):
    """A token for each request, made of a key of the service's; it stands after the policy that
    tries again, so that none is old."""

    def __init__(self, host: str, name: str, key: str) -> None:
        self._host, self._name, self._key = host, name, b64decode(key)

    def on_request(self, request: PipelineRequest[Any]) -> None:
        expires = int(time.time()) + TOKEN
        token = sas.token(self._host, partial(_sign, self._key), expires, self._name)
        request.http_request.headers["Authorization"] = token


def _sign(key: bytes, data: bytes) -> bytes:
    mac = hmac.HMAC(key, hashes.SHA256())
    mac.update(data)
    return mac.finalize()


class Throttled(SansIOHTTPPolicy[Any, Any]):
    """Says that the service wants us to be slower: who waits knows why."""

    def on_response(self, request: Any, response: Any) -> None:
        if response.http_response.status_code == 429:
            seconds = printable(response.http_response.headers.get("Retry-After", ""), 20)
            log.info(
                "DPS wants fewer requests: waiting %s", f"{seconds} s" if seconds else "a while"
            )


class Service:
    """One provisioning service. Every call raises what `azure.speaking` does, and AzureGarbled."""

    def __init__(self, arm: Arm, dps: Any) -> None:
        host = str(dps.properties.service_operations_host_name)
        cloud = arm.config.cloud
        login: Any
        if arm.config.dps.login == "entra":  # who may read no keys may still write enrolments
            login = BearerTokenCredentialPolicy(azure.credential(cloud), cloud.dps_scope)
        else:
            with azure.speaking(f"use a key of {host}"):
                login = SasPolicy(host, *_key(arm))
        self._client: PipelineClient[HttpRequest, HttpResponse] = PipelineClient(
            f"https://{host}",
            transport=azure.transport(cloud, **azure.WAITING),
            policies=[
                HeadersPolicy({"Accept": "application/json"}),
                UserAgentPolicy(base_user_agent=f"tpm2cloud-operator/{__version__}"),
                RetryPolicy(**azure.RETRIES),
                Throttled(),
                login,
            ],
        )

    # --- groups ---

    def group(self, name: str) -> Record | None:
        doing = f"look at the enrolment group {name}"
        return self._there(doing, f"enrollmentGroups/{quote(name, safe='')}")

    def put_group(self, record: Record) -> None:
        """Made, or changed if it still is as it was looked at (its `etag`)."""
        name = record["enrollmentGroupId"]
        headers = {"If-Match": record["etag"]} if "etag" in record else {}
        where = f"enrollmentGroups/{quote(name, safe='')}"
        self._asked(f"write the enrolment group {name}", "PUT", where, record, headers)

    # --- individual enrolments ---

    def enrolment(self, name: str) -> Record | None:
        return self._there(f"look at the enrolment {name}", f"enrollments/{quote(name, safe='')}")

    def every_enrolment(self) -> Iterator[Record]:
        """All there are, page by page; only one page is in memory."""
        doing, headers = "list the enrolments", {"x-ms-max-item-count": str(PAGE)}
        query = {"query": "SELECT * FROM enrollments"}
        while True:
            reply = self._asked(doing, "POST", "enrollments/query", query, headers)
            found = _json(doing, reply)
            if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
                raise AzureGarbled(f"cannot {doing}: DPS answered no list of enrolments")
            yield from found
            if not (following := reply.headers.get("x-ms-continuation")):
                return
            headers = headers | {"x-ms-continuation": following}

    def bulk(self, mode: str, records: Sequence[Record]) -> dict[str, tuple[int, str]]:
        """`mode`: "create", or "updateIfMatchETag". Which were refused: code and words, by
        registration id, lower case. At most `BULK` of them; each is done or not by itself."""
        doing = f"write {len(records)} enrolments"
        body = {"mode": mode, "enrollments": list(records)}
        found = _json(doing, self._asked(doing, "POST", "enrollments", body))
        try:
            return _result(found, {str(each["registrationId"]).lower() for each in records})
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise AzureGarbled(f"cannot {doing}: DPS answered no result of them") from e

    # --- requests ---

    def _there(self, doing: str, where: str) -> Record | None:
        reply = self._sent(doing, "GET", where)
        if reply.status_code == 404:
            return None
        found = _json(doing, self._good(doing, reply))
        if not isinstance(found, dict):
            raise AzureGarbled(f"cannot {doing}: DPS answered no enrolment")
        return found

    def _asked(
        self, doing: str, method: str, where: str, body: Any, headers: dict[str, str] | None = None
    ) -> HttpResponse:
        return self._good(doing, self._sent(doing, method, where, body, headers))

    def _sent(
        self,
        doing: str,
        method: str,
        where: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> HttpResponse:
        """All that is asked here may be asked twice: what was done by a request whose answer got
        lost shows itself as a conflict, which is looked into."""
        request = HttpRequest(
            method, f"/{where}", params={"api-version": API}, json=body, headers=headers
        )
        request.url = self._client.format_url(request.url)
        with azure.speaking(doing):
            return self._client.send_request(request, retry_on_methods=SAFE)

    def _good(self, doing: str, reply: HttpResponse) -> HttpResponse:
        if reply.status_code // 100 == 2:
            return reply
        try:
            said = reply.json()
            code, words = str(said.get("errorCode", "")), str(said.get("message", ""))
        except (ValueError, AttributeError):
            code, words = "", printable(reply.text())
        raise azure.refusal(doing, reply.status_code, code, words)


def _key(arm: Arm) -> tuple[str, str]:
    """The name and the key of a policy of DPS that may write enrolments."""
    name = arm.config.dps.name
    doing = f"get a key of the provisioning service {name}"
    with azure.speaking(doing):
        for each in arm.dps_keys():
            if RIGHT in str(each.rights) and each.primary_key:
                return str(each.key_name), str(each.primary_key)
    raise AzureForbidden(f"cannot {doing}: none of its policies may write enrolments ({RIGHT})")


def _json(doing: str, reply: HttpResponse) -> Any:
    try:
        return json.loads(reply.text())
    except ValueError as e:
        raise AzureGarbled(f"cannot {doing}: DPS answered no JSON") from e


def _result(found: Any, asked: set[str]) -> dict[str, tuple[int, str]]:
    """Raises ValueError and the like for what says nothing of those that were asked for."""
    errors = dict(map(_refused, found.get("errors") or ()))
    if errors.keys() - asked or found["isSuccessful"] is not (not errors):
        raise ValueError("contradicts itself")
    return errors


def _refused(error: Any) -> tuple[str, tuple[int, str]]:
    words = printable(str(error.get("errorStatus") or "refused"))
    return str(error["registrationId"]).lower(), (int(error.get("errorCode") or 0), words)
