"""How the lab's provisioning service behaves, and what it is asked and answers, as plain data."""

import json
import time
import uuid
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

from cryptography import x509

# What a request is for: a register without a token that offers a TPM; any other register; a poll;
# the question what came of the last registration.
STEPS = ["challenge", "register", "operation", "lookup"]
# How the answer to a step can be unlike any of the service's own; see tests/lab/dps.py.
ODD = ["html", "truncated", "cut", "empty", "list", "content-type", "huge", "binary", "silence"]


@dataclass
class Behaviour:
    """What a test may ask for, read from the file whenever it has changed."""

    throttle: int = 0  # so many requests get 429
    polls: int = 1  # so often an operation is still "assigning"; -1: for ever
    retry_after: int | str | None = 1  # the header: seconds, these words, or none
    retry_date: bool = False  # the seconds as an HTTP-date
    limits: bool = False  # more than the published limits gets 429
    skew: int = 0  # seconds that the service's clock is ahead
    disabled: list[str] = field(default_factory=list)  # registration ids
    failing: list[str] = field(default_factory=list)  # registration ids: no assignment, because
    failure: int = 400208  # no hub; 400209 is a hub that does not let the service in
    forgets: bool = False  # no operation is known
    supersede: int = 0  # so many tokens come after another challenge was given out
    ecc: bool = False  # an ECC endorsement key will do; what the real one says is not known
    challenge: str = "right"  # how the challenge is spoilt: tests.lab.dps_tpm.blob
    hub_key: str = "right"  # the same for the hub's key
    key_name: str = "registration"  # of the challenge
    key_size: int = 32  # bytes of a new hub key
    new_keys: bool = False  # whoever registers again gets another hub key
    payload: Any = None  # returned with the assignment
    state: dict[str, Any] = field(default_factory=dict)  # put over an assignment; null: left out
    accepted: dict[str, Any] = field(default_factory=dict)  # the same for the 202 of a register
    odd: dict[str, str] = field(default_factory=dict)  # a step: one of ODD, or an HTTP status
    odd_times: int = -1  # so often, -1: always


class Error(Exception):
    """An answer other than success: HTTP status, error code, words."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class Request:
    """What came in; `log` gathers what is worth telling of it."""

    method: str
    url: str
    body: bytes
    token: str | None  # the Authorization header
    chain: list[x509.Certificate]  # the client's, leaf first
    kind: str | None = None  # the Content-Type header
    log: dict[str, Any] = field(default_factory=dict)


@dataclass
class Reply:
    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    odd: str = ""  # one of ODD


class Script:
    """The file a test writes its wishes to."""

    def __init__(self, file: Path) -> None:
        self._file, self._seen = file, (0, 0)
        self.wish = Behaviour()

    def follow(self) -> Behaviour:
        """The wishes as they are now; counts start again when they change."""
        if self._file.exists() and (now := version(self._file)) != self._seen:
            self.wish, self._seen = Behaviour(**json.loads(self._file.read_text())), now
        return self.wish

    def now(self) -> float:
        """The service's time, seconds since 1970."""
        return time.time() + self.wish.skew

    def text(self) -> str:
        """The same as its JSON has it."""
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.now()))

    def retry_after(self) -> dict[str, str]:
        """The header, if it is to be there."""
        value = self.wish.retry_after
        if value is None:
            return {}
        if self.wish.retry_date:
            return {"Retry-After": formatdate(self.now() + float(value), usegmt=True)}
        return {"Retry-After": str(value)}

    def said(self, error: Error) -> Reply:
        """An error as the service words it."""
        words = {"errorCode": error.code, "message": str(error), "timestampUtc": self.text()}
        later = self.retry_after() if error.status in (429, 503) else {}
        headers = {"x-ms-error-code": str(error.code), **later}
        return Reply(error.status, {**words, "trackingId": str(uuid.uuid4())}, headers)


def version(file: Path) -> tuple[int, int]:
    """Another for every file that is renamed to this name."""
    found = file.stat()
    return found.st_mtime_ns, found.st_ino
