"""HTTPS through a proxy that the environment names, or the configuration."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent import config, fetch, inputs
from agent.errors import (
    AgentError,
    ProxyLogin,
    ProxyRefused,
    ProxyUnusable,
    SecretUnreadable,
    TimedOut,
    TlsUntrusted,
    Unreachable,
)
from agent.http import Https, Proxy
from tests.lab import pki
from tests.lab import proxy as lab
from tests.lab.hostile import (
    Hostile,
    http,
    whole,
)

FINE = whole(http(200, b"fine"))


def get(tls: pki.Tls) -> bytes:
    with Hostile(tls, {"it": FINE}) as server, Https(tls.trust) as client:
        return client.request("GET", f"{server.url}/it").body


@contextmanager
def proxy(answer: bytes, onward: int) -> Iterator[tuple[int, list[bytes]]]:
    """One CONNECT, answered; what it asked for, and the tunnel's bytes, to and fro."""
    asked: list[bytes] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # one end was faster
            while data := source.recv(1 << 14):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        line, _ = listener.accept()
        with line, socket.create_connection(("127.0.0.1", onward)) as out:
            asked.append(line.recv(1 << 14))
            line.sendall(answer)
            if b" 200 " in answer:
                back = threading.Thread(target=pump, args=(out, line))
                back.start()
                pump(line, out)
                back.join()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], asked
        thread.join()


