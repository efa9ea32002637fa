"""The provisioning service of the lab (tests/lab/dps.py) as a test holds it."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab import pki, process
from tests.lab.clock import Clock, environment

HUB = "hub.lab.invalid"


class Dps:
    """An ID scope with an enrolment group for each CA in `enrolled` (PEM files)."""

    def __init__(
        self,
        directory: Path,
        tls: pki.Tls,
        enrolled: Sequence[Path],
        scope: str = "0ne00LAB000",
        clock: Clock | None = None,
    ) -> None:
        directory.mkdir(parents=True)
        self._clock = clock
        self.directory, self.scope, self.port, self._tls = (
            directory,
            scope,
            process.free_port(),
            tls,
        )
        self._log, self._script = directory / "log.jsonl", directory / "behaviour.json"
        settings = {
            "port": self.port,
            "scope": scope,
            "hub": HUB,
            "certificate": str(tls.chain),
            "key": str(tls.key),
            "enrolled": [str(path) for path in enrolled],
            "log": str(self._log),
            "behaviour": str(self._script),
        }
        (directory / "dps.json").write_text(json.dumps(settings, indent=4))
        self._log.touch()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def behave(self, **behaviour: object) -> None:
        """From now on, all of it: see tests.lab.dps.Behaviour; without arguments, well."""
        new = self._script.with_suffix(".new")
        new.write_text(json.dumps(behaviour))
        new.rename(self._script)

    @contextmanager
    def running(self) -> Iterator[None]:
        command = [sys.executable, "-m", "tests.lab.dps", str(self.directory / "dps.json")]
        answers = lambda: process.speaks_tls(self.port, self._tls.trust)  # noqa: E731
        log, env = self.directory / "dps.out", environment(self._clock)
        with process.running(command, log, answers, cwd=process.TOP, env=env):
            yield

    def requests(self) -> list[dict[str, Any]]:
        """Every request and its reply, oldest first: method, url, http (status), reply, and of the
        client certificate subject, issuer, serial (hex), fingerprint (SHA-256), chain (names)."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def assigned(self, registration_id: str) -> list[dict[str, Any]]:
        """The requests that told this device its hub."""
        state = [(line, line["reply"].get("registrationState", {})) for line in self.requests()]
        return [
            line
            for line, found in state
            if found.get("status") == "assigned" and found["registrationId"] == registration_id
        ]
