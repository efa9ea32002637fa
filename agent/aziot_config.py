"""`/etc/aziot/config.toml`, the one file IoT Edge is configured by, brought to say what we want.

The file is the operator's, too: agent image, hostname, comments. So only the keys we answer for
are set, everything else stays where it is; what an earlier run of ours put in and is no longer
wanted goes away. Shapes are those of `super_config.rs` of iot-identity-service and iotedge 1.6.
serde ignores what it does not know there, and silently drops a certificate/key pair of which it
cannot parse one half: nothing would tell us of a mistake.
"""

import re
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.errors import AziotConfigInvalid
from agent.toml_edit import Key, edit


@dataclass(frozen=True, kw_only=True)
class Keystore:
    """The PKCS#11 token that aziot-keyd uses, also for the keys it makes itself."""

    library: Path
    token: str
    pin: str = field(repr=False)

    def uri(self, label: str | None = None) -> str:
        """RFC 7512: of the key with this CKA_LABEL, or of the token. Contains the PIN."""
        key = "" if label is None else f";object={percent(label)}"
        return f"pkcs11:token={percent(self.token)}{key}?pin-value={percent(self.pin)}"


@dataclass(frozen=True, kw_only=True)
class Renewal:
    """When a certificate is renewed: "80%" of its life, or "30day", "90min" before its end."""

    threshold: str = "80%"
    retry: str = "4%"
    rotate_key: bool = True

    def table(self) -> dict[str, Any]:
        """All three: the services have defaults for none or for all of them."""
        return {"rotate_key": self.rotate_key, "threshold": self.threshold, "retry": self.retry}


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """A certificate, and the URI of its key: `Keystore.uri(label)`, or `Path.as_uri()`."""

    certificate: Path
    key: str = field(repr=False)

    def table(self, prefix: str = "") -> dict[str, Any]:
        certificate = self.certificate.as_uri()
        return {f"{prefix}identity_cert": certificate, f"{prefix}identity_pk": self.key}


@dataclass(frozen=True, kw_only=True)
class Basic:
    username: str
    password: str = field(repr=False)

    def table(self) -> dict[str, Any]:
        return {"username": self.username, "password": self.password}


@dataclass(frozen=True, kw_only=True)
class Est:
    """Where certd gets certificates: base URL, PEM files that vouch for the server, our credential.

    A key pair (mutual TLS by the LDevID) is always handed over as *bootstrap* identity: certd gets
    itself a certificate with it, renews that by `renewal`, and has something to fall back to when
    it is expired. As plain identity certd would overwrite the LDevID's file, and be lost for good
    on the day it expires.
    """

    url: str
    auth: KeyPair | Basic
    trust: tuple[Path, ...] = ()
    renewal: Renewal = Renewal()


@dataclass(frozen=True, kw_only=True)
class Issued:
    """DPS sees an operational certificate that certd gets from `Desired.est`.

    `renewal` None: never renewed (an individual enrolment is for one certificate).
    """

    renewal: Renewal | None = Renewal()


@dataclass(frozen=True, kw_only=True)
class TpmAttestation:
    """DPS sees the endorsement key, through aziot-tpmd. `tcti` as tpm2-tss writes it."""

    tcti: str = "device"
    owner_auth: str = field(default="", repr=False)
    endorsement_auth: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class EdgeCa:
    """The CA for modules: from EST under this common name, or self-made for so many days."""

    common_name: str | None = None
    days: int = 90
    renewal: Renewal = Renewal()


