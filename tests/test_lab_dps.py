"""The lab's provisioning service looks at a TPM as closely as the real one, or what passes there
proves nothing. The device is tpm2-tools and a few lines of HTTP: nothing of the agent."""

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import dps_tpm, pki
from tests.lab.dps_client import ECC_EK, Chip, Client, softly, soldered
from tests.lab.provisioning import HUB, Dps

OTHER_HUB = "other.lab.invalid"
KEY = bytes(range(32))


@pytest.fixture(scope="module")
def chip(factory_fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chip]:
    with soldered(factory_fresh / "state", tmp_path_factory.mktemp("chip")) as chip:
        yield chip


@pytest.fixture(scope="module")
def service(tls: pki.Tls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dps]:
    dps = Dps(tmp_path_factory.mktemp("dps") / "dps", tls, [], hubs=[HUB, OTHER_HUB])
    with dps.running():
        yield dps


@pytest.fixture
def client(service: Dps, tls: pki.Tls, chip: Chip, request: pytest.FixtureRequest) -> Client:
    """A device that is enrolled by its TPM, under a name of its own."""
    service.behave(retry_after=0)
    name = f"chip-{request.node.name.replace('_', '-')}"
    service.enrol_tpm(name, chip.parents.ek)
    return Client(service, tls.trust, name, chip.parents)


# --- the challenge ---


def test_a_challenge_has_the_size_and_the_public_area_of_recorded_ones(chip: Chip) -> None:
    parts = dps_tpm.wrapped(chip.parents, KEY)
    assert [len(part) - 2 for part in parts] == [52, 256, 142, 256, 48, 154]
    # KEYEDHASH, SHA-256; sign, noDA, userWithAuth; no policy; HMAC with SHA-256; 32 bytes.
    assert parts[4][2:18] == bytes.fromhex("0008 000b 00040440 0000 0005 000b 0020")
    assert chip.read("ek.pub").startswith(base64.b64decode("AToAAQALAAMAsgAg"))


@pytest.mark.parametrize("size", [16, 32, 64])
def test_a_tpm_opens_what_was_made_for_it(chip: Chip, size: int) -> None:
    key = bytes(range(size))
    sign = chip.opened(b"".join(dps_tpm.wrapped(chip.parents, key)))
    assert sign(b"hello") == softly(key)(b"hello")


def test_a_tpm_opens_what_was_made_for_its_ecc_endorsement_key(chip: Chip) -> None:
    parents = dps_tpm.Parents(chip.read("ecc-ek.pub"), chip.parents.srk)
    sign = chip.opened(b"".join(dps_tpm.wrapped(parents, KEY)), ECC_EK)
    assert sign(b"hello") == softly(KEY)(b"hello")


@pytest.mark.parametrize(
    "how", ["other-ek", "other-srk", *(f"flipped-{part}" for part in dps_tpm.PARTS[:5])]
)
def test_a_tpm_refuses_what_was_spoilt_or_is_not_for_it(chip: Chip, how: str) -> None:
    blob = dps_tpm.blob(chip.parents, KEY, how)
    with pytest.raises(RuntimeError, match=r"tpm2_(activatecredential|import)"):
        chip.opened(base64.b64decode(blob or ""))


def test_other_ways_to_spoil_it_need_no_tpm(chip: Chip) -> None:
    sizes = {}
    for how in ("right", "empty", "truncated", "oversized"):
        sizes[how] = len(base64.b64decode(dps_tpm.blob(chip.parents, KEY, how) or ""))
    assert sizes == {"right": 920, "empty": 0, "truncated": 460, "oversized": 920 + 65536}
    assert dps_tpm.blob(chip.parents, KEY, "missing") is None
    with pytest.raises(KeyError):
        dps_tpm.blob(chip.parents, KEY, "nicely")


# --- the exchange ---


