"""The way to the IoT hub: by port 443, through proxies, and to who is no hub at its end."""

import secrets
from collections.abc import Iterator

import pytest

from agent.errors import (
    HubGarbled,
    ProxyLogin,
    ProxyRefused,
    ProxyUnusable,
    TimedOut,
)
from agent.http import Proxy as Configured
from agent.hub import Route
from tests.lab import pki
from tests.lab.hostile import Hostile, Way, drip, hang, http, whole
from tests.lab.hub import Hub as LabHub
from tests.lab.hub_device import Open, healthy, last, opening
from tests.lab.proxy import Proxy


@pytest.fixture(scope="module")
def running(ca: pki.Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabHub]:
    at = tmp_path_factory.mktemp("hub")
    with LabHub(at / "hub", ca, at / "hubs.json").running() as hub:
        yield hub


@pytest.fixture
def lab(running: LabHub) -> LabHub:
    return healthy(running)


@pytest.fixture
def ours(lab: LabHub) -> Iterator[Open]:
    """`ours()`: this device's side, not connected yet."""
    with opening(lab) as make:
        yield make


def test_websockets_through_a_proxy_that_wants_a_login(lab: LabHub, ours: Open) -> None:
    password = f"p@ss:{secrets.token_urlsafe(9)}"
    with Proxy(lab.routes, username="device", password=password) as proxy:
        through = Configured(proxy.url, "device", password)
        hub = ours(route=Route(lab.tls.trust, websockets=True, proxy=through))
        hub.connect()
        hub.send(b"{}", "one")
        assert last(lab)["transport"] == "websockets"
        hub.close()
        wrong = Configured(proxy.url, "device", "wrong")
        with pytest.raises(ProxyLogin, match="407") as refused:
            ours(route=Route(lab.tls.trust, websockets=True, proxy=wrong)).connect()
        assert "wrong" not in str(refused.value)
        proxy.behave(status=502)
        with pytest.raises(ProxyRefused, match="502"):
            ours(route=Route(lab.tls.trust, websockets=True, proxy=through)).connect()


def test_websockets_go_by_the_proxy_of_the_environment_and_mqtt_does_not(
    lab: LabHub, ours: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(lab.routes, username="device", password="p@ss") as proxy:  # noqa: S106
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//device:p%40ss@"))
        hub = ours(route=Route(lab.tls.trust, websockets=True))
        hub.connect()
        hub.close()
        assert [a.target for a in proxy.asked] == [f"{lab.host}:443"]
        ours().connect()
        assert len(proxy.asked) == 1


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:31x28", "http://127.0.0.1:99999", "socks5://a:1", "https://a:1"]
)
def test_what_is_no_http_proxy_is_a_matter_of_configuration_and_not_of_the_clock(
    lab: LabHub, ours: Open, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(ProxyUnusable, match=r"HTTPS_PROXY is not http://HOST:PORT$"):
        ours(route=Route(lab.tls.trust, websockets=True)).connect()


def test_a_proxy_without_a_scheme_is_an_http_proxy(
    lab: LabHub, ours: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(lab.routes) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.removeprefix("http://"))
        monkeypatch.setenv("NO_PROXY", "")
        ours(route=Route(lab.tls.trust, websockets=True)).connect()
        assert len(proxy.asked) == 1


def test_mqtt_goes_through_the_proxy_of_the_configuration_too(lab: LabHub, ours: Open) -> None:
    with Proxy() as proxy:
        hub = ours(route=Route(lab.tls.trust, proxy=Configured(proxy.url)))
        hub.connect()
        hub.close()
        assert [a.target for a in proxy.asked] == [f"{lab.host}:8883"]


@pytest.mark.parametrize("way", [hang, drip(http(200, b"x" * 5000), 0.05)], ids=["hang", "drip"])
def test_a_login_that_is_never_answered_comes_to_an_end(lab: LabHub, ours: Open, way: Way) -> None:
    with (
        Hostile(lab.tls, {"websocket": way}) as server,
        Proxy({f"{lab.host}:443": ("127.0.0.1", server.port)}) as proxy,
    ):
        route = Route(lab.tls.trust, websockets=True, proxy=Configured(proxy.url))
        with pytest.raises(TimedOut, match="cannot log in"):
            ours(route=route, login=0.5).connect()


def test_tls_that_is_never_answered_comes_to_an_end(lab: LabHub, ours: Open) -> None:
    with (
        Hostile(lab.tls, mute=True) as server,
        Proxy({f"{lab.host}:8883": ("127.0.0.1", server.port)}) as proxy,
    ):
        route = Route(lab.tls.trust, proxy=Configured(proxy.url))
        with pytest.raises(TimedOut, match="cannot log in"):
            ours(route=route, login=0.5).connect()


def test_a_web_server_in_its_place_is_no_hub(lab: LabHub, ours: Open) -> None:
    """As a captive portal would be whose CA we trusted."""
    page = whole(http(200, b"<html>Welcome</html>"))
    with (
        Hostile(lab.tls, {"websocket": page}) as server,
        Proxy({f"{lab.host}:443": ("127.0.0.1", server.port)}) as proxy,
    ):
        route = Route(lab.tls.trust, websockets=True, proxy=Configured(proxy.url))
        with pytest.raises(HubGarbled, match="handshake"):
            ours(route=route).connect()