@dataclass(frozen=True, kw_only=True)
class Desired:
    """What the file must say. None: not ours to say, the operator's settings stay.

    A `KeyPair` as identity: DPS sees that very certificate (the LDevID). The hostname is left
    alone on purpose: once modules run, iotedge refuses to change it.
    """

    registration_id: str
    id_scope: str
    identity: Issued | KeyPair | TpmAttestation
    global_endpoint: str = "https://global.azure-devices-provisioning.net/"
    est: Est | None = None
    keystore: Keystore | None = None
    edge_ca: EdgeCa | None = None

    def secrets(self) -> frozenset[str]:
        """What must not be quoted in a message, although the file holds it, in both spellings."""
        found = {self.keystore.pin} if self.keystore else set()
        if self.est and isinstance(self.est.auth, Basic):
            found.add(self.est.auth.password)
        if isinstance(self.identity, TpmAttestation):
            found |= {self.identity.owner_auth, self.identity.endorsement_auth}
        return frozenset({*found, *map(percent, found)} - {""})


def percent(text: str) -> str:
    """Everything but [A-Za-z0-9] as %XX of its UTF-8, as the services themselves write it."""
    return re.sub("[^A-Za-z0-9]", lambda c: "".join(f"%{each:02X}" for each in c[0].encode()), text)


def render(existing: bytes, desired: Desired, path: Path) -> bytes:
    """The text for `path`, which now holds `existing` (empty if there is none): UTF-8 TOML.

    Rendering what was rendered changes no byte. Raises AziotConfigInvalid if `existing` is no TOML.
    """
    before, body = _open(existing, path)
    wanted = dict(_wanted(desired))
    areas = [area for area in _AREAS if area in map(_area, wanted)]
    gone = [key for key in _OURS if key not in wanted and _area(key) in {*areas, *before}]
    return f"{_HEAD}{', '.join(areas)}\n{edit(body, wanted, gone)}".encode()


def released(existing: bytes, path: Path, also: Collection[str] = ()) -> bytes:
    """The text of `path` without what we answer for by its first line, and `also` (areas()). Raises
    AziotConfigInvalid if it is no TOML."""
    before, body = _open(existing, path)
    before.update(also)
    text = edit(body, {}, [key for key in (*_OURS, *_ALWAYS) if _area(key) in before]).rstrip()
    return (f"{text}\n".encode() if text else b"") if before else existing


def secrets_in(existing: bytes) -> dict[str, str]:
    """The secrets a file holds already: EST 'password', TPM 'owner' and 'endorsement' auth."""
    try:
        tree = tomllib.loads(existing.decode())
        est = tree.get("cert_issuance", {}).get("est", {}).get("auth", {})
        auths = tree.get("tpm", {}).get("hierarchy_authorization", {})
    except (ValueError, AttributeError):  # no TOML, or not of this shape
        return {}
    found = {"password": est.get("password"), **auths}
    return {name: text for name, text in found.items() if isinstance(text, str)}


def backup_for(path: Path) -> Path | None:
    """Where to copy what is at `path` before it is replaced; None if nothing would be lost.

    The operator's own file goes to `*.before-tpm2cloud`, once and for ever; later states, which
    may hold edits of hers, to `*.previous`. Both may hold secrets: mode 0600.
    """
    if not path.exists():
        return None
    now, first = path.read_bytes(), path.with_name(f"{path.name}.before-tpm2cloud")
    if not first.exists() and not now.startswith(_HEAD.encode()):
        return first
    kept = first.exists() and first.read_bytes() == now
    return None if kept else path.with_name(f"{path.name}.previous")


# --- what we want, key by key --------------------------------------------------------------------

_ATTESTATION = ("provisioning", "attestation")
_EST = ("cert_issuance", "est")
_TPM_AUTH = ("tpm", "hierarchy_authorization")

# The file's first line: what we answer for in it, and so may remove.
_HEAD = "# Kept up to date by tpm2cloud: "
_AREAS = ("provisioning", "cert_issuance.est", "aziot_keys", "edge_ca", "tpm", ".".join(_TPM_AUTH))

