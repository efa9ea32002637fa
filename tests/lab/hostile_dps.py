"""Ways to misbehave of a DPS that is asked by certificate."""

import json
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from tests.lab.hostile import Hostile, Talk, Way, cut, drip, http, moved, whole
from tests.lab.hostile_bench import USUAL, Bench, Row
from tests.lab.hostile_http import How, for_ever
from tests.lab.hub import own_address

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


STATUSES = [
    Row(
        f"{status} ({words})",
        REGISTER if status < 600 else "RFC 9110, 15",
        code,
        says(status, **headers),
        at="dps",
    )
    for status, words, code, headers in [
        (201, "Created", "dps-refused", {}),
        (204, "No Content", "dps-refused", {}),
        (301, "to http", "dps-redirected", {"Location": "http://localhost/"}),
        (307, "to another server", "dps-redirected", {"Location": "https://elsewhere.invalid/"}),
        (308, "to itself", "dps-redirected", {"Location": "register"}),
        (400, "without a word", "dps-bad-request", {}),
        (401, "without a word", "dps-unauthorized", {}),
        (403, "Forbidden", "dps-refused", {}),
        (404, "without a word", "dps-not-enrolled", {}),
        (405, "Method Not Allowed", "dps-refused", {"Allow": "GET"}),
        (408, "Request Timeout", "dps-trouble", {}),
        (409, "Conflict", "dps-refused", {}),
        (412, "Precondition Failed", "dps-refused", {}),
        (429, "without Retry-After", "dps-throttled", {}),
        (429, "Retry-After of a century", "dps-throttled", {"Retry_After": "3155760000"}),
        (429, "Retry-After of nonsense", "dps-throttled", {"Retry_After": "soon"}),
        (500, "Internal Server Error", "dps-trouble", {}),
        (502, "Bad Gateway", "dps-trouble", {}),
        (
            503,
            "Retry-After long ago",
            "dps-trouble",
            {"Retry_After": "Sun, 06 Nov 1994 08:49:37 GMT"},
        ),
        (511, "Network Authentication Required", "captive-portal", {}),
        (999, "that there is not", "dps-trouble", {}),
    ]
]

WORDS = [
    Row("401, by a clock an hour ahead", ERROR, "dps-clock", begins(dated(1)), at="dps"),
    Row("401, by a clock two days ahead", ERROR, "clock-implausible", begins(dated(48)), at="dps"),
    Row(
        "400 with a message of terminal escapes",
        ERROR,
        "dps-bad-request",
        refused(400, message="\x1b[2J\x07\r\nRemedy: run this", errorCode=400000),
        at="dps",
    ),
    Row(
        "400 with a message of half a megabyte",
        ERROR,
        "dps-bad-request",
        refused(400, message="x" * (1 << 19)),
        at="dps",
    ),
    Row(
        "400 with fields of other types",
        ERROR,
        "dps-bad-request",
        refused(400, message=["a"], errorCode={"b": 1}, trackingId=False),
        at="dps",
    ),
    Row(
        "400 with an errorCode of 4000 digits",
        ERROR,
        "dps-bad-request",
        begins(whole(reply(400, b'{"errorCode": ' + b"9" * 4000 + b"}"))),
        at="dps",
    ),
    Row(
        "404, the ID scope",
        ERROR,
        "dps-scope",
        refused(404, message="ID scope not found", errorCode=404201),
        at="dps",
    ),
    Row(
        "A web page, 200",
        REGISTER,
        "captive-portal",
        begins(whole(http(200, b"<html>Log in</html>", Content_Type="text/html"))),
        at="dps",
    ),
    Row(
        "A web page that says to be JSON",
        REGISTER,
        "captive-portal",
        begins(whole(reply(200, b" <!DOCTYPE html>"))),
        at="dps",
    ),
    Row(
        "A redirect to a portal",
        REGISTER,
        "dps-redirected",
        begins(whole(moved("https://portal.invalid/?u=\r\n\x1b", 302))),
        at="dps",
    ),
]

