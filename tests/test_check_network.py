"""`tpm2cloud check`, as far as a connection to a server: what fails of it, and through whom."""

import socket
import ssl
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Self

import pytest

from agent import config
from agent.check import network
from agent.check.network import Lines
from agent.check.reach import Server
from agent.check.run import Found
from agent.http import Proxy
from agent.state import State
from agent.tpm import Tpm
from tests.lab import pki, process
from tests.lab.checked import bad, found
from tests.lab.hostile import Hostile, Way, certs, http, identity, moved, whole
from tests.lab.proxy import Proxy as ProxyServer

PAGE = b"<!DOCTYPE html><html><body>Welcome to our hotel. Log in.</body></html>"
QUICK = 0.5  # seconds, where a test waits for them


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the machine that runs the tests is none of their business."""
    for name in (
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
        "HTTP_PROXY",
        "http_proxy",
    ):
        monkeypatch.delenv(name, raising=False)


def to(server: Server) -> dict[str, str | None]:
    """What is not fine on the way to it."""
    return bad(found(Lines(server).of(server)))


def at(url: str, tls: pki.Tls, *, web: int | None = None, proxy: Proxy | None = None) -> Server:
    return Server("est", f"{url}/cacerts", tls.trust, lambda: proxy, web=web)


def only(code: str, stage: str) -> dict[str, str | None]:
    """The verdict at this stage, and nothing looked at after it."""
    later = network.STAGES[network.STAGES.index(stage) + 1 :]
    return {f"est-{stage}": code} | {f"est-{each}": None for each in later}


# --- a server that is there ----------------------------------------------------------------------


def test_a_server_has_a_name_takes_connections_and_shows_a_good_certificate(tls: pki.Tls) -> None:
    with Hostile(tls) as server:
        seen = found(Lines(here := at(server.url, tls)).of(here))
    assert bad(seen) == {}
    assert seen["est-dns"].detail == "localhost is 127.0.0.1"
    assert seen["est-tcp"].detail == f"127.0.0.1 takes connections at port {server.port}"
    assert f"by {tls.trust}" in seen["est-tls"].detail
    assert server.requests == [], "nothing is asked"


def test_a_server_that_wants_to_see_a_certificate_is_no_fault_of_its_own(
    tls: pki.Tls, ca: pki.Authority
) -> None:
    with Hostile(tls, clients=ca) as server:
        assert to(at(server.url, tls)) == {}


def test_nor_is_one_that_says_so_in_the_handshake(tls: pki.Tls, ca: pki.Authority) -> None:
    """As it does before TLS 1.3."""
    with Hostile(tls, clients=ca) as server:
        assert server._context is not None
        server._context.maximum_version = ssl.TLSVersion.TLSv1_2
        seen = found(Lines(here := at(server.url, tls)).of(here))
    assert bad(seen) == {}
    assert "it wants a certificate of ours" in seen["est-tls"].detail


def test_several_servers_are_tried_at_once(tls: pki.Tls) -> None:
    """So those that are dead are waited for together."""
    with Hostile(tls, mute=True) as one, Hostile(tls, mute=True) as other:
        servers = [
            Server(name, dead.url, tls.trust, lambda: None, seconds=QUICK)
            for name, dead in (("est", one), ("dps", other))
        ]
        lines = Lines(*servers)
        first = found(lines.of(servers[0]))
        assert (one.connections, other.connections) == (1, 1)
        both = first | found(lines.of(servers[1]))
    assert bad(both) == {"est-tls": "timed-out", "dps-tls": "timed-out"}


# --- one that is not -----------------------------------------------------------------------------


def test_a_name_that_nobody_knows(tls: pki.Tls) -> None:
    assert to(at("https://nobody.invalid", tls)) == only("dns-failed", "dns")


def test_a_port_where_nobody_listens(tls: pki.Tls) -> None:
    nobody = f"https://localhost:{process.free_port()}"
    assert to(at(nobody, tls)) == only("unreachable", "tcp")


def test_one_that_hangs_up_in_the_handshake(tls: pki.Tls) -> None:
    def hang_up() -> None:
        line, _ = listener.accept()
        with line:
            line.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=hang_up)
        thread.start()
        try:
            url = f"https://localhost:{listener.getsockname()[1]}"
            assert to(at(url, tls)) == only("unreachable", "tls")
        finally:
            thread.join()


def test_one_that_speaks_an_old_tls_only(tls: pki.Tls) -> None:
    with Hostile(tls, tls_1_1=True) as server:
        assert to(at(server.url, tls)) == only("tls-failed", "tls")


# --- one that cannot be trusted ------------------------------------------------------------------


@pytest.fixture
def stranger(tmp_path: Path) -> pki.Tls:
    """What is between here and the server has a certificate, too."""
    return pki.authority("Hotel").server(tmp_path / "hotel")


def test_a_certificate_of_another_ca(tls: pki.Tls, stranger: pki.Tls) -> None:
    with Hostile(stranger) as server:
        assert to(at(server.url, tls)) == only("tls-untrusted", "tls")


def test_a_certificate_for_another_name(tls: pki.Tls, ca: pki.Authority, tmp_path: Path) -> None:
    with Hostile(identity(ca, tmp_path / "tls", name="other.example")) as server:
        assert to(at(server.url, tls)) == only("tls-name", "tls")


@pytest.mark.parametrize(("starts", "lasts"), [(-9, 1), (1, 9)])
def test_a_certificate_out_of_date(
    tls: pki.Tls, ca: pki.Authority, tmp_path: Path, starts: int, lasts: int
) -> None:
    begin, last = timedelta(days=starts), timedelta(days=lasts)
    with Hostile(identity(ca, tmp_path / "tls", starts=begin, lasts=last)) as server:
        assert to(at(server.url, tls)) == only("tls-dates", "tls")


# --- somebody else -------------------------------------------------------------------------------


PORTALS: dict[str, Way] = {
    "a page": whole(http(200, PAGE)),
    "a page with pictures": whole(http(200, PAGE + bytes(200_000))),
    "to a login page": whole(moved("https://login.hotel.example/?you=here", 302)),
    "wants a login": whole(http(511, b"Log in.")),
}
SERVERS: dict[str, Way] = {
    "an EST server": whole(certs(pki.root("Some CA").root)),
    "no such page": whole(http(404, PAGE)),
    "moved on the same host": whole(moved("/elsewhere")),
    "moved to no address": whole(moved("https://[::1")),
    "garbage": whole(b"\0" * 100 + b"\r\n\r\n"),
}


@pytest.mark.parametrize("way", PORTALS.values(), ids=PORTALS)
def test_a_captive_portal_that_speaks_tls_is_called_by_its_name(
    tls: pki.Tls, stranger: pki.Tls, way: Way
) -> None:
    """Not the server's certificate is wrong, and not the trust anchor."""
    with Hostile(stranger, {"cacerts": way}) as portal:
        seen = found(Lines(here := at(portal.url, tls)).of(here))
    assert bad(seen) == only("captive-portal", "tls")
    assert "Hotel" in seen["est-tls"].detail, "and it is told whom we met"


