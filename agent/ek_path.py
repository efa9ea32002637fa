"""Who vouches for an EK certificate: the path to a maker's root, and why there is none."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from agent import makers, network, store, x509, x509_crl, x509_der, x509_ek, x509_path
from agent.errors import (
    AgentError,
    ClockImplausible,
    EkCertificateExpired,
    EkCertificateRevoked,
    EkCertificateUntrusted,
    EkIssuerExpired,
    EkIssuerMissing,
    EkRevocationUnknown,
    EkRootExpired,
    TpmError,
)
from agent.x509_der import Issued
from agent.x509_path import Broken

if TYPE_CHECKING:
    from agent.http import Proxy

log = logging.getLogger(__name__)

FETCHES = 4  # intermediates that are missing one above the other; makers have up to three
KEPT = ".cer"


class ToBeFetched(Exception):
    """A certificate may be had from a server, which was not to be asked now; the text is a URL."""


@dataclass(frozen=True)
class Trust:
    """Whose TPMs are genuine.

    `roots`: directories of CA certificates (docs/tpm-makers.md); those that are self-signed are
    trusted. `crls`: directories of *.crl. `fetch_from`: "HOST" or "HOST:PORT", from which an issuer
    that a certificate names may be fetched; it is believed only as far as it leads to a root.
    `proxy`: through what; asked for when it is needed. `cache`: the directory that keeps what was
    fetched, and was of use.
    """

    roots: Sequence[Path]
    crls: Sequence[Path] = ()
    fetch_from: Sequence[str] = ()
    cache: Path | None = None
    proxy: "Callable[[], Proxy | None]" = lambda: None


def find(leaf: Issued, beside: Sequence[Issued], trust: Trust, *, fetch: bool) -> list[Issued]:
    """Leaf first, root last. `beside`: CA certificates that came with the leaf. Raises
    EkCertificateUntrusted and its children, Ek...Expired, ClockImplausible, TrustUnreadable; what
    fetch.get raises; ToBeFetched instead of it, without `fetch`."""
    known = makers.known(trust.roots)
    roots = makers.roots(known)
    if not roots:
        where = ", ".join(map(str, trust.roots))
        raise EkCertificateUntrusted(
            f"cannot verify the EK certificate: no root of a TPM maker is in {where}"
        )
    others, fetched = [*known, *beside, *_cached(trust.cache)], list[Issued]()
    while True:
        try:
            path = x509_path.find(leaf, roots, [*others, *fetched])
            break
        except ValueError as e:
            raise EkCertificateUntrusted(f"cannot verify the EK certificate: {e}") from e
        except Broken as e:
            more = _issuer(e, trust, fetch=fetch) if len(fetched) < FETCHES else []
            if not more or set(more) <= {*others, *fetched}:
                raise _verdict(e, roots, trust) from e
            fetched += more
    _keep([each for each in fetched if each in path], trust.cache)
    return path


# --- what is missing ---


def _issuer(broken: Broken, trust: Trust, *, fetch: bool) -> list[Issued]:
    """The certificate at which the path ends says where that of its issuer is; if it may be got
    from there, it is."""
    if not broken.no_issuer or not trust.fetch_from:
        return []
    from agent import fetch as fetching  # with all that HTTP takes: most devices never do

    for url in x509_ek.issuer_urls(broken.path[-1].read):
        if fetching.allowed(url, trust.fetch_from):
            if not fetch:
                raise ToBeFetched(url)
            return _got(broken, url, trust)
    return []


def _got(broken: Broken, url: str, trust: Trust) -> list[Issued]:
    from agent import fetch as fetching

    try:
        return _certificates(network.get(url, trust.fetch_from, trust.proxy()))
    except (fetching.NotThere, ValueError) as e:
        raise _missing(broken, url, str(e)) from e


def _certificates(data: bytes) -> list[Issued]:
    """RFC 5280, 4.2.2.1: DER, or PKCS #7 "certs-only"; makers serve PEM, too. Raises ValueError."""
    try:
        return x509_der.pem_or_der(data)
    except ValueError:
        try:
            found = pkcs7.load_der_pkcs7_certificates(data)
        except UnsupportedAlgorithm as e:
            raise ValueError(f"it is no certificate: {e}") from e
        return [x509_der.read(each.public_bytes(Encoding.DER)) for each in found]


