"""A device registers at the provisioning service, by its certificate or by its TPM."""

import base64
import hmac
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent import config
from agent.dps import LEAST, PATIENCE, USUAL, pace
from agent.errors import DpsAssigning, DpsUnauthorized, ServerBusy, TlsUntrusted
from agent.http import Proxy
from agent.state import State
from agent.steps import dps as dps_step
from agent.steps import enrol, srk
from agent.steps.ldevid_key import HANDLE
from agent.tpm import Tpm
from tests.lab import pki, provisioning, registrant, snapshot
from tests.lab import proxy as lab_proxy
from tests.lab.provisioning import HUB
from tests.lab.registrant import Registrant, certified, soldered


@pytest.fixture(scope="module")
def devices() -> pki.Authority:
    return pki.root("Devices root").below("Devices")


@pytest.fixture(scope="module")
def service(
    tls: pki.Tls, devices: pki.Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[provisioning.Dps]:
    with registrant.service(tmp_path_factory.mktemp("service"), tls, devices) as dps:
        yield dps


@pytest.fixture
def one(
    service: provisioning.Dps,
    tls: pki.Tls,
    devices: pki.Authority,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Registrant:
    """A device with a certificate."""
    service.behave()
    name = _name(request)
    return Registrant(service, tls.trust, name, identify=certified(devices, name, tmp_path))


@pytest.fixture
def chip(
    service: provisioning.Dps, tls: pki.Tls, tpm: Tpm, request: pytest.FixtureRequest
) -> Registrant:
    """A device with a TPM, whose EK is enrolled."""
    service.behave()
    ours = Registrant(service, tls.trust, _name(request), soldered(tpm))
    service.enrol_tpm(ours.name, ours.ek)
    return ours


def _name(request: pytest.FixtureRequest) -> str:
    return "".join(c if c.isalnum() else "-" for c in request.node.name)[-60:].strip("-")


# --- by certificate ---


def test_a_certificate_gets_a_hub_and_the_whole_chain_is_shown(one: Registrant) -> None:
    found = one.register()
    assert (found.hub, found.device_id, found.substatus) == (HUB, one.name, "initialAssignment")
    assert (found.key, found.payload) == (None, None)
    assert one.steps == ["register", "operation", "operation"]
    assert one.asked[0]["chain"] == [f"CN={one.name}", "CN=Devices"]


def test_a_key_in_the_tpm_shows_the_certificate(
    service: provisioning.Dps, tls: pki.Tls, devices: pki.Authority, tpm: Tpm
) -> None:
    service.behave()
    parent = srk.HANDLE
    with soldered(tpm).load(parent, *tpm.create_key(parent, "ecc256")) as made:
        tpm.persist(made, HANDLE)
        assert made.public.key is not None
        leaf = devices.issue(made.public.key, "in-the-tpm")
    with enrol.by_key(tpm.signer(HANDLE), [leaf, *devices.chain[:-1]]) as client:
        one = Registrant(service, tls.trust, "in-the-tpm", identify=client["identify"])
        assert one.register().device_id == "in-the-tpm"
    assert one.asked[0]["chain"] == ["CN=in-the-tpm", "CN=Devices"]


def test_a_payload_goes_there_and_another_comes_back(
    one: Registrant, service: provisioning.Dps
) -> None:
    service.behave(payload={"plant": ["Kiel", 7]})
    assert one.register(payload={"rack": None}).payload == {"plant": ["Kiel", 7]}
    assert one.asked[0]["payload"] == {"rack": None}


@pytest.mark.parametrize("version", ["2019-03-31", "2021-10-01"])
def test_the_version_of_the_interface_is_a_setting(one: Registrant, version: str) -> None:
    one.register(api_version=version)
    assert all(f"api-version={version}" in request["url"] for request in one.asked)


def test_all_of_it_goes_through_a_proxy_where_there_is_no_other_way(chip: Registrant) -> None:
    with lab_proxy.Proxy({}, username="device", password="s3cret") as proxy:  # noqa: S106
        there = replace(chip, proxy=Proxy(proxy.url, "device", "s3cret"))
        assert there.register().hub == HUB
        assert {asked.user for asked in proxy.asked} == {"device"}


def test_it_is_looked_for_with_the_trust_anchors_of_the_system_as_iot_edge_will_ask_it(
    service: provisioning.Dps, tls: pki.Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.behave()
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(pki.pem(pki.root("Stranger").root))
    conf = config.Config(dps=config.Dps(id_scope="0ne00", endpoint=service.url))
    state = State(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.trust))
    dps_step.there(conf, state, "pump-7")
    monkeypatch.setenv("SSL_CERT_FILE", str(stranger))
    with pytest.raises(TlsUntrusted):
        dps_step.there(conf, state, "pump-7")


# --- polling ---


@pytest.mark.parametrize(
    ("told", "rest"), [(0, LEAST), (1, LEAST), (7, 7.0), (None, USUAL), ("soon", USUAL)]
)
def test_polls_are_as_far_apart_as_dps_says_and_never_nearer_than_it_allows(
    one: Registrant, service: provisioning.Dps, told: int | str | None, rest: float
) -> None:
    service.behave(retry_after=told, polls=2)
    one.register()
    assert one.rests == [rest] * 3


def test_no_polls_are_more_than_5_in_10_seconds() -> None:
    assert 5 * pace(0) > 10
    assert pace(10**9) == PATIENCE


def test_who_gets_no_hub_for_minutes_is_told_to_try_later(
    one: Registrant, service: provisioning.Dps
) -> None:
    service.behave(polls=-1, retry_after=40)
    with pytest.raises(DpsAssigning, match="for 300 seconds"):
        one.register()
    assert sum(one.rests) <= PATIENCE


def test_trouble_while_it_is_polled_ends_nothing(
    one: Registrant, service: provisioning.Dps
) -> None:
    service.behave(odd={"operation": "503"}, odd_times=2, polls=0)
    assert one.register().hub == HUB
    assert one.steps == ["register", *["operation"] * 3]


def test_a_connection_that_breaks_while_it_is_polled_ends_nothing(
    one: Registrant, service: provisioning.Dps
) -> None:
    service.behave(odd={"operation": "cut"}, odd_times=1, polls=0)
    assert one.register().hub == HUB


def test_a_service_that_forgot_the_registration_is_asked_another_time(
    one: Registrant, service: provisioning.Dps
) -> None:
    service.behave(forgets=True)
    with pytest.raises(ServerBusy, match="forgotten"):
        one.register()
    assert len(one.rests) == 1


# --- by TPM ---


def test_a_tpm_opens_the_challenge_and_gets_the_key_of_its_hub(
    chip: Registrant, service: provisioning.Dps, tcti: str
) -> None:
    before = snapshot.take(tcti)
    found = chip.register()
    assert (found.hub, found.device_id) == (HUB, chip.name)
    assert found.key is not None
    known = base64.b64decode(str(service.devices()[chip.name]["key"]))
    assert chip.sign(found.key, b"a message") == hmac.digest(known, b"a message", "sha256")
    assert snapshot.take(tcti) == before  # nothing is left in the TPM


def test_the_first_request_shows_the_keys_and_all_others_a_token(chip: Registrant) -> None:
    chip.register()
    shown = [(request["step"], request["token"]) for request in chip.asked]
    login = [("register", True), ("operation", True), ("operation", True)]
    assert shown == [("challenge", False), *login]


def test_the_token_names_the_key_as_the_challenge_does(
    chip: Registrant, service: provisioning.Dps
) -> None:
    service.behave(key_name="another")
    assert chip.register().hub == HUB


def test_a_challenge_that_is_out_of_date_is_asked_for_anew_three_times_with_growing_pauses(
    chip: Registrant, service: provisioning.Dps
) -> None:
    service.behave(supersede=3, polls=0)
    assert chip.register().hub == HUB
    assert chip.steps == ["challenge", "register"] * 4 + ["operation"]
    assert chip.rests == [LEAST, 2 * LEAST, 4 * LEAST, LEAST]


def test_not_for_ever(chip: Registrant, service: provisioning.Dps) -> None:
    service.behave(supersede=100)
    with pytest.raises(DpsUnauthorized):
        chip.register()
    assert chip.steps == ["challenge", "register"] * 4


def test_what_is_signed_never_shows_in_what_is_raised(
    chip: Registrant, service: provisioning.Dps
) -> None:
    service.behave(supersede=100)
    with pytest.raises(DpsUnauthorized) as caught:
        chip.register()
    assert "sig=" not in f"{caught.value!r} {caught.value.fields}"
