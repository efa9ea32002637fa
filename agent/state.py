"""What we keep in the state directory, file by file. None of it says "did run"."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import store

SLOTS = ("ldevid", "ldevid-2")


@dataclass(frozen=True)
class State:
    """`directory` is world-traversable: IoT Edge's services read the certificate and the token.

    `fixed`: of the two slots of the LDevID this one, not the one in use.
    """

    directory: Path
    fixed: str | None = None

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """One run at a time; telemetry, which is no run, writes what it has read besides."""
        return store.lock(self.directory, besides=[self.telemetry])

    @property
    def slot(self) -> str:
        """The slot in use: the name of its files, and of its key in the token."""
        found = (read_json(self.ldevid_slot) or {}).get("slot")
        return self.fixed or (found if found in SLOTS else SLOTS[0])

    @property
    def other(self) -> "State":
        """As if the other slot were in use."""
        return State(self.directory, SLOTS[1 - SLOTS.index(self.slot)])

    @property
    def ldevid_slot(self) -> Path:
        """Which slot is in use; if there is no such file, the first."""
        return self.directory / "ldevid.json"

    @property
    def tpm(self) -> Path:
        """Which TPM all of this was made with: digests of its EK and of its SRK."""
        return self.directory / "tpm.json"

    @property
    def tpm_makers(self) -> Path:
        """A directory: what was fetched of TPM makers' CA certificates (tpm.fetch_from)."""
        return self.directory / "tpm-makers"

    @property
    def ldevid_key(self) -> Path:
        """The LDevID key, wrapped by the SRK: no secret, but needed to put it into a token."""
        return self.directory / f"{self.slot}-key.pem"

    @property
    def ldevid_cert(self) -> Path:
        """The LDevID certificate and its chain, PEM, leaf first, readable by all."""
        return self.directory / f"{self.slot}.pem"

    @property
    def ldevid_next(self) -> Path:
        """As `ldevid_cert`: a renewed one, until it has proven itself and takes its place."""
        return self.directory / f"{self.slot}-next.pem"

    @property
    def ldevid_issued(self) -> Path:
        """An LDevID certificate that the CA has issued and that is not valid by the clock here, and
        its CAs, PEM."""
        return self.directory / f"{self.slot}-issued.pem"

    @property
    def anchors(self) -> Path:
        """A directory: CA certificates that came after those of the configuration, as these say."""
        return self.directory / "anchors"

    @property
    def health(self) -> Path:
        """What the companion saw last, and what it did about it."""
        return self.directory / "health.json"

    @property
    def clock(self) -> Path:
        """What time it is at least, as a server has said."""
        return self.directory / "clock.json"

    @property
    def pins(self) -> Path:
        """The PINs of the PKCS#11 token; for root only."""
        return self.directory / "pins.json"

    @property
    def token(self) -> Path:
        """Which tokens were made, in which stores: the configuration may name another by now."""
        return self.directory / "token.json"

    @property
    def pending(self) -> Path:
        """The CSR a CA told us to come back with (RFC 7030, 4.2.3), and when."""
        return self.directory / "enrolment.json"

    @property
    def idevid_issued(self) -> Path:
        """At the factory: the IDevID certificate, PEM, from when it was issued to when it is in its
        place."""
        return self.directory / "idevid-issued.pem"

    @property
    def idevid_pending(self) -> Path:
        """At the factory: as `pending`."""
        return self.directory / "idevid-enrolment.json"

    @property
    def registration(self) -> Path:
        """What IoT Edge was last provisioned with, and the digest of the file it was told so by."""
        return self.directory / "registration.json"

    @property
    def assignment(self) -> Path:
        """Without IoT Edge: the hub that DPS assigned, and what it was asked with; with attestation
        by TPM also the hub key, wrapped by the SRK."""
        return self.directory / "assignment.json"

    @property
    def turn(self) -> Path:
        """When DPS may be asked: the turn of this device in its fleet, and pauses."""
        return self.directory / "turn.json"

    @property
    def reset(self) -> Path:
        """That this device is being reset, or was, and what is to be revoked therefore; gone when
        it is provisioned for another owner."""
        return self.directory / "reset.json"

    @property
    def failure(self) -> Path:
        """Why the last run stopped; gone after one that did not."""
        return self.directory / "failure.json"

    @property
    def receipt(self) -> Path:
        """What was done to this device, signed by its TPM; for everybody to read."""
        return self.directory / "receipt.jsonl"

    @property
    def receipt_before(self) -> Path:
        """The one before, where another had to be begun: another TPM, another IDevID, a damage."""
        return self.directory / "receipt-before.jsonl"

    @property
    def loaded(self) -> Path:
        """While we use the TPM: what was loaded in it before us."""
        return self.directory / "tpm-loaded.json"

    @property
    def loaded_before_login(self) -> Path:
        """The same, of telemetry, that does not hold the directory's lock while it signs."""
        return self.directory / "tpm-loaded-telemetry.json"

    @property
    def telemetry(self) -> Path:
        """Of a pipe to telemetry: what was read, and is not acknowledged."""
        return self.directory / "telemetry.json"

    @property
    def identity(self) -> tuple[Path, ...]:
        """What is of no use with another TPM."""
        slots = (State(self.directory, slot) for slot in SLOTS)
        of_slots = [
            path
            for s in slots
            for path in (s.ldevid_key, s.ldevid_cert, s.ldevid_next, s.ldevid_issued)
        ]
        return (
            *of_slots,
            self.ldevid_slot,
            self.pins,
            self.token,
            self.pending,
            self.registration,
            self.assignment,
            self.turn,
            self.telemetry,
            self.health,
        )


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the file; None if there is no file, or a damaged one (it is made anew)."""
    data = store.read(path)
    try:
        found = json.loads(data) if data else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, value: dict[str, Any], *, mode: int = 0o600) -> None:
    store.write(path, json.dumps(value, indent=1, default=str).encode() + b"\n", mode=mode)
