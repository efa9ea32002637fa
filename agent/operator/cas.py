"""The operational CA's certificates, from EST under an explicit trust anchor."""

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import Certificate

from agent.errors import OperationalCaUnusable
from agent.est import Est
from agent.http import Https
from agent.operator import settings
from agent.x509 import describe, extension, fingerprint, spki

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
    """Those that issue to devices: no other CA is below them. The newest first; two, while an old
    CA goes. A root that stands beside a CA with one above it may be anybody's (of the server's TLS,
    say), and is not let in by a guess. Raises OperationalCaUnusable."""
    each_once = _each_once(found)
    above = {each.issuer for each in each_once if each.issuer != each.subject}
    last = [each for each in each_once if each.subject not in above]
    if not 1 <= len(last) <= SLOTS or len({_self_signed(each) for each in last}) > 1:
        names = "; ".join(map(describe, last))
        raise OperationalCaUnusable(
            f"cannot tell which CA issues to devices: of those that EST gives, {len(last)} have "
            f"none below them; an enrolment group takes {SLOTS}, and roots or CAs below one, not "
            f"both: {names}"
        )
    return sorted(last, key=lambda each: each.not_valid_before_utc, reverse=True)


def _each_once(found: Sequence[Certificate]) -> list[Certificate]:
    """One certificate for each CA, which is a name and a key: its own word for itself before that
    of another, as an old root's for its successor, who is none below it; then the newest."""
    order = sorted(found, key=lambda each: (_self_signed(each), each.not_valid_before_utc))
    return list({(each.subject, spki(each.public_key())): each for each in order}.values())


def _self_signed(certificate: Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def name(certificate: Certificate) -> str:
    """What it is called in DPS: up to 64 letters, digits and -; the same for the same."""
    return f"tpm2cloud-{fingerprint(certificate)[:32]}"


def is_at(thumbprint: str | None, certificate: Certificate) -> bool:
    """Whether what DPS has is this one, as far as it says so: SHA-1 or SHA-256, hex."""
    known = {40: hashes.SHA1(), 64: hashes.SHA256()}  # noqa: S303 (what Azure shows)
    said = (thumbprint or "").lower()
    return len(said) not in known or certificate.fingerprint(known[len(said)]).hex() == said
