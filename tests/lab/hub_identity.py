"""Who may connect to the hub of the lab: by a token, checked with the device's key as the registry
has it, or by a TLS client certificate. The reasons are for the log; a client learns a number."""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.verification import (
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from tests.lab.hub_mqtt import Connect

ACCEPTED, PROTOCOL, MALFORMED, NOT_AUTHORIZED = 0, 1, 4, 5  # MQTT 3.1.1, table 3.1
PREFIX = "SharedAccessSignature "
VERSION = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}(-preview)?")


class Refused(Exception):
    """`code` goes into CONNACK."""

    def __init__(self, reason: str, code: int = NOT_AUTHORIZED) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True)
class Verdict:
    code: int
    reason: str
    by: str = ""  # "token" or "certificate"
    expires: int | None = None  # seconds since 1970: when the token ends

    @property
    def accepted(self) -> bool:
        return self.code == ACCEPTED


@dataclass(frozen=True)
class Door:
    """A hub's: its name, devices as its registry has them, CAs that a certificate must lead to
    (none: the thumbprint is enough), and the time."""

    host: str
    devices: Mapping[str, Mapping[str, Any]]
    enrolled: Sequence[x509.Certificate]
    now: float


def judge(door: Door, connect: Connect, chain: Sequence[x509.Certificate]) -> Verdict:
    """`chain`: what the client showed in the TLS handshake, its own first."""
    token = (connect.password or "").startswith(PREFIX)
    by = "token" if token else "certificate"
    expires = _expiry(connect.password or "") if token else None
    try:
        device = _device(door, connect)
        if token:
            _check_token(door, connect.client_id, connect.password or "", device)
        else:
            _check_certificate(door, connect, chain, device)
    except Refused as e:
        return Verdict(e.code, str(e), by, expires)
    return Verdict(ACCEPTED, "accepted", by, expires)


def _device(door: Door, connect: Connect) -> Mapping[str, Any]:
    if connect.level != 4:
        raise Refused(f"protocol level {connect.level}", PROTOCOL)
    hub, _, rest = (connect.user or "").partition("/")
    device_id, _, query = rest.partition("/")
    versions = parse_qs(query.removeprefix("?")).get("api-version", [""])
    if not query.startswith("?") or not VERSION.fullmatch(versions[0]):
        raise Refused(f"user name {connect.user!r}", MALFORMED)
    if hub.lower() != door.host.lower():
        raise Refused(f"user name for the hub {hub!r}")
    if device_id != connect.client_id:
        raise Refused(f"user name for {device_id!r}, client id {connect.client_id!r}")
    if device_id not in door.devices:
        raise Refused("unknown device")
    device = door.devices[device_id]
    if not device["enabled"]:
        raise Refused("disabled device")
    return device


def _fields(token: str) -> dict[str, str]:
    """The values are as sent, which is what was signed."""
    pairs = [pair.partition("=") for pair in token.removeprefix(PREFIX).split("&")]
    fields = {name: value for name, _, value in pairs}
    if len(fields) != len(pairs) or set(fields) != {"sr", "sig", "se"}:
        raise Refused(f"token of {[name for name, _, _ in pairs]}", MALFORMED)
    if not re.fullmatch("[0-9]{1,12}", fields["se"]):
        raise Refused(f"token that expires at {fields['se']!r}", MALFORMED)
    return fields


def _expiry(token: str) -> int | None:
    try:
        return int(_fields(token)["se"])
    except Refused:
        return None


def _check_token(door: Door, device_id: str, token: str, device: Mapping[str, Any]) -> None:
    fields = _fields(token)
    if unquote(fields["sr"]).lower() != f"{door.host}/devices/{device_id}".lower():
        raise Refused(f"token for the audience {unquote(fields['sr'])!r}")
    if device["key"] is None:
        raise Refused("token of a device that has no key")
    key = base64.b64decode(device["key"], validate=True)
    signed = f"{fields['sr']}\n{fields['se']}".encode()
    if not hmac.compare_digest(hmac.digest(key, signed, hashlib.sha256), _signature(fields["sig"])):
        raise Refused("token with another signature")
    if int(fields["se"]) <= door.now:
        raise Refused(f"token expired {door.now - int(fields['se']):.0f} s ago")


def _signature(field: str) -> bytes:
    try:
        return base64.b64decode(unquote(field), validate=True)
    except binascii.Error as e:
        raise Refused("token with a signature that is not base64", MALFORMED) from e


def _check_certificate(
    door: Door,
    connect: Connect,
    chain: Sequence[x509.Certificate],
    device: Mapping[str, Any],
) -> None:
    if connect.password:
        raise Refused("password that is no token", MALFORMED)
    if not chain:
        raise Refused("neither token nor certificate")
    if device["thumbprint"] is None:
        raise Refused("certificate of a device that has no thumbprint")
    if (shown := chain[0].fingerprint(hashes.SHA256()).hex()) != device["thumbprint"].lower():
        raise Refused(f"certificate with another thumbprint: {shown}")
    now = datetime.fromtimestamp(door.now, UTC)
    if not chain[0].not_valid_before_utc <= now <= chain[0].not_valid_after_utc:
        raise Refused("certificate that is out of date")
    if door.enrolled:
        _check_chain(door, chain, now)


def _check_chain(door: Door, chain: Sequence[x509.Certificate], now: datetime) -> None:
    verifier = (
        PolicyBuilder()
        .store(Store(list(door.enrolled)))
        .time(now)
        .extension_policies(
            ee_policy=ExtensionPolicy.permit_all(),
            ca_policy=ExtensionPolicy.webpki_defaults_ca(),
        )
        .build_client_verifier()
    )
    try:
        verifier.verify(chain[0], list(chain[1:]))
    except VerificationError as e:
        raise Refused(f"certificate without a chain to an enrolled CA: {e}") from e
