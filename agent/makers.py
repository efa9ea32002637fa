"""The directories of TPM makers' CA certificates: who may vouch for a TPM (docs/tpm-makers.md)."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509 as crypto
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509 import Certificate

from agent import x509, x509_der
from agent.errors import TrustUnreadable
from agent.x509_der import Issued

HASHES = {"sha256", "sha384", "sha512"}
CURVES = {"secp256r1", "secp384r1", "secp521r1"}


def known(directories: Iterable[Path]) -> list[Issued]:
    """What the *.pem, *.crt, *.cer and *.der files of the directories hold; a directory that is not
    there holds nothing. Raises TrustUnreadable, also for a file without a certificate."""
    return [each for file in files(directories, x509.SUFFIXES) for each in read(file)]


def files(directories: Iterable[Path], suffixes: set[str]) -> Iterator[Path]:
    """Raises TrustUnreadable."""
    for directory in directories:
        try:
            found = sorted(directory.iterdir())
        except FileNotFoundError:
            continue
        except OSError as e:
            why = f"cannot look for CA files in '{directory}': {e.strerror}"
            raise TrustUnreadable(why, path=directory) from e
        yield from (file for file in found if file.suffix.lower() in suffixes)


def read(file: Path) -> list[Issued]:
    """The certificates of a file: one or more, PEM, or one, DER. Raises TrustUnreadable."""
    return x509.of_file(file, x509_der.pem_or_der)


def roots(found: Iterable[Issued]) -> list[Issued]:
    """Those that are trusted by being there: CAs that have issued themselves."""
    return [each for each in found if each.self_issued and is_ca(each.read)]


def is_ca(certificate: Certificate) -> bool:
    basic = x509.extension(certificate, crypto.BasicConstraints)
    usage = x509.extension(certificate, crypto.KeyUsage)
    return bool(basic and basic.ca) and (usage is None or usage.key_cert_sign)


def key(certificate: Certificate) -> str:
    match certificate.public_key():
        case RSAPublicKey() as rsa:
            return f"RSA-{rsa.key_size}"
        case EllipticCurvePublicKey() as ec:
            return f"ECC {ec.curve.name}"
    return type(certificate.public_key()).__name__


def objection(certificate: Certificate) -> str | None:
    """Why it should not vouch for anything now."""
    if not is_ca(certificate):
        return "it is no CA's"
    if weakness := _weakness(certificate):
        return weakness
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc < now:
        return f"it was valid until {certificate.not_valid_after_utc:%Y-%m-%d}"
    if certificate.not_valid_before_utc > now + x509.SKEW:
        return f"it is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M}Z"
    return None


def _weakness(certificate: Certificate) -> str | None:
    """Less than 112 bits of security (NIST SP 800-57 part 1, table 2), or nothing we know of."""
    match certificate.public_key():
        case RSAPublicKey() as rsa if rsa.key_size >= 2048:
            pass
        case EllipticCurvePublicKey() as ec if ec.curve.name in CURVES:
            pass
        case _:
            return f"its key is too weak, or of no known kind ({key(certificate)})"
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return "it is signed by an algorithm of no known kind"
    if algorithm is None or algorithm.name not in HASHES:
        return f"it is signed over {algorithm.name if algorithm else 'no digest'}"
    return None
