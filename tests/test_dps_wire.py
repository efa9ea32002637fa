"""What DPS may write otherwise than it usually does, and what is never quoted from an answer."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest

from agent import sas
from agent.dps_wire import Wire
from agent.errors import AgentError, DpsDeviceName, DpsGarbled
from agent.http import Reply

WIRE = Wire("dps.example", "0ne00", "pump-7")
BLOB = bytes(range(256))
KEY = base64.b64encode(BLOB).decode()
PLACE = {"assignedHub": "hub.example", "deviceId": "pump-7"}
MAC = bytes([*range(0xEF, 0xFF), 0xFB, *range(15)])  # base64 of it has + and / in it
SIGNATURE = base64.b64encode(MAC).decode()


def reply(status: int, **words: Any) -> Reply:
    return Reply(status, {}, json.dumps(words).encode())


def test_a_null_is_as_good_as_nothing() -> None:
    challenge = reply(401, authenticationKey=KEY, keyName=None, unencryptedAuthenticationKey=None)
    assert WIRE.challenge(challenge).key_name == "registration"
    state = {**PLACE, "status": "assigned", "registrationId": None, "tpm": None, "substatus": None}
    found = WIRE.outcome({"operationId": None, "status": None, "registrationState": state})
    assert found is not None
    assert (found.hub, found.device_id, found.key) == ("hub.example", "pump-7", None)
    assert WIRE.outcome({"status": "assigning", "registrationState": None}) is None


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_base64_may_be_broken_into_lines(end: str) -> None:
    lines = end.join(KEY[at : at + 76] for at in range(0, len(KEY), 76)) + end
    assert WIRE.challenge(reply(401, authenticationKey=lines)).blob == BLOB
    state = {**PLACE, "tpm": {"authenticationKey": lines}}
    found = WIRE.outcome({"status": "assigned", "registrationState": state})
    assert found is not None
    assert found.key == BLOB


@pytest.mark.parametrize("name", ["pump+7", "hall#1"])
def test_a_name_that_no_message_can_be_sent_by_is_told_when_it_is_assigned(name: str) -> None:
    state = {**PLACE, "deviceId": name}
    with pytest.raises(DpsDeviceName, match="can send no messages") as e:
        WIRE.outcome({"status": "assigned", "registrationState": state})
    assert f"'{name}'" in str(e.value)
    assert "without + and #" in e.value.remedy


@pytest.mark.parametrize("text", ["", " ", "AAA", "AA=A", "Ä" * 8, "A" * 12_000])
def test_what_is_no_base64_is_no_key(text: str) -> None:
    with pytest.raises(DpsGarbled, match="is not base64, or too long"):
        WIRE.challenge(reply(401, authenticationKey=text))


@pytest.mark.parametrize(
    "written",
    [
        lambda found: found,
        lambda found: found.rstrip("="),
        lambda found: found.replace("+", " "),
        lambda found: found.translate(str.maketrans("+/", "-_")),
        lambda found: quote(found, safe=""),
        lambda found: quote(found, safe="").lower(),
    ],
)
def test_the_signature_that_was_sent_is_never_quoted(written: Callable[[str], str]) -> None:
    token = sas.token("0ne00/registrations/pump-7", lambda _: MAC, 2_000_000_000, "registration")
    said, asking = written(SIGNATURE), replace(WIRE, sent=token)
    words = {"message": f"{'x' * 170} signature '{said}'", "trackingId": said, "errorCode": said}
    state = {"status": "failed", "errorMessage": said, "errorCode": said}
    with pytest.raises(AgentError) as failed:
        asking.outcome({"status": "failed", "registrationState": state})
    moved = Reply(307, {"Location": f"https://else.example/?{said}"}, b"")
    told = [failed.value, *(asking.refusal(reply(n, **words)) for n in (400, 401, 404, 412, 500))]
    for error in (*told, asking.refusal(moved)):
        shown = f"{error} {error.fields} {error.remedy}"
        assert said[:8] not in shown
        assert said[-12:] not in shown
    assert token not in repr(asking)
