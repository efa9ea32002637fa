"""The lab's IoT Hub lets in who is registered, for as long as that is so, and tells what it saw;
Azure's own client is content with it."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import X509, IoTHubDeviceClient, Message, ProxyOptions
from azure.iot.device.exceptions import ClientError, ConnectionFailedError, CredentialError
from cryptography import x509

from tests.lab import pki
from tests.lab.hub import Hub
from tests.lab.hub_client import ID, KEY, register, token
from tests.lab.proxy import Proxy

pytestmark = [
    # Azure's client asks for TLS 1.2 and nothing else, and leaves sockets to the collector.
    pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLSv1_2 is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed <(ssl.SSL|socket.)[sS]ocket:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def azures_ways(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """It writes to the log what it raises as well; and what it leaves is collected here, not in a
    test of others, who could not know whose sockets they are."""
    caplog.set_level(logging.CRITICAL, "azure.iot.device")
    yield
    gc.collect()


# --- a hub, who is registered there, and their credentials ---


@pytest.fixture(scope="module")
def owner() -> pki.Authority:
    return pki.authority("Owner")


@pytest.fixture(scope="module")
def running(
    ca: pki.Authority, owner: pki.Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hub]:
    at = tmp_path_factory.mktemp("hub")
    enrolled = [owner.save(at / "owner").root]
    hub = Hub(at / "hub", ca, at / "hubs.json", enrolled=enrolled)
    with hub.running():
        yield hub


@pytest.fixture
def hub(running: Hub) -> Iterator[Hub]:
    """It behaves well, and knows one device, by its key; the log begins anew."""
    running.behave()
    running.forget()
    register(running, key=KEY)
    yield running
    running.behave()


# --- Azure's client ---


@contextmanager
def azure(hub: Hub, password: str | None = None, **more: Any) -> Iterator[IoTHubDeviceClient]:
    options: dict[str, Any] = {"connection_retry": False, "keep_alive": 30}
    options |= {"server_verification_cert": hub.tls.trust.read_text()}
    made = IoTHubDeviceClient.create_from_sastoken(password or token(hub), **(options | more))
    try:
        yield made
    finally:
        made.shutdown()


def message(text: str, number: int) -> Message:
    made: Message = Message(text)  # type: ignore[no-untyped-call]
    made.message_id = str(number)
    return made


def test_azures_client_comes_in_by_a_token_and_its_message_is_stored(hub: Hub) -> None:
    password = token(hub)
    with azure(hub, password) as client:
        client.connect()
        hello = message("Grüße", 1)
        hello.content_type, hello.content_encoding = "text/plain", "utf-8"
        hello.custom_properties["the room"] = "a&b=c"
        client.send_message(hello)
    [connection], [stored] = hub.connections(), hub.messages()
    assert connection["accepted"]
    assert connection["device"] == ID
    assert (connection["by"], connection["transport"]) == ("token", "mqtt")
    assert connection["tls"] == "TLSv1.2"
    assert f"se={connection['expires']}" in password
    assert (stored["text"], stored["mid"], stored["qos"]) == ("Grüße", "1", 1)
    system = {"$.mid": "1", "$.ct": "text/plain", "$.ce": "utf-8"}
    assert stored["properties"] == system | {"the room": "a&b=c"}
    hub.wait(lambda: [c["why"] for c in hub.closed()] == ["disconnected by the client"])


def test_azures_client_is_told_that_its_key_is_the_wrong_one(hub: Hub) -> None:
    with azure(hub, token(hub, key=b"x" * 32)) as client, pytest.raises(CredentialError):
        client.connect()
    [refused] = hub.connections()
    assert (refused["accepted"], refused["code"]) == (False, 5)
    assert refused["reason"] == "token with another signature"
    assert hub.closed() == []


def test_a_message_whose_acknowledgement_was_lost_comes_a_second_time(hub: Hub) -> None:
    hub.behave(drop_at=[2])
    with azure(hub, connection_retry=True, connection_retry_interval=1) as client:
        for number in (1, 2, 3):
            client.send_message(message(f"text {number}", number))
    stored = [(m["mid"], m["again"]) for m in hub.messages()]
    assert stored == [("1", False), ("2", False), ("2", True), ("3", False)]
    assert [c["accepted"] for c in hub.connections()] == [True, True]
    assert hub.closed()[0]["why"] == "dropped, as told"


def test_a_message_that_was_lost_comes_once(hub: Hub) -> None:
    hub.behave(drop_at=[1], stored=False)
    with azure(hub, connection_retry=True, connection_retry_interval=1) as client:
        client.send_message(message("text", 1))
    assert [(m["mid"], m["again"]) for m in hub.messages()] == [("1", True)]


def test_a_hub_that_is_out_of_order_is_no_matter_of_credentials(hub: Hub) -> None:
    for behaviour in ({"refuse": 3}, {"close": True}):
        hub.behave(**behaviour)
        with azure(hub) as client, pytest.raises((ConnectionFailedError, ClientError)) as caught:
            client.connect()
        assert not isinstance(caught.value, CredentialError)
    assert [c["code"] for c in hub.connections()] == [3]


# --- WebSockets, and the proxy before them ---


def through(proxy: Proxy) -> dict[str, Any]:
    options: Any = ProxyOptions
    login = proxy.username or "", proxy.password
    return {
        "websockets": True,
        "proxy_options": options("HTTP", "127.0.0.1", proxy.port, *login),
    }


def test_in_websockets_on_port_443_a_proxy_is_the_way(hub: Hub) -> None:
    long = "x" * 70_000  # frames have three ways to tell their length
    with Proxy(hub.routes, username="me", password="hunter2") as proxy:  # noqa: S106
        with azure(hub, **through(proxy)) as client:
            for number, text in enumerate(["one", "x" * 200, long]):
                client.send_message(message(text, number))
        assert proxy.asked[0].line == f"CONNECT {hub.host}:443 HTTP/1.1"
        assert [(a.user, a.status) for a in proxy.asked] == [("me", 200)]
        assert "hunter2" not in repr(proxy.asked)
    assert [m["text"] for m in hub.messages()] == ["one", "x" * 200, long]
    assert [c["transport"] for c in hub.connections()] == ["websockets"]


# --- certificates ---


def certified(
    directory: Path, ca: pki.Authority, cn: str = ID, **more: Any
) -> tuple[X509, x509.Certificate]:
    key = pki.new_key()
    certificate = ca.issue(key.public_key(), cn, **more)
    directory.mkdir(exist_ok=True)
    files = directory / "chain.pem", directory / "key.pem"
    files[0].write_bytes(pki.pem(certificate, *ca.chain[:-1]))
    pki.write_private(files[1], pki.private_pem(key))
    kind: Any = X509
    return kind(str(files[0]), str(files[1])), certificate


def by_certificate(hub: Hub, credential: X509) -> dict[str, Any]:
    """How a connection by it went, as the hub tells."""
    client = IoTHubDeviceClient.create_from_x509_certificate(
        credential,
        hub.host,
        ID,
        server_verification_cert=hub.tls.trust.read_text(),
        connection_retry=False,
    )
    try:
        client.connect()
    except CredentialError:
        assert not hub.connections()[-1]["accepted"]
    finally:
        client.shutdown()
    return hub.connections()[-1]


def test_a_certificate_opens_if_it_is_the_registered_one(
    hub: Hub, owner: pki.Authority, tmp_path: Path
) -> None:
    right, certificate = certified(tmp_path / "right", owner)
    wrong, _ = certified(tmp_path / "wrong", owner)
    register(hub, thumbprint=pki.fingerprint(certificate))
    accepted = by_certificate(hub, right)
    assert (accepted["accepted"], accepted["by"]) == (True, "certificate")
    assert accepted["chain"] == [f"CN={ID}", "CN=Owner"]
    assert "another thumbprint" in by_certificate(hub, wrong)["reason"]
    register(hub, key=KEY)
    assert "no thumbprint" in by_certificate(hub, right)["reason"]
    register(hub, thumbprint=pki.fingerprint(certificate), enabled=False)
    assert by_certificate(hub, right)["reason"] == "disabled device"


def test_a_certificate_of_an_unknown_ca_or_another_year_does_not_open(
    hub: Hub, owner: pki.Authority, tmp_path: Path
) -> None:
    foreign, certificate = certified(tmp_path / "foreign", pki.authority("Stranger"))
    register(hub, thumbprint=pki.fingerprint(certificate))
    assert "chain to an enrolled CA" in by_certificate(hub, foreign)["reason"]
    day = timedelta(days=1)
    old, certificate = certified(tmp_path / "old", owner, starts=-3 * day, lasts=day)
    register(hub, thumbprint=pki.fingerprint(certificate))
    assert by_certificate(hub, old)["reason"] == "certificate that is out of date"
