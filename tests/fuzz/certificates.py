"""Certificates, requests and revocation lists that others have made."""

from collections.abc import Callable

from cryptography.x509 import Certificate

from agent import identity_csv, makers, tcg_csr, x509, x509_crl, x509_der, x509_ek, x509_issued
from agent.errors import ConfigError, Refused
from agent.evidence import _opened
from agent.steps import idevid
from tests.fuzz.readers import NOW, file, refused

LOOKS: tuple[Callable[[Certificate], object], ...] = (
    x509.describe,
    x509.common_name,
    x509_ek.maker,
    x509_ek.misuse,
    x509_ek.says_it_is_for_an_ek,
    lambda certificate: list(x509_ek.issuer_urls(certificate)),
    makers.objection,
    makers.is_ca,
)


def asked(certificate: Certificate, *nonsense: type[Exception]) -> None:
    """All that is asked of one before it is trusted; `nonsense`: what the looks may raise."""
    for look in LOOKS:
        with refused(*nonsense):
            look(certificate)
    with refused(Refused):
        x509_issued.check(certificate, "device-0001", NOW)
    with refused(x509.Untrusted):
        x509.chain(certificate, [], [certificate], NOW)


def in_nv(data: bytes) -> None:
    """What a TPM holds as an EK's or an IDevID's."""
    with refused(ValueError):
        asked(idevid.parsed(data), *x509.NONSENSE)
    with refused(ValueError):
        for each in x509_der.sequence(data):
            asked(each.read)


def in_a_file(data: bytes) -> None:
    """CAs of the configuration, makers' roots, our own."""
    path = file(data)
    with refused(ConfigError):
        for each in makers.read(path):
            makers.objection(each.read)
    with refused(ConfigError):
        x509.oldest_not_before(x509.anchors(path))
    for kept in x509.kept(data):
        asked(kept, *x509.NONSENSE)


def revocation_list(data: bytes) -> None:
    with refused(ConfigError):
        x509_crl.read(file(data))


def tcg_request(data: bytes) -> None:
    with refused(Refused):
        tcg_csr.decode_content(tcg_csr.decode(data).signed)


def ca_challenge(data: bytes) -> None:
    """tpm2_makecredential's file."""
    with refused(Refused):
        _opened(data)


def export(data: bytes) -> None:
    """What boards in the factory, or devices, said of themselves."""
    with refused(ConfigError):
        identity_csv.merge([file(data)])
