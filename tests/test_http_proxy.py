"""HTTPS through a proxy that the environment names."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.errors import (
    ProxyUnusable,
    TlsUntrusted,
    Unreachable,
)
from agent.http import Https
from tests.lab import pki
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


def test_a_proxy_that_makes_no_sense_is_a_matter_of_configuration(
    tls: pki.Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(ProxyUnusable):
        get(tls)