def test_an_enrolled_tpm_comes_by_its_hub_and_the_key_the_hub_knows(
    client: Client, chip: Chip
) -> None:
    service = client.dps
    service.behave(polls=2, retry_after=3, payload={"site": "north"})
    challenge = client.challenge()
    assert (challenge.status, challenge.json["keyName"]) == (401, "registration")
    assert challenge.json["unencryptedAuthenticationKey"] is None
    token = client.token(chip.opened(challenge.blob))
    begun = client.register(token, payload={"serial": "A1"})
    assert (begun.status, begun.json["status"]) == (202, "assigning")
    assert begun.headers["Retry-After"] == "3"
    assert begun.json["operationId"] in begun.headers["Location"]
    assert [client.poll(begun, token).status for _ in range(2)] == [202, 202]
    done = client.poll(begun, token)
    assert (done.status, done.state["status"]) == (200, "assigned")
    assert (done.state["assignedHub"], done.state["deviceId"]) == (HUB, client.id)
    assert done.state["payload"] == {"site": "north"}
    known = service.devices()[client.id]
    assert (known["thumbprint"], known["enabled"]) == (None, True)
    assert chip.opened(done.blob)(b"hello") == softly(base64.b64decode(known["key"]))(b"hello")
    seen = service.requests(client.id)
    assert [line["step"] for line in seen] == ["challenge", "register"] + 3 * ["operation"]
    assert [line["token"] for line in seen] == [False, True, True, True, True]
    assert {line["verdict"] for line in seen[1:]} == {"good"}
    assert seen[1]["payload"] == {"serial": "A1"}
    assert len(service.assigned(client.id)) == 1


def test_the_case_of_a_registration_id_is_nothing(client: Client, chip: Chip) -> None:
    shouting = client.named(client.id.upper())
    assert shouting.registered(chip).state["registrationId"] == client.id


def test_an_enrolment_may_name_device_and_hub(client: Client, chip: Chip) -> None:
    client.dps.enrolment(client.id, device_id="pump-7", hub=OTHER_HUB)
    state = client.registered(chip).state
    assert (state["deviceId"], state["assignedHub"]) == ("pump-7", OTHER_HUB)
    assert "pump-7" in client.dps.devices(OTHER_HUB)


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_keys_that_are_not_enrolled_or_are_none_get_no_challenge(
    client: Client, chip: Chip
) -> None:
    stranger = client.named("nobody")
    assert stranger.challenge().status == 404
    ek, srk = client.parents.ek, client.parents.srk
    wrong: dict[str, dict[str, Any]] = {
        "not the enrolled one": {"endorsementKey": text(dps_tpm.elsewhere(ek))},
        "Endorsement key: no key": {"endorsementKey": None},
        "not base64": {"endorsementKey": "&&&&"},
        "Endorsement key: not a TPM2B_PUBLIC": {"endorsementKey": text(ek[2:])},
        "Endorsement key: attributes": {"endorsementKey": text(ek[:7] + b"\2" + ek[8:])},
        "does not want a policy": {"endorsementKey": text(srk)},
        "an ECC": {"endorsementKey": text(chip.read("ecc-ek.pub"))},
        "Storage root key: not a TPM2B_PUBLIC": {"storageRootKey": text(srk + b"\0")},
        "Storage root key: no key": {"storageRootKey": 7},
        "that wants a policy": {"storageRootKey": text(ek)},
    }
    for why, changed in wrong.items():
        answer = client.challenge(**changed)
        assert answer.status == 400, why
        assert why in answer.json["message"]
    client.dps.enrolment(client.id, ek=dps_tpm.elsewhere(ek))
    assert client.challenge().json["errorCode"] == 400207
    client.dps.forget(client.id)
    assert client.challenge().status == 404


def test_a_request_that_is_none_is_refused(client: Client) -> None:
    assert client.named("ends-with-a-dot.").challenge().status == 400
    assert client.named("x" * 129).challenge().status == 400
    assert client.ask("DELETE", "register").status == 405
    assert client.ask("PUT", "register", {"registrationId": "another"}).status == 400
    client.kind = "text/plain"
    assert client.challenge().status == 415


