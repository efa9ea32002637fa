"""The operational CA's certificates, from EST under an explicit trust anchor."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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

log = logging.getLogger(__name__)
SLOTS = 2  # of an enrolment group: primary and secondary


@dataclass(frozen=True)
class Operational:
    """`trusted`: what DPS is to have; of these `issuing` issue to devices, the newest first."""

    trusted: list[Certificate]
    issuing: list[Certificate]


def fetched(est: settings.Est) -> Operational:
    """Of /cacerts (RFC 7030, 4.1). Raises OperationalCaUnusable, and what `Est.cacerts` does."""
    with Https(est.trust, timeout=est.timeout.total_seconds()) as https:
        found = Est(https, est.url).cacerts()
    return chosen(found, est.fingerprints)


def chosen(found: Sequence[Certificate], named: Sequence[str] = ()) -> Operational:
    """Those whose SHA-256 is `named`, and no others; without, all that can issue: what cannot is
    told and left out. Raises OperationalCaUnusable."""
    every = {fingerprint(each): each for each in found}
    useless = {name: why for name, each in every.items() if (why := _useless(each))}
    if named:
        return _named(every, useless, named)
    for name, why in useless.items():
        log.warning("of what EST gives, left out: %s: %s", told(every[name]), why)
    trusted = [every[name] for name in sorted(every) if name not in useless]
    if not trusted:
        raise OperationalCaUnusable(
            f"cannot use what EST gives: no CA in it that can issue now: {_all(every.values())}"
        )
    return Operational(trusted, issuing([each for each in every.values() if _is_ca(each)]))


def _named(
    every: dict[str, Certificate], useless: dict[str, str], named: Sequence[str]
) -> Operational:
    if missing := [name for name in named if name not in every]:
        raise OperationalCaUnusable(
            f"cannot use est.issuing: EST does not give {', '.join(missing)}; it gives "
            f"{_all(every.values())}"
        )
    if bad := [f"{told(every[name])}: {useless[name]}" for name in named if name in useless]:
        raise OperationalCaUnusable(f"cannot use est.issuing: {'; '.join(bad)}")
    picked = _newest_first(every[name] for name in named)
    return Operational(picked, picked)


def told(certificate: Certificate) -> str:
    """For a person to compare with what the CA's owner says."""
    return (
        f"{describe(certificate)} (SHA-256 {fingerprint(certificate)}, valid from "
        f"{certificate.not_valid_before_utc.date()} to {certificate.not_valid_after_utc.date()})"
    )


def _all(certificates: Iterable[Certificate]) -> str:
    return "; ".join(map(told, certificates)) or "nothing"


def _useless(certificate: Certificate) -> str:
    """Why it cannot issue anything now, or ''."""
    if not _is_ca(certificate):
        return "it is no CA's"
    return "" if _in_time(certificate) else "out of date"


def _is_ca(certificate: Certificate) -> bool:
    basic = extension(certificate, x509.BasicConstraints)
    return basic is not None and basic.ca


def _in_time(certificate: Certificate) -> bool:
    now = datetime.now(UTC)
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def issuing(found: Sequence[Certificate]) -> list[Certificate]:
    """Those that issue to devices: no other CA is below them. The newest first; two, while an old
    CA goes. One that is out of date is none, but still is below those above it, which do not come
    into its place. A root that stands beside a CA with one above it may be anybody's (of the
    server's TLS, say), and is not let in by a guess. Raises OperationalCaUnusable."""
    each_once = _each_once(found)
    above = {each.issuer for each in each_once if each.issuer != each.subject}
    last = [each for each in each_once if each.subject not in above and _in_time(each)]
    if not 1 <= len(last) <= SLOTS or len({_self_signed(each) for each in last}) > 1:
        raise OperationalCaUnusable(
            f"cannot tell which CA issues to devices: of those that EST gives, {len(last)} are in "
            f"date and have none below them; an enrolment group takes {SLOTS}, and roots or CAs "
            f"below one, not both; est.issuing may say which: {_all(last or each_once)}"
        )
    return _newest_first(last)


def _newest_first(certificates: Iterable[Certificate]) -> list[Certificate]:
    return sorted(certificates, key=lambda each: each.not_valid_before_utc, reverse=True)


def _each_once(found: Sequence[Certificate]) -> list[Certificate]:
    """One certificate for each CA, which is a name and a key: one that is in date, then its own
    word for itself before that of another, as an old root's for its successor, who is none below
    it; then the newest."""

    def worth(each: Certificate) -> tuple[bool, bool, datetime]:
        return _in_time(each), _self_signed(each), each.not_valid_before_utc

    return list({(x.subject, spki(x.public_key())): x for x in sorted(found, key=worth)}.values())


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