JSON = [
    Row("No JSON", "RFC 8259, 2", "dps-garbled", told(b"assigned"), at="dps"),
    Row(
        "JSON that breaks off",
        "RFC 8259, 2",
        "dps-garbled",
        text(lambda body: body[:-20]),
        at="dps",
    ),
    Row("Nothing", "RFC 8259, 2", "dps-garbled", told(b""), at="dps"),
    Row("A list", "RFC 8259, 5", "dps-garbled", told(b"[]"), at="dps"),
    Row("null", "RFC 8259, 3", "dps-garbled", told(b"null"), at="dps"),
    Row("An object of nothing", "RFC 8259, 4", "dps-garbled", told(b"{}"), at="dps"),
    Row("100,000 brackets", "RFC 8259, 9", "dps-garbled", told(b"[" * 100000), at="dps"),
    Row(
        "A number of 100,000 digits",
        "RFC 8259, 9",
        "dps-garbled",
        told(b'{"a": ' + b"9" * 100000 + b"}"),
        at="dps",
    ),
    Row(
        "A number that is not finite",
        "RFC 8259, 6",
        "",
        text(lambda body: b'{"x": 1e9999, "y": NaN, ' + body[1:]),
        "it is not looked at",
        at="dps",
    ),
    Row(
        "100,000 members",
        "RFC 8259, 4",
        "",
        text(lambda body: b"{" + b"".join(b'"%d":1,' % n for n in range(80000)) + body[1:]),
        "what is not known is ignored",
        at="dps",
    ),
    Row(
        "The same name twice",
        "RFC 8259, 4",
        "",
        text(lambda body: b'{"status": "failed", ' + body[1:]),
        "the last one counts",
        at="dps",
    ),
    Row(
        "A byte order mark",
        "RFC 8259, 8.1",
        "",
        text(lambda body: b"\xef\xbb\xbf" + body),
        "it is recognised",
        at="dps",
    ),
    Row(
        "UTF-16",
        "RFC 8259, 8.1",
        "",
        text(lambda body: body.decode().encode("utf-16")),
        "it is recognised",
        at="dps",
    ),
    Row(
        "Bytes that are no UTF-8",
        "RFC 8259, 8.1",
        "dps-garbled",
        text(lambda body: body[:-1] + b', "x": "\xff\xfe"}'),
        at="dps",
    ),
    Row(
        "Half of a character, as \\ud800",
        "RFC 8259, 8.2",
        "",
        text(lambda body: body[:-1] + b', "\\ud800": "\\udc00"}'),
        "it is not looked at",
        at="dps",
    ),
    Row(
        "Compressed, though nobody asked for it",
        "RFC 9110, 12.5.3",
        "dps-garbled",
        told(b"\x1f\x8b\x08" + bytes(50), Content_Encoding="gzip"),
        at="dps",
    ),
    Row(
        "As text/plain",
        "RFC 9110, 8.3",
        "",
        dps(None, lambda bench: replied(200, done(bench), Content_Type="text/plain")),
        "what it is shows inside",
        at="dps",
    ),
]

OPERATIONS = [
    Row("No operationId", REGISTER, "dps-garbled", begun(operationId=None), at="dps"),
    Row("operationId: a number", REGISTER, "dps-garbled", begun(operationId=5), at="dps"),
    Row(
        "operationId of a megabyte, nearly", REGISTER, "dps-garbled", named("x" * 900000), at="dps"
    ),
    Row(
        "operationId with line ends and a field",
        "RFC 9112, 11.1",
        "dps-garbled",
        named("x\r\nAuthorization: x"),
        at="dps",
    ),
    Row(
        "operationId with a way up",
        "RFC 3986, 5.2.4",
        "dps-forgot",
        named("../../../../etc/passwd"),
        at="dps",
    ),
    Row(
        "operationId with a question and a fragment",
        "RFC 3986, 3.4",
        "dps-forgot",
        named("a?b=c#d"),
        at="dps",
    ),
    Row(
        "operationId: another host",
        "RFC 3986, 3.2",
        "dps-forgot",
        named("@elsewhere.invalid/"),
        at="dps",
    ),
    Row(
        "Location: another host",
        REGISTER,
        "",
        dps(lambda _: replied(202, BEGUN, Location="https://elsewhere.invalid/")),
        "nobody follows it",
        at="dps",
    ),
    Row("202 for ever", LOOKUP, "dps-assigning", polled(replied(202, BEGUN)), at="dps"),
    Row(
        "202 for ever, Retry-After: 0",
        LOOKUP,
        "dps-assigning",
        polled(replied(202, BEGUN, Retry_After="0")),
        at="dps",
    ),
    Row(
        "202, Retry-After of a century",
        LOOKUP,
        "dps-assigning",
        polled(replied(202, BEGUN, Retry_After="3155760000")),
        at="dps",
    ),
    Row(
        "202, Retry-After: -1, twice",
        LOOKUP,
        "",
        dps(None, lambda bench: [*later(2, "-1"), replied(200, done(bench))]),
        "the next question comes at the usual pace",
        at="dps",
    ),
    Row(
        "200, and still assigning, for ever",
        LOOKUP,
        "dps-assigning",
        state(status="assigning"),
        at="dps",
    ),
    Row(
        "500 for ever, once it has begun", LOOKUP, "dps-trouble", polled(whole(http(500))), at="dps"
    ),
    Row(
        "429 for ever, once it has begun",
        LOOKUP,
        "dps-throttled",
        polled(whole(http(429))),
        at="dps",
    ),
    Row("Cut connections, once it has begun", LOOKUP, "unreachable", polled(cut(b"", 0)), at="dps"),
    Row("404, once it has begun", LOOKUP, "dps-forgot", polled(whole(http(404))), at="dps"),
    Row("401, once it has begun", LOOKUP, "dps-unauthorized", polled(whole(http(401))), at="dps"),
    Row(
        "Another operation is told of",
        LOOKUP,
        "",
        text(lambda body: body.replace(OPERATION.encode(), b"5.another.0")),
        "it is the registration that counts",
        at="dps",
    ),
    Row(
        "Assigned at once, with a 200",
        REGISTER,
        "",
        dps(lambda bench: replied(200, done(bench))),
        "there is nothing to wait for",
        at="dps",
    ),
]

