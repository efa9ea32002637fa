"""Who may register: enrolment groups (a CA each) and individual enrolments (a TPM, a certificate).

The individual one counts where there is one, whatever group its certificate belongs to.
"""

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import (
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from tests.lab.dps_behaviour import Error, version


@dataclass(frozen=True)
class Entry:
    """What is enrolled, for one device."""

    registration_id: str
    device_id: str
    enabled: bool
    hub: str | None = None
    ek: bytes | None = None  # TPM2B_PUBLIC
    thumbprint: str | None = None  # SHA-256, hex


class Enrolments:
    """Groups of the CAs in `groups` (PEM files), and what the file `changes` says, among it
    further groups: {"groups": {name: PEM}}."""

    def __init__(self, groups: list[str], changes: Path) -> None:
        loaded = {name: x509.load_pem_x509_certificates(Path(name).read_bytes()) for name in groups}
        self._groups = {ca: name for name, cas in loaded.items() for ca in cas}
        self._file, self._seen = changes, (0, 0)
        self._said: dict[str, dict[str, Any]] = {}
        self._added: dict[x509.Certificate, str] = {}

    def follow(self) -> None:
        if self._file.exists() and (now := version(self._file)) != self._seen:
            self._said, self._seen = json.loads(self._file.read_text()), now
            added = self._said.get("groups", {}).items()
            load = x509.load_pem_x509_certificates
            self._added = {ca: name for name, pem in added for ca in load(pem.encode())}

    def individual(self, registration_id: str) -> Entry | None:
        """That of this registration id, in any case of letters."""
        found = self._said.get("individual", {}).get(registration_id.lower())
        if found is None:
            return None
        name, ek = found["registration_id"], found["ek"]
        return Entry(
            registration_id=name,
            device_id=found["device_id"] or name,
            enabled=found["enabled"],
            hub=found["hub"],
            ek=None if ek is None else base64.b64decode(ek),
            thumbprint=found["thumbprint"],
        )

    def _moved(self, registration_id: str) -> str | None:
        hub: str | None = self._said.get("moved", {}).get(registration_id.lower())
        return hub

    def by_certificate(self, chain: list[x509.Certificate], registration_id: str) -> Entry:
        """Raise 401 unless these certificates, leaf first, prove the registration id."""
        if not chain:
            raise Error(401, 401002, "Unauthorized: no client certificate")
        leaf = chain[0]
        names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if [n.value for n in names] != [registration_id]:
            subject = leaf.subject.rfc4514_string()
            words = f"subject '{subject}' is not registration id '{registration_id}'"
            raise Error(401, 401002, f"Unauthorized: {words}")
        entry = self.individual(registration_id)
        if entry is not None:
            check_thumbprint(leaf, entry)
            return entry
        groups = self._groups | self._added
        group = groups[chained(chain, list(groups))]
        enabled = group not in self._said.get("disabled groups", [])
        return Entry(registration_id, registration_id, enabled, self._moved(registration_id))


def check_thumbprint(leaf: x509.Certificate, entry: Entry) -> None:
    """Raise 401 unless it is the one certificate that is enrolled, and in date."""
    if entry.thumbprint is None:
        raise Error(401, 401002, "Unauthorized: the enrolment is for a TPM")
    if thumbprint(leaf) != entry.thumbprint:
        raise Error(401, 401002, "Unauthorized: another certificate is enrolled")
    if not leaf.not_valid_before_utc <= datetime.now(UTC) <= leaf.not_valid_after_utc:
        raise Error(401, 401002, "Unauthorized: the certificate is not valid at this time")
    check_usage(leaf)


def thumbprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def chained(chain: list[x509.Certificate], enrolled: list[x509.Certificate]) -> x509.Certificate:
    """The enrolled CA this chain leads to; raises 401."""
    if not enrolled:
        raise Error(401, 401002, "Unauthorized: no CA is enrolled")
    verifier = (
        PolicyBuilder()
        .store(Store(enrolled))
        .extension_policies(
            ee_policy=ExtensionPolicy.permit_all(),
            ca_policy=ExtensionPolicy.webpki_defaults_ca(),
        )
        .build_client_verifier()
    )
    try:
        found = verifier.verify(chain[0], chain[1:])
    except VerificationError as e:
        raise Error(401, 401002, f"Unauthorized: no chain to an enrolled CA: {e}") from e
    check_usage(chain[0])
    return found.chain[-1]


def check_usage(leaf: x509.Certificate) -> None:
    """Raise 401 unless it is for clients."""
    try:
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as e:
        raise Error(401, 401002, f"Unauthorized: no chain to an enrolled CA: {e}") from e
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usages:
        raise Error(401, 401002, "Unauthorized: not a certificate for client authentication")