def _cached(cache: Path | None) -> list[Issued]:
    """What was fetched before. It proves itself as it did then; a damaged file is fetched anew."""
    found = []
    for file in makers.files([cache] if cache else [], {KEPT}):
        data = store.read(file) or b""
        if sha256(data).hexdigest() != file.stem:
            log.debug("'%s' is damaged, and not used", file)
            continue
        found.append(x509_der.read(data))
    return found


def _keep(used: Sequence[Issued], cache: Path | None) -> None:
    if cache is None or not used:
        return
    with store.permitted(cache):
        cache.mkdir(mode=0o755, parents=True, exist_ok=True)
    for each in used:
        store.write(cache / f"{each.fingerprint}{KEPT}", each.der, mode=0o644)


# --- why there is none ---


def _verdict(e: Broken, roots: Sequence[Issued], trust: Trust) -> AgentError:
    """Of the certificate at which OpenSSL stopped: a diagnosis of a refusal, it allows nothing."""
    if e.code in (x509_path.EXPIRED, x509_path.NOT_YET_VALID):
        return _out_of_date(e, roots)
    if not e.no_issuer:
        why = f"'{x509.describe(e.at.read)}': {e.why}"
        return EkCertificateUntrusted(f"cannot verify the EK certificate: {why}")
    for url in x509_ek.issuer_urls(e.path[-1].read):
        return _missing(e, url, "it is not here, and tpm.fetch_from does not allow to fetch it")
    where = ", ".join(map(str, trust.roots))
    why = f"its issuer '{_issuer_of(e)}' does not lead to one of them ({e.why})"
    return EkCertificateUntrusted(
        f"cannot verify the EK certificate with the roots in {where}: {why}"
    )


def _issuer_of(e: Broken) -> str:
    return str(e.path[-1].read.issuer.rfc4514_string())


def _missing(e: Broken, url: str, why: str) -> EkIssuerMissing:
    place, host = _place(url)
    what = f"the certificate of '{_issuer_of(e)}' is needed, from {place}"
    return EkIssuerMissing(f"cannot verify the EK certificate: {what}: {why}", url=place, host=host)


def _place(url: str) -> tuple[str, str]:
    """What a certificate says, fit for a terminal, and the host in it."""
    from agent.http import host_of, printable

    try:
        return printable(url), printable(host_of(url))
    except ValueError:  # it only looks like one
        return printable(url), "?"


def _out_of_date(e: Broken, roots: Sequence[Issued]) -> AgentError:
    now, at = datetime.now(UTC), e.at.read
    begins, ends = at.not_valid_before_utc, at.not_valid_after_utc
    whose = "cannot verify the EK certificate: " + (
        "it" if e.depth == 0 else f"'{x509.describe(at)}'"
    )
    if e.code == x509_path.NOT_YET_VALID:
        when = f"is valid from {begins:%Y-%m-%d %H:%M}Z, but it is {now:%Y-%m-%d %H:%M}Z"
        return ClockImplausible(f"{whose} {when}")
    kind: type[TpmError] = EkCertificateExpired if e.depth == 0 else EkIssuerExpired
    if e.at in roots:
        kind = EkRootExpired
    return kind(f"{whose} was valid until {ends:%Y-%m-%d %H:%M}Z, but it is {now:%Y-%m-%d %H:%M}Z")


# --- revoked? ---


def revocation(path: Sequence[Issued], trust: Trust, *, strict: bool) -> str:
    """A phrase. Raises EkCertificateRevoked; if `strict`, also EkRevocationUnknown where CRLs are
    configured, and none that is current is there though the CA publishes one."""
    if not trust.crls:
        return "revocation unknown (no CRL is configured)"
    lists = [x509_crl.read(file) for file in makers.files(trust.crls, x509_crl.SUFFIXES)]
    known = x509_crl.status(path, lists, datetime.now(UTC))
    if known.revoked:
        why = f"cannot trust the EK certificate: {known.text}"
        raise EkCertificateRevoked(why, path=known.revoked.path)
    if strict and known.missing:
        why = f"cannot trust the EK certificate: revocation {known.text}"
        raise EkRevocationUnknown(why, url=_place(known.missing)[0])
    return known.text if known.text == x509_crl.CURRENT else f"revocation {known.text}"
