"""Errors, proxies and replies in frames (agent/network/frames.py): both sides' words for them."""

import contextlib
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path, PosixPath
from typing import Any, Self

from requests.structures import CaseInsensitiveDict

from agent import traffic
from agent.clock import Bound, Times, Vouched
from agent.errors import (
    AgentError,
    Later,
    ProxyUnusable,
    Refused,
    TlsCertificateUnusable,
    TlsProvider,
    TrustUnreadable,
    every_error,
)
from agent.fetch import NotThere
from agent.http import WEEK, Proxy, Reply, printable
from agent.network.frames import Broken, Frame

# What the worker is told of this process' environment: curl(1), "ENVIRONMENT"; libraries read it.
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
# What who has nothing but a network can have to say; it is no judge of the TPM, or of a disk.
OVER_THERE = (Later, Refused, ProxyUnusable, TrustUnreadable, TlsProvider, TlsCertificateUnusable)
LONGEST = 4096  # characters of what it says in words
FIELD = re.compile("[a-z_]{1,32}")  # each becomes a field of the journal
OURS = {"code", "remedy", "step"}  # what we say there ourselves


class Unsigned(Exception):
    """The key over there did not sign; why, they know there."""


class Sent(PosixPath):
    """A file of the other side: its name there, its contents here."""

    contents: bytes

    @classmethod
    def of(cls, frame: Frame) -> Self:
        made = cls(frame["name"])
        made.contents = frame["contents"]
        return made

    def read_bytes(self) -> bytes:
        return self.contents

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        return self.contents.decode(encoding or "utf-8", errors or "strict")


def file(path: Path, contents: bytes) -> Frame:
    return {"name": str(path), "contents": contents}


def environment() -> dict[str, str]:
    """The proxies that this process' environment names, if any."""
    names = [name for each in PROXIES for name in (each, each.upper())]
    return {name: os.environ[name] for name in names if name in os.environ}


def proxy(given: Proxy | None) -> Frame | None:
    """Never logged: with its login."""
    if given is None:
        return None
    return {"url": given.url, "username": given.username, "password": given.password}


def as_proxy(frame: Frame | None) -> Proxy | None:
    return Proxy(**frame) if frame else None


# --- replies ---


def reply(given: Reply) -> Frame:
    found = given.vouched
    vouched = found and [found.since.isoformat(), found.until.isoformat()]
    headers = [list(each) for each in given.headers.items()]  # a server names them as it likes
    return {"status": given.status, "headers": headers, "body": given.body, "vouched": vouched}


def as_reply(frame: Any) -> Reply:
    """Raises Broken."""
    match frame:
        case {"status": int(status), "headers": list(headers), "body": bytes(body)}:
            vouched = _vouched(frame.get("vouched"))
            return Reply(status, CaseInsensitiveDict(map(_header, headers)), body, vouched)
    raise Broken("what it says is no reply")


def _header(found: Any) -> tuple[str, str]:
    match found:
        case [str(name), str(value)]:
            return name, value
    raise Broken("what it says is no reply")


def _vouched(found: Any) -> Vouched | None:
    match found:
        case [str(since), str(until)]:
            with contextlib.suppress(ValueError, OverflowError):
                return Vouched(_moment(since), _moment(until))
        case None:
            return None
    raise Broken("what it says is no reply")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


# --- what time it is at least (agent/clock.py) ---


class Told(Times):
    """Here only what was told counts; what a server says of the time is looked at over there."""

    def __init__(self, floor: Bound | None) -> None:
        self._told = floor

    @property
    def floor(self) -> Bound | None:
        return self._told

    def hear(
        self, host: str, headers: Mapping[str, str], vouched: Vouched, *, brings: bool = False
    ) -> None:
        """Nothing is kept here."""


def floor(times: Times | None) -> Frame | None:
    given = times and times.floor
    return {"at": given.at.isoformat(), "by": given.by} if given else None


def as_times(frame: Frame | None) -> Told:
    at = frame and datetime.fromisoformat(frame["at"])
    return Told(Bound(at, frame["by"]) if frame and at else None)


# --- errors ---


def error(given: BaseException, names: Mapping[str, str]) -> Frame:
    """`names`: of files here, what they are called there; in each text the one becomes the other.
    What is no error of ours is a bug; its text stays here."""

    def there(text: object) -> str:
        said = str(text)
        for here, name in names.items():
            said = said.replace(here, name)
        return said

    if not isinstance(given, AgentError | NotThere | Unsigned):
        return {"kind": "bug", "message": type(given).__name__, "fields": {}}
    fields = {name: there(value) for name, value in getattr(given, "fields", {}).items()}
    found = {"kind": type(given).__name__, "message": there(given), "fields": fields}
    return found | {"seconds": getattr(given, "seconds", None)}


def as_error(frame: Any) -> Exception:
    """Its words go into the journal, a file that all may read, and to a terminal: they are as fit
    for these as a server's. Raises Broken."""
    match frame:
        case {"kind": str(kind), "message": str(said), "fields": dict(fields)}:
            message, seconds = printable(said, LONGEST), frame.get("seconds")
        case _:
            raise Broken("what it says is no error")
    if kind in ("NotThere", "Unsigned"):
        return NotThere(message) if kind == "NotThere" else Unsigned(message)
    if kind == "bug":
        return AgentError(f"cannot go on: {message} in the process with the network")
    return _ours(kind, message, fields, seconds if isinstance(seconds, int) else None)


def _ours(kind: str, message: str, fields: Frame, seconds: int | None) -> AgentError:
    found = next((each for each in every_error() if each.__name__ == kind), None)
    named = all(FIELD.fullmatch(name) for name in fields) and not OURS & fields.keys()
    if found is None or not issubclass(found, OVER_THERE) or not named:
        raise Broken("what it says is no error")
    told: Any = {name: printable(str(value), LONGEST) for name, value in fields.items()}
    try:
        made = found(message, **told)
    except (KeyError, TypeError) as e:
        raise Broken("what it says is no error") from e
    if isinstance(made, Later):
        made.seconds = None if seconds is None else min(max(seconds, 0), WEEK)
    return made


# --- how much it has sent and received ---


def spent(before: traffic.Traffic) -> list[int]:
    """Since then, in bytes."""
    now = traffic.traffic()
    return [now.sent - before.sent, now.received - before.received]


def spend(frame: Frame) -> None:
    """It counts here, too."""
    match frame.get("traffic"):
        case [int(sent), int(received)] if sent >= 0 and received >= 0:
            traffic.add(traffic.Traffic(sent, received))
        case _:
            raise Broken("what it says counts nothing")
