"""A DPS that is asked by certificate, and answers as it is told; hostile_dps.py tells it."""

import json
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from tests.lab.hostile import Hostile, Talk, Way, http, whole
from tests.lab.hostile_bench import USUAL, Bench
from tests.lab.hostile_http import How

VERSION = "?api-version=2021-06-01"
OPERATION = "4.0123456789abcdef.0"
REGISTER = "DPS REST, Register Device"
LOOKUP = "DPS REST, Operation Status Lookup"
STATE = "DPS REST, DeviceRegistrationResult"
ERROR = "DPS REST, ProvisioningServiceErrorDetails"
BEGUN = {"operationId": OPERATION, "status": "assigning"}
Made = Callable[[Bench], Way | Sequence[Way]]


def dps(register: Made | None = None, operation: Made | None = None, **more: Way) -> How:
    """A good one, but for this; `more`: what it answers under a name of its own."""

    @contextmanager
    def how(bench: Bench) -> Any:
        ways: dict[str, Any] = {
            f"register{VERSION}": register(bench) if register else replied(202, BEGUN),
            f"{OPERATION}{VERSION}": operation(bench) if operation else replied(200, done(bench)),
            **{f"{name}{VERSION}": way for name, way in more.items()},
        }
        with Hostile(bench.tls, ways) as there:
            yield there.port

    return how


def replied(status: int, content: Any, **headers: str) -> Way:
    return whole(reply(status, json.dumps(content).encode(), **headers))


def reply(status: int, body: bytes, **headers: str) -> bytes:
    return http(status, body, **{"Content_Type": "application/json; charset=utf-8", **headers})


def done(bench: Bench, **changes: Any) -> dict[str, Any]:
    """Assigned to the hub that knows it; None takes away."""
    name = bench.device("dps").wish.id
    state = {
        "registrationId": name,
        "assignedHub": bench.world.hub.host,
        "deviceId": name,
        "status": "assigned",
        "substatus": "initialAssignment",
    }
    state = {k: v for k, v in {**state, **changes}.items() if v is not None}
    return {"operationId": OPERATION, "status": state.get("status"), "registrationState": state}


def begins(way: Way) -> How:
    """This is the answer to the registration."""
    return dps(lambda _: way)


def begun(**changes: Any) -> How:
    content = {k: v for k, v in {**BEGUN, **changes}.items() if v is not None}
    return begins(replied(202, content))


def told(body: bytes, status: int = 200, **headers: str) -> How:
    """... and this to the question what became of it."""
    return dps(None, lambda _: whole(reply(status, body, **headers)))


def polled(*ways: Way) -> How:
    return dps(None, lambda _: ways)


def state(**changes: Any) -> How:
    return dps(None, lambda bench: replied(200, done(bench, **changes)))


def text(change: Callable[[bytes], bytes]) -> How:
    return dps(None, lambda bench: whole(reply(200, change(json.dumps(done(bench)).encode()))))


def refused(status: int, **content: Any) -> How:
    return begins(replied(status, content))


def says(status: int, **headers: str) -> How:
    return begins(whole(http(status, **headers)))  # type: ignore[arg-type]


def named(operation: str) -> How:
    """An operation of this name is begun."""
    return begun(operationId=operation)


def later(times: int, retry: str = "3") -> list[Way]:
    return [replied(202, BEGUN, Retry_After=retry)] * times


def dated(hours: int) -> Way:
    """A 401, by a clock that is ahead."""

    def way(talk: Talk) -> None:
        date = format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True)
        talk.line.sendall(http(401, b"{}", Date=date))

    return way


def silent(begin: bytes) -> Way:
    """For longer than anybody waits."""

    def way(talk: Talk) -> None:
        talk.line.sendall(begin)
        talk.over.wait(2 * USUAL)
        raise EOFError

    return way