@pytest.mark.parametrize("way", SERVERS.values(), ids=SERVERS)
def test_a_wrong_server_is_no_captive_portal(tls: pki.Tls, stranger: pki.Tls, way: Way) -> None:
    with Hostile(stranger, {"cacerts": way}) as server:
        assert to(at(server.url, tls)) == only("tls-untrusted", "tls")


def test_nothing_is_told_to_a_stranger(tls: pki.Tls, stranger: pki.Tls) -> None:
    with Hostile(stranger, {"cacerts": PORTALS["a page"]}) as portal:
        to(at(portal.url, tls))
    (asked,) = portal.requests
    assert (asked.method, asked.body) == ("GET", b"")
    assert set(asked.headers) == {"host", "user-agent", "connection", "accept-encoding"}


def test_a_captive_portal_that_speaks_no_tls(tls: pki.Tls) -> None:
    with Plain(http(200, PAGE)) as portal:
        assert to(at(f"https://localhost:{portal.port}", tls)) == only("captive-portal", "tls")


def test_one_that_lets_no_tls_through_is_met_at_the_port_for_http(tls: pki.Tls) -> None:
    closed = f"https://localhost:{process.free_port()}"
    with Plain(moved("http://login.hotel.example/", 302)) as portal:
        assert to(at(closed, tls, web=portal.port)) == only("captive-portal", "tcp")
    with Plain(moved("https://localhost/", 301)) as server:
        assert to(at(closed, tls, web=server.port)) == only("unreachable", "tcp")


