"""The lab's provisioning service fails as a test wishes, and tells certificates apart."""

import time
from collections.abc import Iterator
from datetime import timedelta
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path

import pytest
from cryptography import x509

from tests.lab import pki
from tests.lab.dps_client import Answer, Chip, Client, soldered
from tests.lab.dps_limits import Limits
from tests.lab.provisioning import HUB, Dps

OTHER_HUB = "other.lab.invalid"


@pytest.fixture(scope="module")
def chip(factory_fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chip]:
    with soldered(factory_fresh / "state", tmp_path_factory.mktemp("chip")) as chip:
        yield chip


@pytest.fixture(scope="module")
def operations() -> pki.Authority:
    return pki.authority("Operations CA")


@pytest.fixture(scope="module")
def group(operations: pki.Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return operations.save(tmp_path_factory.mktemp("operations")).root


@pytest.fixture(scope="module")
def service(tls: pki.Tls, group: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dps]:
    dps = Dps(tmp_path_factory.mktemp("dps") / "dps", tls, [group], hubs=[HUB, OTHER_HUB])
    with dps.running():
        yield dps


@pytest.fixture
def client(service: Dps, tls: pki.Tls, chip: Chip, request: pytest.FixtureRequest) -> Client:
    """A device that is enrolled by its TPM, under a name of its own."""
    service.behave(retry_after=0)
    name = f"chip-{request.node.name.replace('_', '-')}"
    service.enrol_tpm(name, chip.parents.ek)
    return Client(service, tls.trust, name, chip.parents)


# --- what a test may ask for ---


def test_an_operation_may_end_otherwise_or_never(client: Client, chip: Chip) -> None:
    token = client.token(chip.opened(client.challenge().blob))
    client.dps.behave(polls=0)
    begun = client.register(token)
    client.dps.enrolment(client.id, enabled=False)
    assert client.poll(begun, token).state["status"] == "disabled"
    client.dps.enrolment(client.id, enabled=True)
    client.dps.behave(polls=-1, failing=[client.id], failure=400209)
    assert client.poll(client.register(token), token).status == 202
    client.dps.behave(polls=0, failing=[client.id], failure=400209)
    failed = client.poll(client.register(token), token)
    assert (failed.state["status"], failed.state["errorCode"]) == ("failed", 400209)
    client.dps.behave(forgets=True)
    assert client.poll(client.register(token), token).status == 404
    assert not client.dps.assigned(client.id)


def test_keys_and_assignments_may_be_spoilt(client: Client, chip: Chip) -> None:
    client.dps.behave(challenge="missing")
    assert "authenticationKey" not in client.challenge().json
    client.dps.behave(challenge="flipped-private", supersede=1, key_name="other")
    with pytest.raises(RuntimeError, match="import"):
        chip.opened(client.challenge().blob)
    client.dps.behave(supersede=1, key_name="other")
    for status in (401, 202):
        sign = chip.opened(client.challenge().blob)
        assert client.register(client.token(sign, skn="other")).status == status
    state = {"assignedHub": "http://evil/", "deviceId": None}
    client.dps.behave(polls=0, hub_key="missing", state=state, retry_after=0)
    answer = client.registered(chip)
    assert (answer.state["tpm"], answer.state["assignedHub"]) == ({}, "http://evil/")
    assert "deviceId" not in answer.state


def test_the_clock_of_the_service_may_be_another(client: Client, chip: Chip) -> None:
    token = client.token(chip.opened(client.challenge().blob))
    client.dps.behave(skew=7200)
    answer = client.register(token)
    assert answer.json["message"].endswith("expired")
    ahead = parsedate_to_datetime(answer.headers["Date"]).timestamp() - time.time()
    assert timedelta(hours=1.9) < timedelta(seconds=ahead) < timedelta(hours=2.1)


def test_later_is_a_number_or_a_date_or_nothing(client: Client) -> None:
    wishes: dict[int | str | None, str | None] = {20: "20", "soon": "soon", None: None}
    for wish, expected in wishes.items():
        client.dps.behave(throttle=1, retry_after=wish)
        answer = client.challenge()
        assert (answer.status, answer.headers.get("Retry-After")) == (429, expected)
        assert client.challenge().status == 401
    client.dps.behave(throttle=1, retry_after=60, retry_date=True)
    header = client.challenge().headers["Retry-After"]
    assert parsedate_to_datetime(header).timestamp() > time.time() + 30


def test_answers_may_be_unlike_any_of_the_service(client: Client) -> None:
    client.dps.behave(odd={"challenge": "503"}, odd_times=1, retry_after=5)
    answer = client.challenge()
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert answer.json["trackingId"]
    assert client.challenge().status == 401

    def odd(kind: str) -> Answer:
        client.dps.behave(odd={"challenge": kind})
        return client.challenge()

    assert odd("html").status == 200
    assert odd("html").headers["Content-Type"].startswith("text/html")
    assert odd("truncated").body.startswith(b'{"message"')
    for kind in ("truncated", "empty", "binary"):
        with pytest.raises(ValueError, match=r"Expecting|Unterminated|decode"):
            assert odd(kind).json
    assert odd("list").json == []
    assert odd("content-type").json["keyName"]
    assert len(odd("huge").body) > 8 << 20
    for kind in ("cut", "silence"):
        with pytest.raises((HTTPException, OSError)):
            odd(kind)
    assert client.dps.requests()[-1]["odd"] == "silence"


def test_more_than_the_published_limits_is_refused_where_the_test_says_so(
    client: Client, chip: Chip
) -> None:
    client.dps.behave(polls=-1, limits=True, retry_after=9)
    token = client.token(chip.opened(client.challenge().blob))
    begun = client.register(token)
    answers = [client.poll(begun, token) for _ in range(6)]
    assert [answer.status for answer in answers] == 5 * [202] + [429]
    assert answers[-1].headers["Retry-After"] == "9"
    registrations, polls = client.dps.busiest()
    assert registrations >= 2
    assert polls >= 6


def test_windows_slide_and_what_is_refused_takes_no_room() -> None:
    limits = Limits()
    for moment in range(1000):
        assert limits.registration(moment / 100) == (moment + 1, False)
    assert limits.registration(59.9) == (1001, True)
    assert limits.registration(60.0) == (1001, False)  # the first one is a minute old
    assert limits.registration(60.001) == (1002, True)
    assert limits.registrations.most == 1002
    assert [limits.poll("a", moment)[1] for moment in range(6)] == 5 * [False] + [True]
    assert limits.poll("b", 6.0) == (1, False)
    assert limits.poll("a", 10.0) == (6, False)


# --- certificates, one by one ---


@pytest.fixture
def shown(client: Client, operations: pki.Authority, tmp_path: Path) -> x509.Certificate:
    """The client's certificate, of an enrolled CA; its TPM's enrolment is gone."""
    key = pki.new_key()
    certificate = operations.issue(key.public_key(), client.id)
    client.dps.forget(client.id)
    client.show(tmp_path, key, certificate, operations.certificate)
    return certificate


def test_one_certificate_is_enrolled_and_no_other(
    client: Client, shown: x509.Certificate, tmp_path: Path
) -> None:
    foreign = pki.authority("Nobody's CA")
    key = pki.new_key()
    own = foreign.issue(key.public_key(), client.id)
    client.dps.enrol_certificate(client.id, own, device_id="pump-8")
    # One of an enrolled group is no better.
    assert client.register(None).json["message"].endswith("another certificate is enrolled")
    client.show(tmp_path, key, own)
    client.dps.behave(polls=0)
    state = client.poll(client.register(None), None).state
    assert (state["status"], state["deviceId"]) == ("assigned", "pump-8")
    known = client.dps.devices()["pump-8"]
    assert (known["key"], known["thumbprint"]) == (None, pki.fingerprint(own))
    old = foreign.issue(key.public_key(), client.id, starts=-3 * pki.YEAR)
    client.dps.enrol_certificate(client.id, old)
    client.show(tmp_path, key, old)
    assert "not valid at this time" in client.register(None).json["message"]


def status(client: Client) -> str:
    found: str = client.poll(client.register(None), None).state["status"]
    return found


def test_groups_and_devices_may_be_disabled(
    client: Client, shown: x509.Certificate, group: Path
) -> None:
    client.dps.behave(polls=0)
    assert status(client) == "assigned"
    assert client.dps.devices()[client.id]["thumbprint"] == pki.fingerprint(shown)
    client.dps.group(group, enabled=False)
    assert status(client) == "disabled"
    client.dps.enrol_certificate(client.id, shown)  # the individual enrolment counts
    assert status(client) == "assigned"
    client.dps.group(group, enabled=True)
    client.dps.enrolment(client.id, enabled=False)
    assert status(client) == "disabled"
    client.dps.forget(client.id)
    client.dps.move(client.id, OTHER_HUB)
    assert client.poll(client.register(None), None).state["assignedHub"] == OTHER_HUB


def test_a_tpm_and_a_certificate_do_not_stand_for_each_other(
    client: Client, shown: x509.Certificate
) -> None:
    client.dps.enrol_tpm(client.id, client.parents.ek)
    assert "is for a TPM" in client.register(None).json["message"]
    client.dps.enrol_certificate(client.id, shown)
    assert "not for a TPM" in client.challenge().json["message"]
