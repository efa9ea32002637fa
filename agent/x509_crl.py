"""Lists of revoked certificates: what is known of a path, from files (RFC 5280, 5 and 6.3).

Nothing is fetched. A list counts if the CA that issued the certificate has signed it; one that is
out of date still tells of what was revoked by then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509 import Certificate, CertificateRevocationList, RevokedCertificate

from agent.errors import TrustUnreadable
from agent.x509 import NONSENSE, describe, extension
from agent.x509_der import Issued

SUFFIXES = {".crl"}
HASHES = {"sha256", "sha384", "sha512"}
CURRENT = "not revoked"


@dataclass(frozen=True)
class Crl:
    """A list, and the file that it is in."""

    path: Path
    read: CertificateRevocationList


@dataclass(frozen=True)
class Status:
    """What is known of a path, as a phrase. `revoked`: the list that says so. `missing`: where the
    current list is, of which the certificate itself says that it is published, and we have none."""

    text: str
    revoked: Crl | None = None
    missing: str | None = None


def read(file: Path) -> Crl:
    """One list, DER or PEM. Raises TrustUnreadable."""
    try:
        data = file.read_bytes()
        pem = b"-----BEGIN" in data
        found = x509.load_pem_x509_crl(data) if pem else x509.load_der_x509_crl(data)
        _ = found.issuer, found.extensions, found.next_update_utc
    except (OSError, *NONSENSE) as e:
        why = e.strerror if isinstance(e, OSError) else f"it holds no CRL ({e})"
        raise TrustUnreadable(f"cannot read the CRL file '{file}': {why}", path=file) from e
    return Crl(file, found)


def status(path: Sequence[Issued], lists: Sequence[Crl], at: datetime) -> Status:
    """Of all but the root, which only it itself could revoke. `path`: leaf first, and verified."""
    seen = [_one(each, issuer, lists, at) for each, issuer in pairwise(path)]
    return min(seen, key=lambda s: (not s.revoked, not s.missing, s.text == CURRENT))


def _one(certificate: Issued, issuer: Issued, lists: Sequence[Crl], at: datetime) -> Status:
    whose, serial = describe(certificate.read), certificate.read.serial_number
    lists = [each for each in lists if _tells_of(each.read, certificate.read, issuer.read)]
    for crl in lists:
        entry = _entry(crl.read, serial)
        if entry is not None and not _taken_back(entry):
            when = f"{entry.revocation_date_utc:%Y-%m-%d}"
            return Status(f"'{whose}' was revoked on {when}", revoked=crl)
    if any(_current(each.read, at) for each in lists):
        return Status(CURRENT)
    ends = [each.read.next_update_utc for each in lists if each.read.next_update_utc]
    of = f"of '{describe(issuer.read)}'"
    why = f"the CRL {of} was good until {max(ends):%Y-%m-%d}" if ends else f"no CRL {of}"
    return Status(f"unknown ({why})", missing=_published(certificate.read))


def _entry(crl: CertificateRevocationList, serial: int) -> RevokedCertificate | None:
    """A serial number that the maker writes as a negative one (see x509_der) is so in his list."""
    found = crl.get_revoked_certificate_by_serial_number(serial)
    if found is not None or serial.bit_length() % 8:
        return found
    negative = serial - (1 << serial.bit_length())
    return next((entry for entry in crl if entry.serial_number == negative), None)


def _tells_of(crl: CertificateRevocationList, its: Certificate, issuer: Certificate) -> bool:
    """RFC 5280, 6.3.3 b to g: issued and signed by the same CA, for such certificates."""
    usage = extension(issuer, x509.KeyUsage)
    algorithm = crl.signature_hash_algorithm
    return (
        crl.issuer == its.issuer
        and (usage is None or usage.crl_sign)
        and algorithm is not None
        and algorithm.name in HASHES
        and all(_in_scope(each, its) for each in crl.extensions if each.critical)
        and _signed(crl, issuer)
    )


def _in_scope(critical: x509.Extension[x509.ExtensionType], its: Certificate) -> bool:
    """Others' lists, partial ones, and what we do not know are as good as none."""
    scope = critical.value
    if not isinstance(scope, x509.IssuingDistributionPoint):
        return False
    basic = extension(its, x509.BasicConstraints)
    wrong_kind = (
        scope.only_contains_user_certs if basic and basic.ca else scope.only_contains_ca_certs
    )
    partial = scope.only_some_reasons or scope.indirect_crl or scope.only_contains_attribute_certs
    return not wrong_kind and not partial


def _signed(crl: CertificateRevocationList, issuer: Certificate) -> bool:
    try:
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]  # else TypeError
    except (TypeError, UnsupportedAlgorithm):
        return False


def _current(crl: CertificateRevocationList, at: datetime) -> bool:
    return crl.last_update_utc <= at and (
        crl.next_update_utc is not None and at < crl.next_update_utc
    )


def _taken_back(entry: RevokedCertificate) -> bool:
    try:
        reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    except x509.ExtensionNotFound:
        return False
    return reason == x509.ReasonFlags.remove_from_crl


def _published(certificate: Certificate) -> str | None:
    points = extension(certificate, x509.CRLDistributionPoints) or ()
    names = [name for point in points for name in point.full_name or ()]
    found = [n.value for n in names if isinstance(n, x509.UniformResourceIdentifier)]
    return next((url for url in found if url.startswith("http")), found[0] if found else None)