def test_an_ecc_endorsement_key_will_do_where_the_test_says_so(client: Client, chip: Chip) -> None:
    client.dps.behave(ecc=True)
    client.parents = dps_tpm.Parents(chip.read("ecc-ek.pub"), chip.parents.srk)
    client.dps.enrol_tpm(client.id, client.parents.ek)
    assert chip.opened(client.challenge().blob, ECC_EK)(b"")


def test_a_token_is_looked_at_from_all_sides(client: Client, chip: Chip) -> None:
    forged = client.token(softly(KEY))
    assert client.register(forged).json["message"].endswith("no challenge was given out")
    sign, now = chip.opened(client.challenge().blob), int(time.time())
    good = client.token(sign)
    refused = {
        "wrong signature": forged,
        "expired": client.token(sign, se=now - 1),
        "expires too late": client.token(sign, se=now + 30 * 86400),
        "for another audience": client.token(sign, sr=f"{client.dps.scope}/registrations/other"),
        "another key's name": client.token(sign, skn=None),
        "not a token": good.replace("SharedAccessSignature", "Bearer"),
    }
    for why, token in refused.items():
        answer = client.register(token)
        assert (answer.status, answer.json["errorCode"]) == (401, 401002)
        assert answer.json["message"] == f"Unauthorized: token: {why}"
        assert client.dps.requests()[-1]["verdict"] == why
    assert client.register(good + "&sr=twice").status == 401
    assert client.register(good.replace("&sig=", "&sig=%")).status == 401
    begun = client.register(client.token(sign, sr=client.audience.upper()))
    assert begun.status == 202
    # Each poll needs one, and of no key but the latest.
    assert client.poll(begun, None).status == client.poll(begun, forged).status == 401
    assert client.poll(begun, good).status == 202
    client.challenge()
    assert client.poll(begun, good).json["message"].endswith("wrong signature")


def test_keys_sent_with_a_token_are_those_that_were_challenged(client: Client, chip: Chip) -> None:
    token = client.token(chip.opened(client.challenge().blob))
    assert client.register(token, tpm=client.keys()).status == 202
    srk = base64.b64encode(dps_tpm.elsewhere(client.parents.srk)).decode()
    assert client.register(token, tpm=client.keys(storageRootKey=srk)).status == 400


def key(client: Client) -> str:
    """What the hub knows."""
    found: str = client.dps.devices()[client.id]["key"]
    return found


def test_who_registers_again_has_the_key_of_before_or_another(client: Client, chip: Chip) -> None:
    service = client.dps
    client.registered(chip)
    first = key(client)
    client.registered(chip)
    assert key(client) == first
    rotated = service.rotate(client.id)  # behind the device's back
    assert key(client) == base64.b64encode(rotated).decode() != first
    assert chip.opened(client.registered(chip).blob)(b"x") == softly(rotated)(b"x")
    service.behave(new_keys=True, key_size=64)
    client.registered(chip)
    assert len(base64.b64decode(key(client))) == 64
    with pytest.raises(KeyError):
        service.rotate("nobody")


def test_a_device_moves_to_another_hub(client: Client, chip: Chip) -> None:
    service = client.dps
    client.registered(chip)
    service.at_hub(client.id, enabled=False)
    service.move(client.id, OTHER_HUB, stays=True)
    assert client.id in service.devices(HUB)
    state = client.registered(chip).state
    assert (state["assignedHub"], state["substatus"]) == (OTHER_HUB, "deviceDataMigrated")
    assert client.id not in service.devices(HUB)
    assert not service.devices(OTHER_HUB)[client.id]["enabled"]
    service.move(client.id, HUB)
    assert client.id not in service.devices(OTHER_HUB)
    assert client.registered(chip).state["assignedHub"] == HUB
