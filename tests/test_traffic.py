"""Bytes on the wire are counted as they were: what we say is what the other end saw."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent import fetch
from agent.errors import AgentError, TimedOut, TlsClientRefused, TlsUntrusted, Unreachable
from agent.http import Https
from agent.traffic import Traffic, traffic
from tests.lab import pki
from tests.lab.hostile import Hostile, hang, http, reset, whole
from tests.lab.plain import Plain

FINE = whole(http(200, bytes(5000)))


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the machine that runs the tests is none of their business."""
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


class Gate:
    """Stands before a server and counts: bytes from the client, and bytes to it that it took.

    With `proxy`, it is first asked to CONNECT.
    """

    def __init__(self, onward: int, *, proxy: bool = False) -> None:
        self._onward, self._proxy = onward, proxy
        self.up = self.down = self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> "Gate":
        self._threads[0].start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:  # it grows until the first of them has ended
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                self.connections += 1
                self._threads.append(threading.Thread(target=self._serve, args=(line,)))
                self._threads[-1].start()

    def _serve(self, line: socket.socket) -> None:
        with line, socket.create_connection(("127.0.0.1", self._onward)) as out:
            if self._proxy:
                self.up += len(line.recv(1 << 14))
                self._down(line, b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=self._back, args=(out, line))
            back.start()
            with contextlib.suppress(OSError):
                while data := line.recv(1 << 14):
                    self.up += len(data)
                    out.sendall(data)
            with contextlib.suppress(OSError):
                out.shutdown(socket.SHUT_RDWR)  # the client has what it wants
            back.join()

    def _back(self, out: socket.socket, line: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := out.recv(1 << 14):
                self._down(line, data)
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_WR)

    def _down(self, line: socket.socket, data: bytes) -> None:
        line.sendall(data)
        self.down += len(data)


@contextmanager
def counted() -> Iterator[list[Traffic]]:
    """What came to it within the `with`."""
    found: list[Traffic] = []
    before = traffic()
    yield found
    after = traffic()
    found.append(Traffic(after.sent - before.sent, after.received - before.received))


def sent(found: Traffic, gate: Gate) -> bool:
    """What the other end saw; and on a busy machine TCP may have sent a part of it twice."""
    return gate.up <= found.sent <= 2 * gate.up


def ask(trust: Path, port: int, times: int = 1, *, timeout: float = 30) -> None:
    with Https(trust, timeout=timeout) as https:
        for _ in range(times):
            https.request("POST", f"https://localhost:{port}/it", body=bytes(3000))


def test_who_says_nothing_has_no_traffic(tls: pki.Tls) -> None:
    with counted() as found, Https(tls.trust):
        pass
    assert found == [Traffic(0, 0)]


@pytest.mark.parametrize("times", [1, 7])
def test_what_is_counted_is_what_the_other_end_saw(tls: pki.Tls, times: int) -> None:
    with Hostile(tls, {"it": FINE}) as server, Gate(server.port) as gate, counted() as found:
        ask(tls.trust, gate.port, times)
    assert sent(found[0], gate)
    assert found[0].received == gate.down
    assert gate.connections == 1
    assert found[0].sent > 3000 * times
    assert found[0].received > 5000 * times


def test_each_connection_is_counted_once(tls: pki.Tls) -> None:
    with Hostile(tls, {"it": FINE}) as server, Gate(server.port) as gate, counted() as found:
        for _ in range(3):
            ask(tls.trust, gate.port)
    assert sent(found[0], gate)
    assert found[0].received == gate.down
    assert gate.connections == 3


def test_a_proxy_is_spoken_to_over_the_same_wire(
    tls: pki.Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hostile(tls, {"it": FINE}) as server, Gate(server.port, proxy=True) as gate:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{gate.port}")
        monkeypatch.setenv("NO_PROXY", "elsewhere.example")
        monkeypatch.delenv("no_proxy", raising=False)
        with counted() as found:
            ask(tls.trust, server.port)
    assert sent(found[0], gate)
    assert found[0].received == gate.down


def test_a_handshake_that_fails_costs_bytes_too(tls: pki.Tls, tmp_path: Path) -> None:
    other = pki.authority("Stranger").server(tmp_path)
    with (
        Hostile(other) as server,
        Gate(server.port) as gate,
        counted() as found,
        pytest.raises(TlsUntrusted),
    ):
        ask(tls.trust, gate.port)
    assert sent(found[0], gate)
    assert gate.up > 200
    assert gate.down <= found[0].received + 1 <= gate.down + 2  # an end may be counted


def test_a_certificate_that_is_not_accepted_costs_bytes_too(
    ca: pki.Authority, tls: pki.Tls
) -> None:
    with (
        Hostile(tls, {"it": FINE}, clients=ca) as server,
        Gate(server.port) as gate,
        counted() as found,
        pytest.raises(TlsClientRefused),
    ):
        ask(tls.trust, gate.port)
    assert found[0].sent >= gate.up > 200
    assert found[0].received > 500


def test_what_the_deadline_cuts_off_is_counted(tls: pki.Tls) -> None:
    with (
        Hostile(tls, {"it": hang}) as server,
        Gate(server.port) as gate,
        counted() as found,
        pytest.raises(TimedOut),
    ):
        ask(tls.trust, gate.port, timeout=1)
    assert sent(found[0], gate)
    assert gate.up > 0
    assert found[0].received <= gate.down + 1


def test_what_the_other_end_cuts_off_is_counted(tls: pki.Tls) -> None:
    with Hostile(tls, {"it": reset}) as server, counted() as found, pytest.raises(Unreachable):
        ask(tls.trust, server.port)
    assert found[0].sent > 3000
    assert found[0].received > 500


def test_nobody_listens_and_nothing_is_counted(tls: pki.Tls) -> None:
    with Hostile(tls) as server:
        pass
    with counted() as found, pytest.raises(Unreachable):
        ask(tls.trust, server.port)
    assert found == [Traffic(0, 0)]


def test_what_is_fetched_from_a_tpm_maker_is_counted() -> None:
    with (
        Plain({"it": whole(http(200, bytes(700), Connection="close"))}) as server,
        Gate(server.port) as gate,
        counted() as found,
    ):
        fetch.get(f"http://localhost:{gate.port}/it", [f"localhost:{gate.port}"])
    assert sent(found[0], gate)
    assert found[0].received in (gate.down, gate.down + 1)  # the end may be counted


def test_what_failed_to_be_fetched_is_counted() -> None:
    with Plain({"it": reset}) as server, counted() as found, pytest.raises(AgentError):
        fetch.get(f"http://localhost:{server.port}/it", [f"localhost:{server.port}"])
    assert found[0].sent > 50