def test_a_proxy_of_the_environment_sees_the_name_and_no_more(
    tls: pki.Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hostile(tls, {"it": FINE}) as server, proxy(b"HTTP/1.1 200 OK\r\n\r\n", server.port) as p:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{p[0]}")
        monkeypatch.setenv("NO_PROXY", "elsewhere.example")
        monkeypatch.delenv("no_proxy", raising=False)
        with Https(tls.trust) as https:
            assert https.request("GET", f"https://localhost:{server.port}/it").body == b"fine"
    assert p[1][0].startswith(b"CONNECT localhost:")
    assert server.connections == 1


def test_a_server_behind_a_proxy_is_checked_no_less(
    tls: pki.Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = pki.authority("Stranger").server(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other.trust))
    with Hostile(other) as server, proxy(b"HTTP/1.1 200 OK\r\n\r\n", server.port) as (port, _):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("NO_PROXY", "")
        with Https(tls.trust) as https, pytest.raises(TlsUntrusted):
            https.request("GET", f"https://localhost:{server.port}/it")


def test_a_proxy_that_refuses_is_named_as_the_culprit_without_its_password(
    tls: pki.Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
    with Hostile(tls) as server, proxy(answer, server.port) as (port, _):
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:hunter2@127.0.0.1:{port}")
        monkeypatch.setenv("NO_PROXY", "")
        with Https(tls.trust) as https, pytest.raises(Unreachable, match=r"proxy.*407") as caught:
            https.request("GET", server.url)
    assert "hunter2" not in str(caught.value)


def test_a_proxy_that_is_not_wanted_for_this_host_is_left_alone(
    tls: pki.Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "localhost")
    assert get(tls) == b"fine"


NO_PROXIES = [
    *("http://", "http://proxy:31x28", "http://proxy:99999", "http://proxy:0", "http://a..b:80"),
    *("socks5://proxy:1080", "http://me:hunter2/x@proxy:80", "http://proxy:80/path", "http://[::1"),
    "http://me:hunter2@pro xy:80",
]


@pytest.mark.parametrize("url", NO_PROXIES)
def test_a_proxy_that_makes_no_sense_is_a_matter_of_configuration(
    tls: pki.Tls, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(ProxyUnusable, match="HTTPS_PROXY is not http://HOST:PORT") as caught:
        get(tls)
    assert "hunter2" not in str(caught.value)


def test_a_proxy_without_a_scheme_is_an_http_proxy(
    tls: pki.Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lab.Proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.removeprefix("http://"))
        monkeypatch.setenv("NO_PROXY", "")
        assert get(tls) == b"fine"
        assert len(proxy.asked) == 1


# --- the configuration ---

CERTIFICATE = http(200, b"a certificate", Connection="close")
USER, PASSWORD = "device", "hunter2:and more"


@pytest.fixture
def squid(monkeypatch: pytest.MonkeyPatch) -> Iterator[lab.Proxy]:
    """One that asks who it is; the environment names another, which is not there."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "*")
    with lab.Proxy(username=USER, password=PASSWORD) as proxy:
        yield proxy


def through(proxy: Proxy, server: Hostile, tls: pki.Tls, timeout: float = 10) -> bytes:
    with Https(tls.trust, proxy=proxy, timeout=timeout) as https:
        return https.request("GET", f"https://127.0.0.1:{server.port}/it").body


def test_the_configured_proxy_is_used_whatever_the_environment_says(
    tls: pki.Tls, squid: lab.Proxy
) -> None:
    with Hostile(tls, {"it": FINE}) as server:
        assert through(Proxy(squid.url, USER, PASSWORD), server, tls) == b"fine"
        (request,) = server.requests
    (asked,) = squid.asked
    assert (asked.target, asked.user, asked.status) == (f"127.0.0.1:{server.port}", USER, 200)
    assert not any("proxy" in name for name in request.headers)  # the server learns nothing of it


@pytest.mark.parametrize("login", [(None, None), (USER, "wrong"), ("other", PASSWORD)])
def test_a_login_that_the_proxy_does_not_accept_has_a_code_of_its_own(
    tls: pki.Tls, squid: lab.Proxy, login: tuple[str | None, str | None]
) -> None:
    with Hostile(tls) as server, pytest.raises(ProxyLogin, match="407") as caught:
        through(Proxy(squid.url, *login), server, tls)
    assert squid.url.removeprefix("http://") in caught.value.remedy
    assert not server.connections


@pytest.mark.parametrize("status", [403, 502, 503])
def test_a_proxy_that_lets_nobody_through_is_the_culprit(
    tls: pki.Tls, squid: lab.Proxy, status: int
) -> None:
    squid.behave(status=status)
    with Hostile(tls) as server, pytest.raises(ProxyRefused, match=str(status)) as caught:
        through(Proxy(squid.url, USER, PASSWORD), server, tls)
    assert caught.value.code == "proxy-refused"


def test_a_proxy_that_says_nothing_is_not_waited_for_without_end(
    tls: pki.Tls, squid: lab.Proxy
) -> None:
    squid.behave(hang=True)
    with Hostile(tls) as server, pytest.raises(TimedOut):
        through(Proxy(squid.url, USER, PASSWORD), server, tls, timeout=0.5)


def test_a_proxy_that_is_not_there_is_unreachable(tls: pki.Tls) -> None:
    with Hostile(tls) as server, pytest.raises(Unreachable, match="through the proxy"):
        through(Proxy("http://127.0.0.1:1"), server, tls)


def test_the_password_is_in_no_exception_and_in_no_repr(tls: pki.Tls, squid: lab.Proxy) -> None:
    proxy, shown = Proxy(squid.url, USER, f"{PASSWORD}!"), list[str]()
    with Hostile(tls) as server, pytest.raises(ProxyLogin) as caught:
        through(proxy, server, tls)
    error: BaseException | None = caught.value
    while error:
        shown.append(f"{error!r} {vars(error)}")
        error = error.__cause__ or error.__context__
    text = " ".join([repr(proxy), *shown])
    secret = proxy.login()["Proxy-Authorization"].removeprefix("Basic ")
    assert "hunter2" not in text
    assert secret not in text


def test_a_server_behind_the_configured_proxy_is_checked_no_less(
    tls: pki.Tls, tmp_path: Path, squid: lab.Proxy
) -> None:
    other = pki.authority("Stranger").server(tmp_path)
    with Hostile(other) as server, pytest.raises(TlsUntrusted):
        through(Proxy(squid.url, USER, PASSWORD), server, tls)


def test_a_file_is_fetched_over_http_through_the_proxy_which_alone_sees_the_login(
    tls: pki.Tls,
) -> None:
    with Hostile(tls) as server, proxy(CERTIFICATE, server.port) as (port, asked):
        found = fetch.get(
            "http://pki.example/ca.crt",
            ["pki.example"],
            proxy=Proxy(f"http://127.0.0.1:{port}", USER, PASSWORD),
        )
    assert found == b"a certificate"
    assert asked[0].startswith(b"GET http://pki.example/ca.crt HTTP/1.1\r\n")
    assert b"roxy-Authorization: Basic " in asked[0].replace(b"authorization", b"Authorization")


def test_a_file_is_fetched_over_https_through_the_proxy_which_alone_sees_the_login(
    tls: pki.Tls, squid: lab.Proxy
) -> None:
    with Hostile(tls, {"it": FINE}) as server:
        at, host = f"https://127.0.0.1:{server.port}/it", f"127.0.0.1:{server.port}"
        assert fetch.get(at, [host], proxy=Proxy(squid.url, USER, PASSWORD)) == b"fine"
        (request,) = server.requests
    assert [asked.user for asked in squid.asked] == [USER]
    assert not any("proxy" in name for name in request.headers)


def test_a_file_that_the_proxy_does_not_let_through_is_not_there_yet(
    tls: pki.Tls, squid: lab.Proxy
) -> None:
    with Hostile(tls) as server:
        host = f"127.0.0.1:{server.port}"
        with pytest.raises(ProxyLogin):
            fetch.get(f"https://{host}/it", [host], proxy=Proxy(squid.url))


# --- where the password comes from ---


def settings(**more: object) -> config.Config:
    section = config.Proxy(url="http://proxy.example:3128", **more)  # type: ignore[arg-type]
    return config.Config(dps=config.Dps(id_scope="0ne00000000"), proxy=section)


def test_the_password_comes_as_a_credential_or_from_a_file_that_is_its_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    pki.write_private(file, b"from the file\n")
    assert inputs.proxy(settings(username=USER, password_file=file)) == Proxy(
        "http://proxy.example:3128", USER, "from the file"
    )
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials/proxy-password").write_text("from systemd")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    assert inputs.proxy(settings(username=USER, password_file=file)) == Proxy(
        "http://proxy.example:3128", USER, "from systemd"
    )


def test_a_password_that_others_may_read_is_refused_before_anything_changes(
    tmp_path: Path,
) -> None:
    (tmp_path / "password").write_text("hunter2")
    (tmp_path / "password").chmod(0o644)
    with pytest.raises(AgentError) as caught:
        inputs.check(settings(username=USER, password_file=tmp_path / "password"))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(SecretUnreadable):
        inputs.proxy(settings(username=USER, password_file=tmp_path / "password"))


def test_a_proxy_that_asks_for_nothing_needs_no_password() -> None:
    assert inputs.proxy(settings()) == Proxy("http://proxy.example:3128")
    assert inputs.proxy(config.Config(dps=config.Dps(id_scope="0ne00000000"))) is None