def test_a_server_that_speaks_no_tls_is_just_that(tls: pki.Tls) -> None:
    with Hostile(tls, plain=True) as server:
        assert to(at(server.url, tls)) == only("tls-failed", "tls")


class Plain:
    """Says one thing to whoever comes, after the first bytes; no TLS."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):  # the listener is shut down
            while True:
                line, _ = self._listener.accept()
                with line, suppress(OSError):  # the client was faster
                    line.recv(1 << 12)
                    line.sendall(self._reply)


# --- a proxy -------------------------------------------------------------------------------------


def of(proxy: config.Proxy | None, url: str = "https://dps.example") -> config.Config:
    return config.Config(
        dps=config.Dps(id_scope="0ne", endpoint=url, attestation="tpm"), proxy=proxy
    )


def proxied(conf: config.Config, tpm: Tpm) -> dict[str, Found]:
    return found(network.probes(conf, tpm, State(Path("/nowhere")), lambda: "device"))


def test_without_a_proxy_there_is_none_to_be_reached(tpm: Tpm) -> None:
    assert proxied(of(None), tpm)["proxy"].detail == "none is set"


def test_a_proxy_must_take_connections(tpm: Tpm) -> None:
    with ProxyServer() as proxy:
        conf = of(config.Proxy(url=proxy.url))
        assert bad(proxied(conf, tpm)) == {}
    assert bad(proxied(conf, tpm)) == {"proxy": "proxy-unreachable"}
    nobody = of(config.Proxy(url="http://proxy.invalid:3128"))
    assert bad(proxied(nobody, tpm)) == {"proxy": "proxy-unreachable"}


def test_that_of_the_environment_too(tpm: Tpm, monkeypatch: pytest.MonkeyPatch) -> None:
    with ProxyServer() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert proxy.url in proxied(of(None), tpm)["proxy"].detail
    assert bad(proxied(of(None), tpm)) == {"proxy": "proxy-unreachable"}
    monkeypatch.setenv("HTTPS_PROXY", "socks4://proxy.example")
    assert bad(proxied(of(None), tpm)) == {"proxy": "proxy-unusable"}


def test_a_server_is_reached_through_the_proxy_which_knows_its_name(tls: pki.Tls) -> None:
    name = "localhost"
    with Hostile(tls) as server, ProxyServer({f"{name}:443": ("127.0.0.1", server.port)}) as proxy:
        there = at(f"https://{name}", tls, proxy=Proxy(proxy.url))
        seen = found(Lines(there).of(there))
    assert bad(seen) == {}
    assert seen["est-dns"].detail.startswith("left to the proxy")


def test_the_proxy_of_the_environment_gets_the_login_in_its_url(
    tls: pki.Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hostile(tls) as server, ProxyServer(username="me", password="p@ss") as proxy:  # noqa: S106
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//me:p%40ss@"))
        found_one = network.through(of(None), server.url)
        assert to(at(server.url, tls, proxy=found_one)) == {}
        assert to(at(server.url, tls, proxy=Proxy(proxy.url))) == only("proxy-login", "tcp")
        proxy.behave(status=403)
        assert to(at(server.url, tls, proxy=found_one)) == only("proxy-refused", "tcp")


def test_a_portal_behind_a_proxy_is_met_through_it(tls: pki.Tls, stranger: pki.Tls) -> None:
    with Hostile(stranger, {"cacerts": PORTALS["a page"]}) as portal, ProxyServer() as proxy:
        seen = to(at(portal.url, tls, proxy=Proxy(proxy.url)))
    assert seen == only("captive-portal", "tls")
    assert all(asked.target == f"localhost:{portal.port}" for asked in proxy.asked)