RESULTS = [
    Row("A status that nobody knows", STATE, "dps-garbled", state(status="splendid"), at="dps"),
    Row("No status", STATE, "dps-garbled", state(status=None), at="dps"),
    Row("Status: an object", STATE, "dps-garbled", state(status={"a": 1}), at="dps"),
    Row("Disabled", STATE, "dps-disabled", state(status="disabled"), at="dps"),
    Row("Failed, and says nothing", STATE, "dps-failed", state(status="failed"), at="dps"),
    Row(
        "Failed, errorCode: a list",
        STATE,
        "dps-failed",
        state(status="failed", errorCode=[400208]),
        at="dps",
    ),
    Row("Failed: no hub", STATE, "dps-no-hub", state(status="failed", errorCode=400208), at="dps"),
    Row("No hub", STATE, "dps-garbled", state(assignedHub=None), at="dps"),
    Row("A hub that is a number", STATE, "dps-garbled", state(assignedHub=1), at="dps"),
    Row("A hub with line ends", STATE, "dps-garbled", state(assignedHub="hub\r\nx"), at="dps"),
    Row(
        "A hub with a path and a login",
        STATE,
        "dps-garbled",
        state(assignedHub="a:b@hub/../x"),
        at="dps",
    ),
    Row("A hub with a port", STATE, "dps-garbled", state(assignedHub="hub:443"), at="dps"),
    Row(
        "A hub of 300 letters",
        "RFC 1035, 2.3.4",
        "dps-garbled",
        state(assignedHub="a." * 150 + "x"),
        at="dps",
    ),
    Row(
        "A hub that is not in DNS",
        STATE,
        "dns-failed",
        state(assignedHub="hub.invalid"),
        "the next run tries there again",
        at="dps",
    ),
    Row(
        "This machine itself for a hub",
        STATE,
        "hub-unreachable",
        dps(None, lambda bench: replied(200, done(bench, assignedHub=own_address()))),
        "the next run tries there again",
        at="dps",
    ),
    Row("No deviceId", STATE, "dps-garbled", state(deviceId=None), at="dps"),
    Row("A deviceId with a way up", STATE, "dps-garbled", state(deviceId="../x"), at="dps"),
    Row("A deviceId with line ends", STATE, "dps-garbled", state(deviceId="x\ny"), at="dps"),
    Row("A deviceId of 129 letters", STATE, "dps-garbled", state(deviceId="x" * 129), at="dps"),
    Row(
        "A deviceId that MQTT cannot send from",
        "MQTT 3.1.1, 4.7.1",
        "dps-device-name",
        state(deviceId="x+y#"),
        at="dps",
    ),
    Row(
        "A deviceId that the hub does not know",
        STATE,
        "hub-refused",
        state(deviceId="somebody-else"),
        "it is tried there, and given up",
        at="dps",
    ),
    Row(
        "About another registration",
        STATE,
        "dps-garbled",
        state(registrationId="somebody-else"),
        at="dps",
    ),
    Row(
        "registrationState: a list",
        STATE,
        "dps-garbled",
        told(b'{"status": "assigned", "registrationState": []}'),
        at="dps",
    ),
    Row(
        "A substatus of terminal escapes",
        STATE,
        "",
        state(substatus="\x1b[2J" + "x" * 10000),
        "it is not shown",
        at="dps",
    ),
    Row(
        "A payload of 900 KB, nested",
        STATE,
        "",
        state(payload={"x": [[["y" * 900000]]]}),
        "it is for nobody here",
        at="dps",
    ),
    Row(
        "A hub key for who has a certificate",
        STATE,
        "",
        state(tpm={"authenticationKey": "AAAA"}),
        "it is for nobody here",
        at="dps",
    ),
]

SLOW = [
    Row("Silence", "RFC 9112, 9.5", "timed-out", begins(silent(b"")), at="dps", slow=True),
    Row(
        "Silence in mid-answer",
        "RFC 9112, 9.5",
        "timed-out",
        begins(silent(reply(202, bytes(100))[:-50])),
        at="dps",
        slow=True,
    ),
    Row(
        "One byte now and then",
        "RFC 9112, 9.5",
        "timed-out",
        begins(drip(reply(202, bytes(1000)))),
        at="dps",
        slow=True,
    ),
    Row(
        "An answer without end",
        "RFC 9112, 6.3",
        "reply-too-large",
        begins(for_ever(b"HTTP/1.1 202 -\r\n\r\n{", b" " * 10000)),
        at="dps",
    ),
    Row(
        "A poll without end",
        "RFC 9112, 6.3",
        "reply-too-large",
        polled(for_ever(b"HTTP/1.1 200 -\r\n\r\n{", b" " * 10000)),
        at="dps",
    ),
]

ROWS = [*STATUSES, *WORDS, *JSON, *OPERATIONS, *RESULTS, *SLOW]
