"""What a back office needs to enrol this device; no secret, and nothing is changed.

It is told offline, before any network, with as few rights as can be: what this user may not see, or
what is garbled, is null, with a note; what the device has none of is null, too.
"""

import socket
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding

from agent import __version__, deviceid, ek, x509_der
from agent.config import Config
from agent.deviceid import registration_ids
from agent.errors import (
    AgentError,
    DeviceIdInvalid,
    EkCertificateInvalid,
    IdevidAbsent,
    IdevidInvalid,
    IdevidMismatch,
    NoPermission,
    NvLocked,
    TpmError,
)
from agent.identity_csv import FORMAT, enrolled
from agent.steps import idevid
from agent.tpm import Public, Tpm
from agent.x509_der import Issued

T = TypeVar("T")
Note = Callable[[str], None]
Ek = tuple[int, Issued]  # the NV index, and what is there

UNREADABLE = (
    NvLocked,
    NoPermission,
    EkCertificateInvalid,
    IdevidInvalid,
    IdevidAbsent,
    IdevidMismatch,
)


def gather(
    tpm: Tpm, conf: Config, note: Note, *, configured: bool = True, root: Path = Path("/")
) -> dict[str, Any]:
    """The export, as tpm2cloud(8) describes it. `note` is told what is left out, and why.

    `configured`: whether somebody set device.id; a board without what the default asks for has no
    registration id then, which is no failure.
    """
    found = list(_certificates(tpm, note))
    tcg, azure = _keys(tpm, found, note)
    nameless = () if configured else (DeviceIdInvalid,)
    who = partial(deviceid.resolve, conf.device.id, root, partial(ek.shown, tpm))
    return {
        "format": FORMAT,
        "tpm2cloud": __version__,
        "registration_id": _noted(who, note, NoPermission, *nameless),
        "hostname": socket.gethostname(),
        "serial": _noted(partial(deviceid.serial, root), note, NoPermission) or None,
        "tpm": str(tpm),
        "endorsement_key": tcg,
        "endorsement_key_azure": azure,
        "endorsement_certificates": [{"index": hex(i), **_certificate(c)} for i, c in found],
        "endorsement_chain": [_certificate(c) for c in _chain(tpm, note)],
        "idevid": _noted(partial(_idevid, tpm, conf.idevid.certificate), note, *UNREADABLE),
    }


def _noted(ask: Callable[[], T], note: Note, *kinds: type[AgentError]) -> T | None:
    try:
        return ask()
    except kinds as e:
        note(f"{e}; left out")
        return None


# --- the EK ---


def _certificates(tpm: Tpm, note: Note) -> Iterator[Ek]:
    """All EK certificates in NV."""
    there = set(tpm.nv_indices())
    for index in (kind.index for kind in ek.KINDS if kind.index in there):
        if cert := _noted(partial(_at, tpm, index), note, *UNREADABLE):
            yield index, cert


def _at(tpm: Tpm, index: int) -> Issued | None:
    """Who made it, and what for, is not judged here."""
    if (data := tpm.nv_read(index)) is None:
        return None
    try:
        return x509_der.leading(data)
    except ValueError as e:
        why = f"cannot read the EK certificate at NV {index:#x}: {e}"
        raise EkCertificateInvalid(why, index=hex(index)) from e


def _chain(tpm: Tpm, note: Note) -> list[Issued]:
    return _noted(partial(ek.beside, tpm), note, *UNREADABLE) or []


def _keys(
    tpm: Tpm, certificates: Sequence[Ek], note: Note
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The RSA EK of the TCG's template, and that of the Azure C SDK's, which leaves `unique` empty,
    where the TPM makes another one of it. Each is made anew, but for one whose certificate says
    that the kept one is it: on a discrete chip that takes seconds."""
    kept = tpm.public(ek.DPS_EK.handle)
    certified = [cert.read.public_key() for _, cert in certificates]
    tcg = kept if kept and kept.key in certified else _made(tpm, azure=False)
    azure = _noted(partial(_made, tpm, azure=True), note, TpmError)
    if kept and kept not in (tcg, azure):
        at = f"{ek.DPS_EK.handle:#x} ({kept})"
        note(f"the key at {at} is neither of these EKs, and not told here")
    own = (_certificate(cert) for _, cert in certificates if cert.read.public_key() == tcg.key)
    shown = {**_key(tcg, kept), "certificate": next(own, None)}
    return shown, _key(azure, kept) if azure and azure != tcg else None


def _made(tpm: Tpm, *, azure: bool) -> Public:
    with tpm.ek(ek.DPS_EK.template, azure=azure) as made:
        return made.public


def _key(public: Public, kept: Public | None) -> dict[str, Any]:
    ids = registration_ids(public.blob)
    return {
        "public": b64encode(public.blob).decode(),
        "sha256": ids["sha256_hex"],
        "registration_ids": ids,
        "handle": hex(ek.DPS_EK.handle) if public == kept else None,
    }


# --- certificates ---


def _idevid(tpm: Tpm, file: Path) -> dict[str, Any] | None:
    try:
        cert = idevid.certificate(tpm, file)
    except IdevidAbsent:
        return None
    idevid.check_key(tpm, cert)
    return _certificate(Issued(cert.public_bytes(Encoding.DER), cert))


def _certificate(cert: Issued) -> dict[str, Any]:
    """`pem` has the bytes as they came, though they be no strict DER."""
    return {
        "subject": cert.read.subject.rfc4514_string(),
        "issuer": cert.read.issuer.rfc4514_string(),
        "serial": f"{cert.read.serial_number:x}",
        "not_after": cert.read.not_valid_after_utc.isoformat(),
        "sha256": cert.fingerprint,
        "pem": ssl.DER_cert_to_PEM_cert(cert.der),
    }


# --- for people ---


def as_text(found: dict[str, Any], *, edge: bool = True) -> Iterator[str]:
    """A line for each; the certificates themselves are in the JSON only. `edge`: whether it is to
    be enrolled with IoT Edge."""
    seen = "operational certificate" if edge else "LDevID certificate"
    yield from _lines(found, "")
    yield ""
    yield "To enrol it in DPS by its TPM (individually; DPS has no groups for that):"
    yield f"  {enrolment(found, edge=edge)}"
    yield f"To enrol it by X.509: in a group, on the CA that issues its {seen}."


def _lines(found: Any, at: str) -> Iterator[str]:
    if isinstance(found, dict) and "pem" in found:
        where = f"NV {found['index']}, " if "index" in found else ""
        whose = f"'{found['subject']}', issued by '{found['issuer']}', serial {found['serial']}"
        yield f"{at}: {where}{whose}, until {found['not_after']}"
    elif isinstance(found, dict | list):
        pairs = found.items() if isinstance(found, dict) else enumerate(found)
        for key, value in pairs:
            yield from _lines(value, f"{at}.{key}" if at else str(key))
    else:
        yield f"{at}: {'-' if found is None else found}"


def enrolment(found: dict[str, Any], *, edge: bool = True) -> str:
    """The command (of the Azure CLI's extension azure-iot) that lets this device in by its EK."""
    who, key = enrolled(found)
    return (
        "az iot dps enrollment create --dps-name DPS --resource-group GROUP --attestation-type tpm "
        f"--enrollment-id {who} --device-id {who} --edge-enabled {str(edge).lower()} "
        f"--endorsement-key {key}"
    )
