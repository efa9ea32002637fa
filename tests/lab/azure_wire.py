"""How the lab's Azure behaves, and what it is asked and answers, as plain data."""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.lab.dps_behaviour import version


@dataclass
class Behaviour:
    """What a test may ask for, read from the file whenever it has changed; requests are counted
    from then on, from 1. Those for tokens are neither counted nor spoilt."""

    only: str = ""  # a regular expression: of "METHOD /path" only those count, and are spoilt
    throttle: int = 0  # so many requests get 429
    throttle_every: int = 0  # every so many-th request gets 429
    retry_after: float | None = 0.05  # seconds, in what asks to come again; None: no such header
    fail: int = 0  # so many requests get 500
    fail_every: int = 0  # every so many-th request gets 500
    cut_at: list[int] = field(default_factory=list)  # these requests' connections break off
    cut_done: bool = True  # after what they ask for was done; or before
    polls: int = 1  # so often an operation that takes long is seen running
    failing: list[str] = field(default_factory=list)  # resources' names: their creation fails
    taken: list[str] = field(default_factory=list)  # names that others have: "hub-1"
    busy: int = 0  # so many changes of resources get 409
    meanwhile: str = ""  # a regular expression: "PUT /path" before which, once, somebody else
    # makes the same without a tag; or gives it one, if it is there
    unproven: bool = False  # who uploads a certificate is not believed that it is verified
    garble: str = ""  # a regular expression: "METHOD /path" that is answered by `nonsense`
    nonsense: str = "<!DOCTYPE html><title>Welcome to this hotel</title>"
    unregistered: bool = False  # the subscription has not heard of Microsoft.Devices
    forbidden: str = ""  # a regular expression: "METHOD /path" for which the role is missing
    token_life: int = 3600  # seconds, of new tokens
    revoked: float = 0.0  # tokens issued before are void; seconds since 1970
    refused: dict[str, str] = field(
        default_factory=dict
    )  # registration ids that are not taken, why
    ecc: bool = False  # an ECC endorsement key may be enrolled; what the real one says is not known


class Error(Exception):
    """An answer other than success. `code`: a word (Resource Manager) or a number (Device
    Provisioning Service)."""

    def __init__(
        self, status: int, code: str | int, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})


@dataclass
class Reply:
    """`body` None: no content. `headers` besides those that each answer has."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    """What came in, at which port; `log` gathers what is worth telling of it."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    port: int
    log: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.url).path).rstrip("/")

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.url).query))

    @property
    def version(self) -> str:
        return self.query.get("api-version", "")

    @property
    def condition(self) -> str | None:
        """If-Match as it was sent."""
        return self.headers.get("If-Match")

    @property
    def etag(self) -> str | None:
        """The same of a resource, whose ETags have no quotes where they are shown, and may have
        them where they are sent."""
        return None if self.condition is None else self.condition.strip('"')

    @property
    def only_new(self) -> bool:
        """Whether what is there already is not to be touched."""
        return self.headers.get("If-None-Match") == "*"

    def json(self) -> dict[str, Any]:
        """The body; raises 400, 415."""
        kind = (self.headers.get("Content-Type") or "").split(";")[0].strip().lower()
        if kind != "application/json":
            raise Error(415, "UnsupportedMediaType", f"The content type '{kind}' is not supported")
        try:
            found = json.loads(self.body)
        except ValueError as e:
            raise Error(
                400, "InvalidRequestContent", f"The request content is not JSON: {e}"
            ) from e
        if not isinstance(found, dict):
            raise Error(400, "InvalidRequestContent", "The request content is no object")
        return found


class Script:
    """The file a test writes its wishes to."""

    def __init__(self, file: Path) -> None:
        self._file, self._seen = file, (0, 0)
        self.wish, self.count = Behaviour(), 0

    def follow(self) -> Behaviour:
        if self._file.exists() and (now := version(self._file)) != self._seen:
            self.wish, self._seen = Behaviour(**json.loads(self._file.read_text())), now
            self.count = 0
        return self.wish

    def retry_after(self) -> dict[str, str]:
        """Whole seconds (RFC 9110, 10.2.3); of a part of one, milliseconds, as some of Azure's
        services say it besides."""
        value = self.wish.retry_after
        if value is None:
            return {}
        if value != int(value):
            return {"retry-after-ms": str(int(1000 * value))}
        return {"Retry-After": str(int(value))}


def utc() -> str:
    """As JSON has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def said(error: Error, *, numbers: bool) -> Reply:
    """An error in words: Resource Manager's, or (`numbers`) the Device Provisioning Service's."""
    if not numbers:
        words: dict[str, Any] = {"error": {"code": str(error.code), "message": str(error)}}
        return Reply(error.status, words, {"x-ms-error-code": str(error.code), **error.headers})
    code = error.code if isinstance(error.code, int) else error.status * 1000
    words = {"errorCode": code, "trackingId": str(uuid.uuid4()).upper(), "message": str(error)}
    words |= {"timestampUtc": utc()}
    return Reply(error.status, words, {"x-ms-error-code": str(code), **error.headers})


def known(request: Request, versions: set[str]) -> None:
    """Raise 400 unless the request names an api-version that there is."""
    if not request.version:
        words = "The api-version query parameter (?api-version=) is required for all requests."
        raise Error(400, "MissingApiVersionParameter", words)
    if request.version not in versions:
        words = f"The api-version '{request.version}' is invalid; there are {sorted(versions)}."
        raise Error(400, "InvalidApiVersionParameter", words)


def place_of(body: dict[str, Any]) -> str:
    """The region, as Resource Manager writes it: "West Europe" is "westeurope". Raises 400."""
    where = body.get("location")
    if not isinstance(where, str) or not where:
        raise Error(400, "LocationRequired", "The location property is required.")
    return where.replace(" ", "").lower()
