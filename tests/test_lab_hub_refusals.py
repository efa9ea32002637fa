"""The lab's hub refuses whoever it does not know, and whatever a device may not do; the client says
each of it in raw MQTT."""

import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests.lab import pki
from tests.lab.clock import Clock
from tests.lab.hub import PORT, Hub
from tests.lab.hub_client import EVENTS, ID, KEY, Raw, packet, register, text, token


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def running(
    ca: pki.Authority, clock: Clock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hub]:
    at = tmp_path_factory.mktemp("hub")
    with Hub(at / "hub", ca, at / "hubs.json", clock=clock).running() as hub:
        yield hub


@pytest.fixture
def hub(running: Hub) -> Hub:
    """It behaves well, and knows one device, by its key; the log begins anew."""
    running.behave()
    running.forget()
    register(running, key=KEY)
    return running


Login = Callable[[Hub], dict[str, Any]]
Refusal = tuple[int, str, Login]
REFUSALS: dict[str, Refusal] = {
    "another key": (5, "another signature", lambda h: {"password": token(h, key=b"x" * 32)}),
    "another hub": (5, "audience", lambda h: {"password": token(h, resource=f"x/devices/{ID}")}),
    "another device": (
        5, "audience", lambda h: {"password": token(h, resource=f"{h.host}/devices/other")}
    ),
    "expired": (5, "expired", lambda h: {"password": token(h, lasts=-1)}),
    "a policy's key": (4, "token of", lambda h: {"password": token(h, more="&skn=owner")}),
    "no token": (4, "no token", lambda _: {"password": "hunter2"}),
    "nothing": (5, "neither", lambda _: {"password": None}),
    "another level": (1, "level 5", lambda h: {"password": token(h), "level": 5}),
    "another client id": (
        5, "client id 'other'", lambda h: {"password": token(h), "client_id": "other"}
    ),
    "another user": (4, "user name", lambda h: {"password": token(h), "user": f"{h.host}/{ID}/"}),
    "another host": (
        5, "for the hub",
        lambda h: {"password": token(h), "user": f"x/{ID}/?api-version=2021-04-12"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSALS)
def test_a_login_with_something_wrong_is_refused_and_the_log_says_what(hub: Hub, what: str) -> None:
    code, reason, login = REFUSALS[what]
    with Raw(hub, **login(hub)) as client:
        assert client.code == code
        assert client.ended_with() == b""
    [refused] = hub.connections()
    assert not refused["accepted"]
    assert reason in refused["reason"]


def test_who_is_registered_is_looked_up_at_every_connection(hub: Hub) -> None:
    cases: list[tuple[str, str, dict[str, Any]]] = [
        ("accepted", ID, {"key": KEY}),
        ("another signature", ID, {"key": b"new" * 10}),
        ("no key", ID, {"thumbprint": "0" * 64}),
        ("disabled", ID, {"key": KEY, "enabled": False}),
        ("unknown", "other", {"key": KEY}),
    ]
    for reason, device, more in cases:
        register(hub, device, **more)
        with Raw(hub, token(hub)) as client:
            assert client.code == (0 if reason == "accepted" else 5)
        assert reason in hub.connections()[-1]["reason"]


def test_a_second_connection_of_a_device_ends_the_first(hub: Hub) -> None:
    with Raw(hub, token(hub)) as first, Raw(hub, token(hub)) as second:
        assert first.ended_with() == b""
        assert second.publish(EVENTS) == bytes([0x40, 2, 0, 7])
    hub.wait(lambda: len(hub.closed()) == 2)
    assert hub.closed()[0]["why"] == "another connection of the same device"


def test_a_connection_ends_with_its_token(hub: Hub, clock: Clock) -> None:
    with Raw(hub, token(hub, lasts=200)) as client:
        assert client.publish(EVENTS) == bytes([0x40, 2, 0, 7])
        clock.jump(timedelta(seconds=220))
        try:
            assert client.ended_with() == b""
        finally:
            clock.jump(timedelta(seconds=-220))
    hub.wait(lambda: [c["why"] for c in hub.closed()] == ["token expired"])


def test_only_the_topic_of_its_own_events_is_a_devices(hub: Hub) -> None:
    for topic, qos in [("devices/other/messages/events/", 1), ("weather", 0), (EVENTS, 2)]:
        with Raw(hub, token(hub)) as client:
            assert client.publish(topic, qos) == b""
    assert hub.messages() == []


def test_a_hub_may_not_acknowledge(hub: Hub) -> None:
    hub.behave(silent=True)
    with Raw(hub, token(hub)) as client:
        client.line.sendall(packet(0x32, text(EVENTS) + b"\0\7hello"))
        client.line.sendall(packet(0xC0, b""))
        assert client.line.recv(100) == bytes([0xD0, 0])  # alive it is
    assert [m["text"] for m in hub.messages()] == ["hello"]


def test_what_is_no_mqtt_ends_the_connection(hub: Hub) -> None:
    for junk in (
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20,
        packet(0x82, b""),
        packet(0x10, b"\0\4MQTX\4"),
    ):
        context = ssl.create_default_context(cafile=str(hub.tls.trust))
        with (
            socket.create_connection((hub.host, PORT), 10) as plain,
            context.wrap_socket(plain, server_hostname=hub.host) as line,
        ):
            line.sendall(junk)
            assert line.recv(10) == b""
    assert [each["event"] for each in hub.log()] == ["stranger"] * 3
