"""The provisioning service of the lab (tests/lab/dps.py) as a test holds it."""

import base64
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509

from tests.lab import pki, process
from tests.lab.clock import Clock, environment
from tests.lab.dps_enrolments import thumbprint
from tests.lab.dps_hubs import Device, Hubs, replace

HUB = "hub.lab.invalid"


class Dps:
    """An ID scope with an enrolment group for each CA in `enrolled` (PEM files), and individual
    enrolments as a test adds them; `hubs`: host names, devices come to the first. Which devices
    the hubs know, and by what, is in the file `registry` (tests.lab.dps_hubs)."""

    def __init__(
        self,
        directory: Path,
        tls: pki.Tls,
        enrolled: Sequence[Path],
        scope: str = "0ne00LAB000",
        clock: Clock | None = None,
        hubs: Sequence[str] = (HUB,),
    ) -> None:
        directory.mkdir(parents=True)
        self.directory, self.scope, self.hubs, self._tls = directory, scope, list(hubs), tls
        self.port, self._clock = process.free_port(), clock
        self._log, self._script = directory / "log.jsonl", directory / "behaviour.json"
        self._enrolments, self.registry = directory / "enrolments.json", directory / "hubs.json"
        self._hubs = Hubs(self.registry)
        settings = {
            "port": self.port,
            "scope": scope,
            "hubs": self.hubs,
            "certificate": str(tls.chain),
            "key": str(tls.key),
            "enrolled": [str(path) for path in enrolled],
            "enrolments": str(self._enrolments),
            "registry": str(self.registry),
            "log": str(self._log),
            "behaviour": str(self._script),
        }
        (directory / "dps.json").write_text(json.dumps(settings, indent=4))
        self._log.touch()
        replace(self._enrolments, {"individual": {}, "moved": {}, "disabled groups": []})
        replace(self.registry, {hub: {} for hub in self.hubs})

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def enrolments(self) -> Path:
        """Where it looks for enrolments: {"individual": ..., "groups": {name: PEM of its CAs}}."""
        return self._enrolments

    def behave(self, **behaviour: object) -> None:
        """From now on, all of it: see tests.lab.dps_behaviour.Behaviour; without arguments,
        well."""
        replace(self._script, behaviour)

    @contextmanager
    def running(self) -> Iterator[None]:
        command = [sys.executable, "-m", "tests.lab.dps", str(self.directory / "dps.json")]
        answers = lambda: process.speaks_tls(self.port, self._tls.trust)  # noqa: E731
        log, env = self.directory / "dps.out", environment(self._clock)
        with process.running(command, log, answers, cwd=process.TOP, env=env):
            yield

    # --- enrolments ---

    def enrol_tpm(
        self,
        registration_id: str,
        ek: bytes,
        device_id: str | None = None,
        hub: str | None = None,
    ) -> None:
        """An individual enrolment of the TPM with this endorsement key, TPM2B_PUBLIC."""
        text = base64.b64encode(ek).decode()
        self._enrol(registration_id, ek=text, device_id=device_id, hub=hub)

    def enrol_certificate(
        self,
        registration_id: str,
        certificate: x509.Certificate,
        device_id: str | None = None,
        hub: str | None = None,
    ) -> None:
        """An individual enrolment of this certificate, and no other."""
        known = thumbprint(certificate)
        self._enrol(registration_id, thumbprint=known, device_id=device_id, hub=hub)

    def _enrol(self, registration_id: str, **more: object) -> None:
        entry = {"registration_id": registration_id, "ek": None, "thumbprint": None}
        with self._enrolling() as said:
            said["individual"][registration_id.lower()] = {**entry, "enabled": True, **more}

    def enrolment(self, registration_id: str, **changes: object) -> None:
        """An individual enrolment changes: `enabled`, `ek` (TPM2B_PUBLIC), `device_id`, `hub`."""
        if isinstance(ek := changes.get("ek"), bytes):
            changes["ek"] = base64.b64encode(ek).decode()
        with self._enrolling() as said:
            entry = said["individual"][registration_id.lower()]
            assert set(changes) <= set(entry), changes
            entry |= changes

    def forget(self, registration_id: str) -> None:
        """The individual enrolment is deleted; the hub still knows the device."""
        with self._enrolling() as said:
            del said["individual"][registration_id.lower()]

    def group(self, ca: Path, *, enabled: bool) -> None:
        """The group of this CA (a path as in `enrolled`) is disabled, or enabled again."""
        with self._enrolling() as said:
            others = [name for name in said["disabled groups"] if name != str(ca)]
            said["disabled groups"] = others + [str(ca)] * (not enabled)

    def move(self, registration_id: str, hub: str, *, stays: bool = False) -> None:
        """The operator gives the device to another hub and takes it out of the one it is at;
        `stays`: the service does that, when the device registers the next time."""
        with self._enrolling() as said:
            entry = said["individual"].get(registration_id.lower(), {})
            where, name = (entry, "hub") if entry else (said["moved"], registration_id.lower())
            where[name] = hub
        if not stays:
            self.remove(entry.get("device_id") or registration_id)

    @contextmanager
    def _enrolling(self) -> Iterator[dict[str, Any]]:
        said = json.loads(self._enrolments.read_text())
        yield said
        replace(self._enrolments, said)

    # --- the hubs ---

    def rotate(self, device_id: str) -> bytes:
        """The device's key is regenerated at its hub; the new one. Raises KeyError for a device
        that no hub knows by a key."""
        new = os.urandom(32)
        if self._hubs.key(device_id) is None:
            raise KeyError(device_id)
        self.at_hub(device_id, key=base64.b64encode(new).decode())
        return new

    def at_hub(self, device_id: str, **changes: object) -> None:
        """What its hub knows of the device changes: `enabled`, `key` (base64), `thumbprint`."""
        with self._hubs.changing() as devices:
            for found in devices.values():
                if device_id in found:
                    assert set(changes) <= set(found[device_id]), changes
                    found[device_id] |= changes

    def remove(self, device_id: str) -> None:
        """The device is deleted at whatever hub it is."""
        with self._hubs.changing() as devices:
            for found in devices.values():
                found.pop(device_id, None)

    def devices(self, hub: str | None = None) -> dict[str, Device]:
        """What a hub knows, by device id; without a name, the first one."""
        return self._hubs.read().get(hub or self.hubs[0], {})

    # --- what happened ---

    def requests(self, registration_id: str | None = None) -> list[dict[str, Any]]:
        """Every request and its reply, oldest first; of all devices, or of one: time, method, url,
        http (status), reply, odd (how it was spoilt), registration_id, step ("challenge",
        "register", "operation", "lookup"), payload, token (whether there was one), verdict (of the
        token, in words), count (of registrations in that minute, or of this device's polls in
        those ten seconds), and of the client certificate subject, issuer, serial (hex), fingerprint
        (SHA-256), chain (names)."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        wanted = registration_id and registration_id.lower()
        return [line for line in lines if wanted in (None, line.get("registration_id", "").lower())]

    def assigned(self, registration_id: str) -> list[dict[str, Any]]:
        """The requests that told this device its hub."""
        state = [(line, line["reply"].get("registrationState", {})) for line in self.requests()]
        return [
            line
            for line, found in state
            if found.get("status") == "assigned" and line["registration_id"] == registration_id
        ]

    def busiest(self) -> tuple[int, int]:
        """The most registrations in any minute so far, and the most polls of any one device in
        any ten seconds."""
        counted = [(line["step"], line["count"]) for line in self.requests() if "count" in line]
        polls = [count for step, count in counted if step == "operation"]
        others = [count for step, count in counted if step != "operation"]
        return max(others, default=0), max(polls, default=0)
