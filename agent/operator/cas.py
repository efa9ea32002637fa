"""The operational CA's certificates, from EST under an explicit trust anchor."""

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509 import Certificate

from agent.errors import OperationalCaUnusable
from agent.est import Est
from agent.http import Https
from agent.operator import settings
from agent.x509 import describe, extension, fingerprint

SLOTS = 2  # of an enrolment group: primary and secondary


def fetched(est: settings.Est) -> list[Certificate]:
    """The CA certificates of /cacerts (RFC 7030, 4.1), all of them sound. Raises
    OperationalCaUnusable, and what `Est.cacerts` does."""
    with Https(est.trust, timeout=est.timeout.total_seconds()) as https:
        found = Est(https, est.url).cacerts()
    wanted = {fingerprint(each): each for each in found if _is_ca(each)}
    if not wanted:
        raise OperationalCaUnusable(f"cannot use what {est.url} gives: no CA certificate in it")
    for each in wanted.values():
        _in_time(each)
    return [wanted[name] for name in sorted(wanted)]


def _is_ca(certificate: Certificate) -> bool:
    basic = extension(certificate, x509.BasicConstraints)
    return basic is not None and basic.ca


def _in_time(certificate: Certificate) -> None:
    if not certificate.not_valid_before_utc <= datetime.now(UTC) < certificate.not_valid_after_utc:
        until = certificate.not_valid_after_utc.date()
        raise OperationalCaUnusable(
            f"cannot use the certificate of {describe(certificate)}: out of date, it is valid from "
            f"{certificate.not_valid_before_utc.date()} to {until}"
        )


def issuing(found: Sequence[Certificate]) -> list[Certificate]:
    """Those that issue to devices: no other of them is below theirs. The newest first; two, while
    an old CA goes. Raises OperationalCaUnusable."""
    above = {each.issuer for each in found if each.issuer != each.subject}
    last = [each for each in found if each.subject not in above]
    if not 1 <= len(last) <= SLOTS:
        names = "; ".join(map(describe, last))
        raise OperationalCaUnusable(
            f"cannot tell which CA issues to devices: {len(last)} of those that EST gives have "
            f"none below them, an enrolment group takes {SLOTS}: {names}"
        )
    return sorted(last, key=lambda each: each.not_valid_before_utc, reverse=True)


def name(certificate: Certificate) -> str:
    """What it is called in DPS: up to 64 letters, digits and -; the same for the same."""
    return f"tpm2cloud-{fingerprint(certificate)[:32]}"
