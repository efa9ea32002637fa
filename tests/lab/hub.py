"""The IoT Hub of the lab (tests/lab/hub_server.py) as a test holds it.

    hub = Hub(directory, vouch=tls_ca, registry=dps.directory / "hubs.json")
    with hub.running():
        ...                                  # devices connect to hub.host
        hub.behave(drop_at=[3])              # the third message from now on is not acknowledged
        assert [m["text"] for m in hub.messages()] == ["one", "two"]

Its host name is an address, 127.x.y.z, because clients of IoT Hub know but two ports: 8883 they
reach there, 443 through a proxy (tests/lab/proxy.py) that is given the hub's `routes`. Devices with
a network of their own need a name instead.
"""

import contextlib
import ipaddress
import json
import random
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509

from tests.lab import pki, process
from tests.lab.clock import Clock, environment

PORT = 8883  # MQTT over TLS
REGISTRY = "hubs.json"  # in the directory of the provisioning service


class Hub:
    """`vouch` issues its server certificate; `registry`: {host: {device id: {"key": base64 or null,
    "thumbprint": SHA-256 in hex or null, "enabled": bool}}}, read at every CONNECT; `enrolled`: PEM
    files of CAs to one of which client certificates must lead, if any are given; `name`: its host
    name, by which devices elsewhere find 127.0.0.1 of this machine (one such hub at a time)."""

    def __init__(
        self,
        directory: Path,
        vouch: pki.Authority,
        registry: Path,
        *,
        enrolled: Sequence[Path] = (),
        clock: Clock | None = None,
        name: str | None = None,
    ) -> None:
        directory.mkdir(parents=True)
        self.directory, self.registry, self._clock = directory, registry, clock
        self.address = "127.0.0.1" if name else own_address()
        self.host, self.websockets_port = name or self.address, process.free_port()
        tls = directory / "tls"
        self.tls = vouch.server(tls, also=[name]) if name else server_at(self.host, vouch, tls)
        self._log, self._script = directory / "log.jsonl", directory / "behaviour.json"
        settings = {
            "host": self.host,
            "address": self.address,
            "port": PORT,
            "websockets_port": self.websockets_port,
            "certificate": str(self.tls.chain),
            "key": str(self.tls.key),
            "registry": str(registry),
            "enrolled": [str(path) for path in enrolled],
            "log": str(self._log),
            "behaviour": str(self._script),
        }
        (directory / "hub.json").write_text(json.dumps(settings, indent=4))
        self._log.touch()
        self._forgotten = 0

    @property
    def routes(self) -> dict[str, tuple[str, int]]:
        """For a proxy: where port 443 of this hub is."""
        return {f"{self.host}:443": (self.address, self.websockets_port)}

    def behave(self, **behaviour: object) -> None:
        """From now on, all of it: see tests.lab.hub_server.Behaviour; without arguments, well."""
        new = self._script.with_suffix(".new")
        new.write_text(json.dumps(behaviour))
        new.rename(self._script)

    @contextmanager
    def running(self) -> Iterator["Hub"]:
        command = [sys.executable, "-m", "tests.lab.hub_server", str(self.directory / "hub.json")]
        log, env = self.directory / "hub.out", environment(self._clock)
        with process.running(command, log, self._answers, cwd=process.TOP, env=env):
            yield self

    def _answers(self) -> bool:
        return all(
            speaks_tls(self.address, port, self.tls.trust) for port in (PORT, self.websockets_port)
        )

    def log(self) -> list[dict[str, Any]]:
        """All that happened, oldest first: events "connect", "message", "closed", and "stranger"
        for those who left before CONNECT; with `time`, seconds since 1970."""
        lines = self._log.read_bytes()[self._forgotten :].decode().split("\n")
        return [json.loads(line) for line in lines[:-1]]  # the last is not whole yet

    def forget(self) -> None:
        """The log begins anew, once those who are connected have gone."""
        self.wait(lambda: not self.connected())
        self._forgotten = self._log.stat().st_size

    def connected(self) -> set[str]:
        """The devices that are there now."""
        gone = {line["connection"] for line in self.closed()}
        came = [line for line in self.connections() if line["accepted"]]
        return {line["device"] for line in came if line["connection"] not in gone}

    def connections(self, device: str | None = None) -> list[dict[str, Any]]:
        """Every CONNECT: device (its client id), accepted, reason, code (in CONNACK), by ("token",
        "certificate"), expires (the token, seconds since 1970), transport ("mqtt", "websockets"),
        tls, chain (subjects), user, keep_alive, clean, connection (a number)."""
        return self._events("connect", device)

    def messages(self, device: str | None = None) -> list[dict[str, Any]]:
        """Every message that was stored: text, mid (its $.mid), properties (with those of the
        system), topic, qos, again (the DUP flag), device, connection."""
        return self._events("message", device)

    def closed(self, device: str | None = None) -> list[dict[str, Any]]:
        """Every end of a connection that was accepted: why, device, connection."""
        return self._events("closed", device)

    def _events(self, event: str, device: str | None) -> list[dict[str, Any]]:
        found = [line for line in self.log() if line["event"] == event]
        return [line for line in found if device in (None, line["device"])]

    def wait(self, until: Callable[[], bool]) -> None:
        """For what its log will say; quoted, if it never does."""
        patience = time.monotonic() + process.PATIENCE
        while not until():
            if time.monotonic() > patience:
                raise RuntimeError(f"the hub's log does not come to it: {self.log()[-10:]}")
            time.sleep(0.02)


def own_address() -> str:
    """A loopback address where nobody listens on port 8883; ours as long as this process lives, in
    the way of `process.free_port`."""
    for _ in range(1000):
        address = ".".join(["127", *(str(random.randint(1, 254)) for _ in range(3))])  # noqa: S311
        probe, sign = socket.socket(), socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError), probe, sign:
            probe.bind((address, PORT))
            sign.bind(f"\0tpm2cloud-lab-address-{address}")
            sign.detach()
            return address
    raise RuntimeError(f"no loopback address whose port {PORT} is free")


def server_at(address: str, vouch: pki.Authority, directory: Path) -> pki.Tls:
    """What a server needs whose name is its address."""
    key = pki.new_key()
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    own = vouch.issue(
        key.public_key(), address, lasts=9 * pki.YEAR, usages=[pki.SERVER], extensions=[names]
    )
    directory.mkdir(parents=True)
    files = pki.Tls(directory / "server.pem", directory / "server.key", directory / "root.pem")
    files.chain.write_bytes(pki.pem(own, *vouch.chain[:-1]))
    files.trust.write_bytes(pki.pem(vouch.root))
    pki.write_private(files.key, pki.private_pem(key))
    return files


def speaks_tls(address: str, port: int, trust: Path) -> bool:
    """Whether a server of this address listens there, and not a stranger."""
    context = ssl.create_default_context(cafile=str(trust))
    try:
        with (
            socket.create_connection((address, port), 5) as plain,
            context.wrap_socket(plain, server_hostname=address),
        ):
            return True
    except OSError:
        return False
