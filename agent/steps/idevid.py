"""The IDevID: who the factory says this device is (IEEE 802.1AR)."""

from datetime import UTC, datetime
from pathlib import Path

from cryptography.x509 import Certificate

from agent import config, store, x509
from agent.errors import (
    ClockImplausible,
    IdevidAbsent,
    IdevidExpired,
    IdevidInvalid,
    IdevidMismatch,
    IdevidUntrusted,
)
from agent.steps import Step
from agent.steps.preflight import look
from agent.tpm import Tpm

HANDLE, INDEX = 0x81020000, 0x01C90000


def idevid(tpm: Tpm, conf: config.Idevid) -> Step:
    def done() -> str:
        if (
            not conf.require
            and tpm.public(HANDLE) is None
            and stored(tpm, conf.certificate) is None
        ):
            return "none, and none is required"
        leaf = chain(tpm, conf.trust, conf.certificate)[0]
        return f"{HANDLE:#x} {x509.describe(leaf)}"

    return look("idevid", done)


def chain(tpm: Tpm, trust: Path, file: Path) -> list[Certificate]:
    """The checked IDevID certificate and its issuers, leaf first, the anchor last."""
    leaf = certificate(tpm, file)
    _check_key(tpm, leaf)
    now = datetime.now(UTC)
    start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now < start:  # the factory's clock was right, or the device would not be here
        raise ClockImplausible(
            f"cannot use the IDevID: valid from {start:%Y-%m-%d %H:%M}Z, but it is "
            f"{now:%Y-%m-%d %H:%M}Z"
        )
    if now > end:
        raise IdevidExpired(
            f"cannot use the IDevID: valid until {end:%Y-%m-%d %H:%M}Z, but it is "
            f"{now:%Y-%m-%d %H:%M}Z"
        )
    known = x509.anchors(trust)
    try:
        return x509.chain(leaf, known, known, now)
    except x509.Untrusted as e:
        raise IdevidUntrusted(f"cannot trust the IDevID: {e}") from e


def certificate(tpm: Tpm, file: Path = config.VAR / "idevid.pem") -> Certificate:
    """From NV, or from `file` where the TPM had no room. Raises IdevidAbsent, IdevidInvalid."""
    if (found := stored(tpm, file)) is None:
        why = f"no certificate at NV {INDEX:#x}, nor in '{file}'"
        raise IdevidAbsent(f"cannot find the IDevID: {why}")
    data, place = found
    try:
        return x509.leading(data) if place != str(file) else x509.parse(data)[0]
    except ValueError as e:
        raise IdevidInvalid(f"cannot read the IDevID certificate at {place}: {e}") from e


def stored(tpm: Tpm, file: Path) -> tuple[bytes, str] | None:
    """What is kept as the IDevID certificate, and where."""
    if (data := tpm.nv_read(INDEX)) is not None:
        return data, f"NV {INDEX:#x}"
    data = store.read(file)
    return (data, str(file)) if data is not None else None


def _check_key(tpm: Tpm, leaf: Certificate) -> None:
    key = tpm.public(HANDLE)
    if key is None:
        raise IdevidAbsent(f"cannot find the IDevID: a certificate, but no key at {HANDLE:#x}")
    if key.key != leaf.public_key():
        raise IdevidMismatch(
            f"cannot use the IDevID: the certificate at NV {INDEX:#x} is not for the key at "
            f"{HANDLE:#x}"
        )
    if not key.signs:
        raise IdevidInvalid(f"cannot use the IDevID: the key at {HANDLE:#x} does not sign")