# What we set in one case or another, and what means the same: gone where it is not wanted.
_OURS: tuple[Key, ...] = (
    ("provisioning", "connection_string"),
    ("provisioning", "iothub_hostname"),
    ("provisioning", "device_id"),
    ("provisioning", "authentication"),
    (*_ATTESTATION, "symmetric_key"),
    (*_ATTESTATION, "identity_cert"),
    (*_ATTESTATION, "identity_pk"),
    (*_EST, "trusted_certs"),
    (*_EST, "auth"),
    (*_EST, "identity_auto_renew"),
    (*_EST, "urls", "default"),
    (*_EST, "urls", "device-id"),  # would win over the default
    (*_EST, "urls", "device-id-temp"),
    ("aziot_keys", "pkcs11_lib_path"),
    ("aziot_keys", "pkcs11_base_slot"),
    ("edge_ca",),
    ("tpm", "tcti"),
    _TPM_AUTH,
)
_NAMED = ("source", "global_endpoint", "id_scope", "attestation")  # set in any case
_ALWAYS = [("provisioning", name) for name in _NAMED]


def _wanted(desired: Desired) -> Iterator[tuple[Key, Any]]:
    yield ("provisioning", "source"), "dps"
    yield ("provisioning", "global_endpoint"), desired.global_endpoint
    yield ("provisioning", "id_scope"), desired.id_scope
    for name, value in _attestation(desired).items():
        yield (*_ATTESTATION, name), value
    if desired.est is not None:
        yield from _est(desired.est)
    if desired.keystore is not None:
        yield ("aziot_keys", "pkcs11_lib_path"), str(desired.keystore.library)
        yield ("aziot_keys", "pkcs11_base_slot"), desired.keystore.uri()
    if desired.edge_ca is not None:
        yield ("edge_ca",), _edge_ca(desired.edge_ca)
    if isinstance(desired.identity, TpmAttestation):
        yield from _tpm(desired.identity)


def _attestation(desired: Desired) -> dict[str, Any]:
    named = {"registration_id": desired.registration_id}
    match desired.identity:
        case TpmAttestation():
            return {"method": "tpm", **named}
        case KeyPair() as pair:
            return {"method": "x509", **named, **pair.table()}
        case Issued(renewal=renewal):
            cert = {"method": "est", "common_name": desired.registration_id}
            renew = {} if renewal is None else {"auto_renew": renewal.table()}
            return {"method": "x509", **named, "identity_cert": {**cert, **renew}}


def _est(est: Est) -> Iterator[tuple[Key, Any]]:
    if est.trust:
        yield (*_EST, "trusted_certs"), [path.as_uri() for path in est.trust]
    if isinstance(est.auth, Basic):
        yield (*_EST, "auth"), est.auth.table()
    else:
        yield (*_EST, "auth"), est.auth.table("bootstrap_")
        yield (*_EST, "identity_auto_renew"), est.renewal.table()
    yield (*_EST, "urls", "default"), est.url


def _edge_ca(ca: EdgeCa) -> dict[str, Any]:
    issued = {"method": "est", "common_name": ca.common_name}
    made = {"auto_generated_edge_ca_expiry_days": ca.days}
    return {**(made if ca.common_name is None else issued), "auto_renew": ca.renewal.table()}


def _tpm(tpm: TpmAttestation) -> Iterator[tuple[Key, Any]]:
    yield ("tpm", "tcti"), tpm.tcti
    auths = {"owner": tpm.owner_auth, "endorsement": tpm.endorsement_auth}
    if given := {name: auth for name, auth in auths.items() if auth}:
        yield _TPM_AUTH, given


# --- and how it gets into the text ---------------------------------------------------------------


def _open(existing: bytes, path: Path) -> tuple[set[str], str]:
    """The areas we answered for until now, and the text below our line."""
    try:
        text = existing.decode()
        tomllib.loads(text)
    except ValueError as e:
        raise AziotConfigInvalid(f"cannot read '{path}': it is no TOML: {e}", path=path) from e
    if not text.startswith(_HEAD):
        return set(), text
    line, _, body = text.partition("\n")
    return set(line.removeprefix(_HEAD).strip().split(", ")), body


def _area(key: Key) -> str:
    dotted = ".".join(key)
    return max((area for area in _AREAS if f"{dotted}.".startswith(f"{area}.")), key=len)
