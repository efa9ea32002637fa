"""mosquitto, Debian's MQTT broker, on a loopback address of its own: others' code that says whether
ours speaks MQTT. It takes everybody, and cannot judge tokens; tests/lab/hub_server.py does.

    with Mosquitto(directory, tls_ca).running() as broker:
        ...                                  # publish to broker.host, port 8883
        assert broker.received(1)[0]["payload"] == "hello"
"""

import json
import os
import pwd
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.lab import pki, process
from tests.lab.hub import PORT, own_address, server_at, speaks_tls

CONFIG = """\
user {user}
per_listener_settings false
allow_anonymous true
persistence false
log_dest stderr
log_type all
listener {port} {host}
certfile {tls.chain}
keyfile {tls.key}
cafile {clients}
require_certificate {wanted}
"""


class Mosquitto:
    """`clients`: a CA, to one of whose certificates every client then has to have the key."""

    def __init__(
        self, directory: Path, vouch: pki.Authority, clients: pki.Authority | None = None
    ) -> None:
        directory.mkdir(parents=True)
        self.directory, self.host = directory, own_address()
        self.tls = server_at(self.host, vouch, directory / "tls")
        believed = directory / "clients.pem"
        believed.write_bytes(pki.pem(*(clients or vouch).chain))
        self._config, self._seen = directory / "mosquitto.conf", directory / "seen.out"
        self._config.write_text(
            CONFIG.format(
                user=pwd.getpwuid(os.geteuid()).pw_name,
                port=PORT,
                host=self.host,
                tls=self.tls,
                clients=believed,
                wanted="true" if clients else "false",
            )
        )
        self._log, self._own = directory / "mosquitto.out", clients
        self._seen.touch()

    @contextmanager
    def running(self) -> Iterator["Mosquitto"]:
        """Entered when the subscriber is there, too."""
        command = ["/usr/sbin/mosquitto", "-c", str(self._config)]
        with ExitStack() as stack:
            stack.enter_context(process.running(command, self._log, self._listens))
            subscribed = lambda: "\nSubscribed " in self._seen.read_text()  # noqa: E731
            stack.enter_context(process.running(self._subscriber(), self._seen, subscribed))
            yield self

    def _listens(self) -> bool:
        if self._own is not None:  # who has no certificate learns nothing
            return " running" in self._log.read_text()
        return speaks_tls(self.host, PORT, self.tls.trust)

    def _subscriber(self) -> list[str]:
        where = ["-h", self.host, "-p", str(PORT), "--cafile", str(self.tls.trust)]
        own = [] if self._own is None else self._certificate(self._own)
        what = ["-i", "subscriber", "-q", "1", "-t", "#", "-F", "%j", "-d"]
        # Line by line, though it is a file.
        return ["stdbuf", "-oL", "mosquitto_sub", *where, *own, *what]

    def _certificate(self, ca: pki.Authority) -> list[str]:
        key = pki.new_key()
        own = self.directory / "subscriber.pem"
        own.write_bytes(pki.pem(ca.issue(key.public_key(), "subscriber"), *ca.chain[:-1]))
        private = pki.write_private(self.directory / "subscriber.key", pki.private_pem(key))
        return ["--cert", str(own), "--key", str(private)]

    def seen(self) -> list[dict[str, Any]]:
        """What was published so far: topic, payload (text), qos, retain, ..."""
        lines = self._seen.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def received(self, count: int) -> list[dict[str, Any]]:
        """The same, once so many have come."""
        until = time.monotonic() + process.PATIENCE
        while len(found := self.seen()) < count:
            if time.monotonic() > until:
                raise RuntimeError(f"{count} messages, but only {found} came")
            time.sleep(0.02)
        return found

    def log(self) -> str:
        """The broker's own words."""
        return self._log.read_text()
