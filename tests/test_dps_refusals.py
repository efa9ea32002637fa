"""Whatever goes wrong at the provisioning service, or before it, has a code of its own, says what
it is about, and tells later from never."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.dps import Dps
from agent.errors import AgentError, every_error
from agent.http import Https
from agent.tpm import Tpm
from tests.lab import pki, provisioning, registrant, swtpm
from tests.lab.hostile import Hostile, Talk, Way, cut, drip, hang, http, whole
from tests.lab.registrant import Registrant, certified, soldered

NAME = "bad-luck"
LATER, NO = 75, 76


@pytest.fixture(scope="module")
def devices() -> pki.Authority:
    return pki.authority("Devices")


@pytest.fixture(scope="module")
def service(
    tls: pki.Tls, devices: pki.Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[provisioning.Dps]:
    with registrant.service(tmp_path_factory.mktemp("service"), tls, devices) as dps:
        yield dps


@pytest.fixture(scope="module")
def board(factory_fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tpm]:
    """One TPM for all tests here: nobody changes it."""
    state = tmp_path_factory.mktemp("board") / "tpm"
    registrant.copied(factory_fresh / "state", state)
    with swtpm.running(state) as tcti, Tpm(tcti) as tpm:
        yield soldered(tpm)


@pytest.fixture
def one(
    service: provisioning.Dps, tls: pki.Tls, devices: pki.Authority, tmp_path: Path
) -> Registrant:
    service.behave()
    return Registrant(service, tls.trust, NAME, identify=certified(devices, NAME, tmp_path))


@pytest.fixture
def chip(service: provisioning.Dps, tls: pki.Tls, board: Tpm) -> Registrant:
    service.behave()
    ours = Registrant(service, tls.trust, f"{NAME}-chip", board)
    service.enrol_tpm(ours.name, ours.ek)
    return ours


def failing(device: Registrant, **more: Any) -> AgentError:
    """What a registration fails of; it says whose matter it is, and is not too long."""
    with pytest.raises(AgentError) as caught:
        device.register(**more)
    said = str(caught.value)
    assert device.name in said or "localhost" in said or "DPS" in said
    assert len(said) < 500
    assert said.isprintable()
    return caught.value


# --- what the service says ---


@pytest.mark.parametrize(
    ("behaviour", "code", "status"),
    [
        ({"throttle": 1}, "dps-throttled", LATER),
        ({"disabled": [NAME]}, "dps-disabled", NO),
        ({"failing": [NAME]}, "dps-no-hub", NO),
        ({"failing": [NAME], "failure": 400209}, "dps-hub-denied", NO),
        ({"failing": [NAME], "failure": 400999}, "dps-failed", NO),
        ({"odd": {"register": "500"}}, "dps-trouble", LATER),
        ({"odd": {"register": "503"}}, "dps-trouble", LATER),
        ({"odd": {"register": "408"}}, "dps-trouble", LATER),
        ({"odd": {"register": "400"}}, "dps-bad-request", NO),
        ({"odd": {"register": "401"}}, "dps-unauthorized", NO),
        ({"odd": {"register": "404"}}, "dps-not-enrolled", NO),
        ({"odd": {"register": "412"}}, "dps-refused", NO),
        ({"odd": {"register": "html"}}, "captive-portal", NO),
        ({"odd": {"register": "truncated"}}, "dps-garbled", NO),
        ({"odd": {"register": "empty"}}, "dps-garbled", NO),
        ({"odd": {"register": "list"}}, "dps-garbled", NO),
        ({"odd": {"register": "binary"}}, "dps-garbled", NO),
        ({"odd": {"register": "huge"}}, "reply-too-large", NO),
        ({"odd": {"register": "cut"}}, "reply-truncated", LATER),
        ({"odd": {"register": "silence"}}, "unreachable", LATER),
        ({"odd": {"operation": "html"}}, "captive-portal", NO),
        ({"odd": {"operation": "truncated"}}, "dps-garbled", NO),
        ({"accepted": {"operationId": None}}, "dps-garbled", NO),
        ({"accepted": {"operationId": "a b"}}, "dps-garbled", NO),
        ({"accepted": {"status": "perhaps"}}, "dps-garbled", NO),
        ({"state": {"assignedHub": None}}, "dps-garbled", NO),
        ({"state": {"assignedHub": "hub.example/../evil"}}, "dps-garbled", NO),
        ({"state": {"assignedHub": "hub.example:8883"}}, "dps-garbled", NO),
        ({"state": {"assignedHub": "a" * 64 + ".example"}}, "dps-garbled", NO),
        ({"state": {"assignedHub": ".".join(["a" * 60] * 5)}}, "dps-garbled", NO),
        ({"state": {"assignedHub": ["hub.example"]}}, "dps-garbled", NO),
        ({"state": {"deviceId": None}}, "dps-garbled", NO),
        ({"state": {"deviceId": "a/b"}}, "dps-garbled", NO),
        ({"state": {"deviceId": "a" * 129}}, "dps-garbled", NO),
        ({"state": {"registrationId": "somebody-else"}}, "dps-garbled", NO),
    ],
)
def test_each_answer_has_a_code_of_its_own(
    one: Registrant,
    service: provisioning.Dps,
    behaviour: dict[str, Any],
    code: str,
    status: int,
) -> None:
    service.behave(**behaviour)
    found = failing(one)
    assert (found.code, found.status) == (code, status), found


def test_an_unknown_scope_is_told_from_an_unknown_device(one: Registrant) -> None:
    found = failing(one, scope="0ne00OTHER0")
    assert (found.code, found.status) == ("dps-scope", NO)
    assert "0ne00OTHER0" in found.remedy


def test_who_is_not_enrolled_hears_under_what_name_it_should_be(
    chip: Registrant, service: provisioning.Dps
) -> None:
    service.forget(chip.name)
    found = failing(chip)
    assert (found.code, found.status) == ("dps-not-enrolled", NO)
    assert f"'{chip.name}'" in found.remedy
    assert "errorCode 404204" in str(found)
    assert "trackingId" in str(found)


def test_another_ek_is_enrolled(chip: Registrant, service: provisioning.Dps) -> None:
    other = bytearray(chip.ek)
    other[-1] ^= 1
    service.enrolment(chip.name, ek=bytes(other))
    assert failing(chip).code == "dps-bad-request"


def test_a_disabled_enrolment_of_a_tpm(chip: Registrant, service: provisioning.Dps) -> None:
    service.enrolment(chip.name, enabled=False)
    assert failing(chip).code == "dps-disabled"


def test_a_certificate_of_another_ca(
    service: provisioning.Dps, tls: pki.Tls, tmp_path: Path
) -> None:
    service.behave()
    stranger = certified(pki.authority("Stranger"), NAME, tmp_path)
    one = Registrant(service, tls.trust, NAME, identify=stranger)
    assert failing(one).code == "dps-unauthorized"


def test_a_clock_that_is_wrong_is_named_and_comes_right_by_itself(
    chip: Registrant, service: provisioning.Dps
) -> None:
    service.behave(skew=2 * 24 * 3600)
    found = failing(chip)
    assert (found.code, found.status) == ("dps-clock", LATER)
    assert "the clock here says" in str(found)
    assert chip.steps[-2:] == ["challenge", "register"]
    service.behave()
    assert chip.register().device_id == chip.name


def test_how_long_to_stay_away_is_taken_from_the_answer(
    one: Registrant, service: provisioning.Dps
) -> None:
    service.behave(throttle=1, retry_after=123)
    assert getattr(failing(one), "seconds", None) == 123


@pytest.mark.parametrize(
    ("spoilt", "code"),
    [
        ("not-base64", "dps-garbled"),
        ("oversized", "dps-garbled"),
        ("missing", "dps-unauthorized"),
        ("truncated", "dps-key-invalid"),
        ("other-ek", "dps-key-of-another-tpm"),
    ],
)
def test_a_challenge_that_is_none_leaves_nothing_in_the_tpm(
    chip: Registrant, service: provisioning.Dps, board: Tpm, spoilt: str, code: str
) -> None:
    before = board.loaded()
    service.behave(challenge=spoilt)
    assert failing(chip).code == code
    assert board.loaded() == before


def test_a_hub_key_that_does_not_come_is_not_made_up(
    chip: Registrant, service: provisioning.Dps
) -> None:
    service.behave(hub_key="missing")
    assert chip.register().key is None


def test_a_hub_key_that_is_no_base64(chip: Registrant, service: provisioning.Dps) -> None:
    service.behave(hub_key="not-base64")
    assert failing(chip).code == "dps-garbled"


# --- somebody else in its place ---


def asked(tls: pki.Tls, way: Way, *, timeout: float = 5) -> AgentError:
    """What a registration by TPM fails of, where `way` answers it."""
    with (
        Hostile(tls, {"register?api-version=2021-06-01": way}) as server,
        Https(tls.trust, timeout=timeout) as https,
    ):
        url = f"https://localhost:{server.port}"
        dps = Dps(https, url, "0ne00000000", NAME, api_version="2021-06-01", rest=lambda _: None)
        with pytest.raises(AgentError) as caught:
            dps.by_tpm(b"ek", b"srk", lambda challenge, data: SIGNATURE)
        return caught.value


SIGNATURE = bytes(range(200, 232))
CHALLENGE = json.dumps({"authenticationKey": base64.b64encode(bytes(64)).decode()}).encode()
PAGE = b"<html><body>Please log in to the hotel's network</body></html>"


@pytest.mark.parametrize(
    ("way", "code"),
    [
        (whole(http(200, PAGE)), "captive-portal"),
        (whole(http(200, PAGE, Content_Type="text/html")), "captive-portal"),
        (whole(http(302, PAGE, Location="https://hotel.example/login")), "captive-portal"),
        (whole(http(403, PAGE)), "captive-portal"),
        (whole(http(511, b"")), "captive-portal"),
        (whole(http(502, PAGE)), "dps-trouble"),
        (whole(http(307, b"", Location="https://else.example/\x1b[31m")), "dps-redirected"),
        (whole(http(403, b"{}")), "dps-refused"),
        (whole(http(200, b"{}")), "dps-garbled"),
        (whole(http(401, b"[" * 100_000)), "dps-garbled"),
        (whole(http(401, b"9" * 100_000)), "dps-garbled"),
        (whole(http(401, b"{}")), "dps-unauthorized"),
        (whole(http(401, b'{"authenticationKey": 7}')), "dps-garbled"),
        (whole(http(401, b'{"authenticationKey": "AAAA", "keyName": "a&b=c"}')), "dps-garbled"),
        (cut(http(401, CHALLENGE)), "reply-truncated"),
        (whole(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "http-garbled"),
    ],
)
def test_what_is_no_provisioning_service_is_not_taken_for_one(
    tls: pki.Tls, way: Way, code: str
) -> None:
    found = asked(tls, way)
    assert found.code == code, found
    assert str(found).isprintable()


@pytest.mark.parametrize("way", [hang, drip(http(401, CHALLENGE * 100), 0.1)], ids=["hang", "drip"])
def test_an_answer_that_takes_too_long_is_cut_off(tls: pki.Tls, way: Way) -> None:
    assert asked(tls, way, timeout=0.5).code == "timed-out"


@pytest.mark.parametrize("status", [400, 404, 401, 412, 429, 500])
def test_a_service_that_repeats_what_it_was_sent_gives_no_token_away(
    tls: pki.Tls, status: int
) -> None:
    def parrot(talk: Talk) -> None:
        login = talk.request.headers.get("authorization")
        words = {"message": f"Bad token: {login}", "errorCode": 400000, "trackingId": login}
        answer = http(status, json.dumps(words).encode()) if login else http(401, CHALLENGE)
        talk.line.sendall(answer)

    found = asked(tls, parrot)
    shown = f"{found!r} {found.fields} {found.remedy}"
    signature = base64.b64encode(SIGNATURE).decode()
    assert signature[:8] not in shown
    assert "sig=" not in shown.replace("sig=...", "")


def test_every_failure_of_the_provisioning_service_is_brought_about_in_some_test() -> None:
    failures = [error for error in every_error() if error.code.startswith("dps-")]
    text = "".join(file.read_text() for file in Path(__file__).parent.rglob("*.py"))
    for error in failures:
        raised = f"raises({error.__name__}"
        assert f'"{error.code}"' in text or raised in text, error.code
