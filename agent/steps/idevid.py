"""The IDevID: who the factory says this device is (IEEE 802.1AR)."""

from datetime import UTC, datetime
from pathlib import Path

from cryptography.x509 import Certificate

from agent import config, store, x509
from agent.errors import (
    ApprovalForged,
    BootStateUnapproved,
    ClockImplausible,
    ConfigError,
    IdevidAbsent,
    IdevidExpired,
    IdevidInvalid,
    IdevidMismatch,
    IdevidUntrusted,
    PcrBankAbsent,
    PolicyKeyOther,
)
from agent.steps import Step
from agent.steps.preflight import look
from agent.tpm import Public, Tpm

HANDLE, INDEX = 0x81020000, 0x01C90000
UNAPPROVED = (BootStateUnapproved, ApprovalForged, PolicyKeyOther, PcrBankAbsent, ConfigError)


def idevid(tpm: Tpm, conf: config.Idevid) -> Step:
    def done() -> str:
        if (
            not conf.require
            and tpm.public(HANDLE) is None
            and stored(tpm, conf.certificate) is None
        ):
            return "none, and none is required"
        leaf = chain(tpm, conf.trust, conf.certificate)[0]
        return f"{HANDLE:#x} {x509.describe(leaf)}{_approved(tpm)}"

    return look("idevid", done)


def _approved(tpm: Tpm) -> str:
    """What there is to say of a key that works in approved boot states alone. That this is none is
    a failure of whatever needs a signature by it, and most boots need none."""
    key = tpm.public(HANDLE)
    if key is None or not key.needs_approval:
        return ""
    try:
        return f"; works in this boot state, '{tpm.approval(key).name}'"
    except UNAPPROVED as e:
        return f"; does not work now: {e} [{e.code}]"


def chain(tpm: Tpm, trust: Path, file: Path | None) -> list[Certificate]:
    """The checked IDevID certificate and its issuers, leaf first, the anchor last."""
    leaf = certificate(tpm, file)
    check_key(tpm, leaf)
    return trusted(leaf, trust)


def trusted(leaf: Certificate, trust: Path) -> list[Certificate]:
    """Its chain, by the CAs in the file and no others. Raises ClockImplausible, IdevidExpired,
    IdevidUntrusted."""
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


def certificate(tpm: Tpm, file: Path | None = config.VAR / "idevid.pem") -> Certificate:
    """From NV, or from `file` where the TPM had no room. Raises IdevidAbsent, IdevidInvalid."""
    if (found := stored(tpm, file)) is None:
        why = f"no certificate at NV {INDEX:#x}" + (f", nor one for it in '{file}'" if file else "")
        raise IdevidAbsent(f"cannot find the IDevID: {why}")
    data, place = found
    try:
        return parsed(data)
    except ValueError as e:
        raise IdevidInvalid(f"cannot read the IDevID certificate at {place}: {e}") from e


def stored(tpm: Tpm, file: Path | None) -> tuple[bytes, str] | None:
    """What is kept as the IDevID certificate, and where. A disk may have been in other boards: what
    its file says of another key counts for nothing."""
    if (data := tpm.nv_read(INDEX)) is not None:
        return data, f"NV {INDEX:#x}"
    data = store.read(file) if file else None
    return (data, str(file)) if data is not None and is_for(data, tpm.public(HANDLE)) else None


def parsed(data: bytes) -> Certificate:
    """Of a file, PEM, or of NV. Raises ValueError."""
    return x509.parse(data)[0] if data.startswith(b"-----") else x509.leading(data)


def is_for(data: bytes, key: Public | None) -> bool:
    """Is it a certificate for this key?"""
    try:
        return key is not None and parsed(data).public_key() == key.key
    except ValueError:
        return False


def check_key(tpm: Tpm, leaf: Certificate) -> None:
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
