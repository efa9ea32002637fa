"""The lab's proxy leads where it is told, and refuses as operators' proxies do."""

import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab.proxy import Proxy

NAME = "hub.lab.invalid:443"


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that says what it hears."""

    def serve() -> None:
        line, _ = listener.accept()
        with line:
            while heard := line.recv(100):
                line.sendall(heard)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()
        thread.join()


@contextmanager
def connected(proxy: Proxy, target: str, login: str = "") -> Iterator[tuple[int, socket.socket]]:
    """The status of a CONNECT, and the line."""
    head = f"CONNECT {target} HTTP/1.1\r\n"
    if login:
        head += f"Proxy-Authorization: Basic {base64.b64encode(login.encode()).decode()}\r\n"
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as line:
        line.sendall(f"{head}\r\n".encode())
        line.settimeout(0.2 if target == "hang" else 10)
        yield int(line.recv(500).split()[1]), line


def test_a_name_that_nobody_knows_leads_to_where_the_lab_says(echo: tuple[str, int]) -> None:
    with Proxy({NAME: echo}) as proxy, connected(proxy, NAME) as (status, line):
        assert status == 200
        line.sendall(b"hello")
        assert line.recv(100) == b"hello"
    assert [(a.target, a.status, a.user) for a in proxy.asked] == [(NAME, 200, None)]


def test_a_login_that_is_asked_for_is_checked_and_the_password_kept_quiet(
    echo: tuple[str, int],
) -> None:
    with Proxy({NAME: echo}, username="me", password="hunter2") as proxy:  # noqa: S106
        for login in ("", "me:other", "you:hunter2"):
            with connected(proxy, NAME, login) as (status, _):
                assert status == 407
        with connected(proxy, NAME, "me:hunter2") as (status, _):
            assert status == 200
    assert [a.user for a in proxy.asked] == [None, "me", "you", "me"]
    assert "hunter2" not in repr(proxy.asked)


def test_nothing_but_the_lab_is_reached() -> None:
    with Proxy({NAME: ("127.0.0.1", 1)}) as proxy:  # nobody listens there
        for target in ("example.com:443", "192.0.2.1:443", "nonsense", NAME):
            with connected(proxy, target) as (status, _):
                assert status == 502


def test_a_proxy_can_refuse_everybody_or_never_answer() -> None:
    with Proxy() as proxy:
        for wanted in (403, 407, 502):
            proxy.behave(status=wanted)
            with connected(proxy, NAME) as (status, _):
                assert status == wanted
        proxy.behave(hang=True)
        with pytest.raises(TimeoutError), connected(proxy, "hang"):
            pass
    assert [a.status for a in proxy.asked] == [403, 407, 502, None]
