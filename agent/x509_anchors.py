"""Which CA certificates that a server offers become trust anchors: a CA's roll-over.

An EST server's /cacerts answer may bring new anchors (RFC 7030, 4.1.3). A CA that changes its key
then shows four certificates (RFC 4210, 4.4): OldWithOld, which we trust; NewWithNew, which we are
to trust; NewWithOld, the old key's word for the new one; and OldWithNew, which proves nothing to
those who trust the old one. So: a self-signed CA certificate is accepted if a trusted anchor that
is valid now has itself signed a CA certificate for the same name and key. That may be NewWithOld,
or, where a CA renews its certificate and keeps its key, the offered one itself. Who offers it does
not matter: what counts is signatures.

The word of CAs below an anchor does not count: each of them could make itself, or whomever it
signs for, outlive its root. Nor is everyone a successor that an anchor has signed for. NewWithOld
looks just like the certificate of a CA below; but who may have fewer CAs below it than the anchor,
or may not do all that it may, is such a one, and not meant to take its place. Where a CA has signed
for others without any bound, they cannot be told from its successor.

To be accepted gives one new power, to outlive the old anchor; in all else the new one must be as
bound as the old one. A root of its own is bound by nothing but what it says itself, so it must say
so: path length, name constraints and extended key usages of both.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509 import (
    BasicConstraints,
    Certificate,
    ExtendedKeyUsage,
    KeyUsage,
    NameConstraints,
)

from agent import x509

LIMIT = 64  # certificates in one answer; CAs in the middle of a roll-over show four to ten
RSA_BITS = 2048
CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
Signed = Mapping[Certificate, Certificate]  # by which anchor
HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


class Unfit(Exception):
    """A certificate does not become an anchor; the text says why."""


@dataclass(frozen=True)
class Accepted:
    """A new anchor, and its proof: `path` begins with the certificate that a trusted CA signed for
    its name and key, and ends with the anchor that was trusted; both were valid `at` that time."""

    anchor: Certificate
    path: tuple[Certificate, ...]
    at: datetime


@dataclass(frozen=True)
class Declined:
    """A self-signed certificate that was offered and is not trusted, and why."""

    certificate: Certificate
    why: str


_Found = dict[Certificate, Accepted | Declined]


def accept(
    trusted: Sequence[Certificate], offered: Sequence[Certificate], now: datetime
) -> list[Accepted]:
    """What becomes an anchor. `trusted`: the anchors so far; none of them is in the answer."""
    return [each for each in judge(trusted, offered, now) if isinstance(each, Accepted)]


def judge(
    trusted: Sequence[Certificate], offered: Sequence[Certificate], now: datetime
) -> list[Accepted | Declined]:
    """Of each self-signed CA certificate that is not trusted yet, what becomes of it; where several
    roll-overs are offered at once, one by one.

    Others in `offered` may help; those that make no sense are passed over. Raises Unfit if there
    are more than LIMIT: each may cost many signatures.
    """
    if len(offered) > LIMIT:
        raise Unfit(f"{len(offered)} certificates are offered: more than {LIMIT} no CA has")
    readable = [c for c in dict.fromkeys(offered) if _readable(c)]
    new = [c for c in readable if _is_new(c, trusted)]
    found, above = _Found(), list(trusted)
    signed: Signed = {}
    while above:
        signed = {**_signed_by(above, readable, now), **signed}
        left = [c for c in new if not isinstance(found.get(c), Accepted)]
        found |= {c: _judged(c, signed, now) for c in left}
        above = [c for c in left if isinstance(found[c], Accepted)]
    return [found[c] for c in new]


def proven(accepted: Sequence[Accepted], trusted: Sequence[Certificate]) -> list[Accepted]:
    """Of what was once accepted, that whose proof still stands: it leads to `trusted` anchors, or
    to others of these that do. Each is judged as of when it was accepted, so a proof outlives the
    certificates that it is made of, and changes with what is trusted now, alone."""
    known, good, left = list(trusted), list[Accepted](), list(accepted)
    while found := [each for each in left if _still(each, known)]:
        good += found
        known += [each.anchor for each in found]
        left = [each for each in left if each not in found]
    return [each for each in accepted if each in good]


def _still(each: Accepted, trusted: Sequence[Certificate]) -> bool:
    known = [each.anchor, *each.path]
    if not all(map(_readable, known)):
        return False
    signed = _signed_by(trusted, known, each.at)
    return isinstance(_judged(each.anchor, signed, each.at), Accepted)


def _is_new(certificate: Certificate, trusted: Sequence[Certificate]) -> bool:
    return certificate.subject == certificate.issuer and certificate not in trusted


def _judged(new: Certificate, signed: Signed, at: datetime) -> Accepted | Declined:
    try:
        fit(new, at)
        return Accepted(new, _path(new, signed, at), at)
    except (Unfit, x509.Untrusted, *x509.NONSENSE) as e:
        return Declined(new, str(e))


# --- the certificate itself ---


def _readable(certificate: Certificate) -> bool:
    """Are those parts legible that are looked at here? All of it is parsed when it is used."""
    try:
        _ = certificate.subject, certificate.issuer, certificate.extensions
        certificate.public_key()
    except x509.NONSENSE:
        return False
    return True


def fit(new: Certificate, at: datetime) -> None:
    """Is this a root CA's certificate, sound and strong, and valid `at` this time? Raises Unfit."""
    if not _valid(new, at):
        start, end = new.not_valid_before_utc, new.not_valid_after_utc
        raise Unfit(f"it is valid from {start:%Y-%m-%d} to {end:%Y-%m-%d}, not now")
    if not _strong(new.public_key()):
        raise Unfit("its key is too weak, or of a kind that is not known")
    if not isinstance(new.signature_hash_algorithm, HASHES):
        raise Unfit("it is signed with a hash that is no longer trusted")
    if not _signed(new, new):
        raise Unfit("it is not signed with its own key")
    _may_issue(new, said=False)
    x509.chain(new, [new], [], at)  # its extensions, as for every certificate here


def _strong(key: CertificatePublicKeyTypes) -> bool:
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= RSA_BITS
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, CURVES)


def _may_issue(certificate: Certificate, *, said: bool) -> None:
    """Raises Unfit. `said`: where no key usage is named none is ruled out, but here a CA has to say
    what it means (RFC 5280, 4.2.1.3: it must)."""
    constraints = x509.extension(certificate, BasicConstraints)
    if constraints is None or not constraints.ca:
        raise Unfit("it is no CA's")
    usage = x509.extension(certificate, KeyUsage)
    if (usage is None and said) or (usage is not None and not usage.key_cert_sign):
        raise Unfit("it may not sign certificates, by its key usage")


# --- and who stands for it ---


def _signed_by(
    trusted: Sequence[Certificate], others: Sequence[Certificate], at: datetime
) -> Signed:
    """Of the others, those that a trusted one has signed, and which one, as far as both are valid;
    each is held against each anchor once at most."""
    above = [c for c in trusted if _valid(c, at)]
    left = [c for c in others if _valid(c, at) and c not in above]
    found = {c: next((a for a in above if _signed(a, c)), None) for c in left}
    return {c: a for c, a in found.items() if a is not None}


def _valid(certificate: Certificate, at: datetime) -> bool:
    return certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc


def _signed(above: Certificate, certificate: Certificate) -> bool:
    if certificate.issuer != above.subject:
        return False
    try:
        certificate.verify_directly_issued_by(above)
    except (InvalidSignature, TypeError, *x509.NONSENSE):
        return False
    return True


def _path(new: Certificate, signed: Signed, at: datetime) -> tuple[Certificate, Certificate]:
    """NewWithOld, or `new` itself, and the trusted anchor. Raises Unfit, x509.Untrusted."""
    failure: Exception | None = None
    for each in _for_same_key(new, signed):
        top = signed[each]
        try:
            _may_issue(each, said=True)
            x509.chain(each, [top], [], at)
            _no_less_bound(new, each, top)
            _no_ca_below(each, top)
            return each, top
        except (Unfit, x509.Untrusted) as e:
            failure = failure or e
    raise failure or Unfit("no CA that is trusted now has signed a certificate for its key")


def _for_same_key(new: Certificate, others: Iterable[Certificate]) -> Iterator[Certificate]:
    key = x509.spki(new.public_key())
    for each in others:
        if each.subject == new.subject and x509.spki(each.public_key()) == key:
            yield each


def _no_ca_below(each: Certificate, top: Certificate) -> None:
    """Raises Unfit if `top` has signed for it as for one below, which it keeps short. Of its own
    name it is no such one."""
    if each.subject == top.subject:
        return
    if _below(each, inf) < _below(top, inf):
        raise Unfit("who stands for it allows it fewer CAs below it than a successor would have")
    usages = [x509.extension(c, ExtendedKeyUsage) for c in (each, top)]
    if usages[0] is not None and usages[0] != usages[1]:
        raise Unfit("who stands for it allows it fewer usages than a successor would have")


def _no_less_bound(new: Certificate, each: Certificate, top: Certificate) -> None:
    """Raises Unfit if `new`, as an anchor, might do what it may not by way of `each` and `top`."""
    if _below(new, inf) > _room(each, top):
        raise Unfit("it does not keep to the path length of those who stand for it")
    for kind in (NameConstraints, ExtendedKeyUsage):
        bounds = [b for c in (each, top) if (b := x509.extension(c, kind)) is not None]
        if any(b != x509.extension(new, kind) for b in bounds):
            raise Unfit(f"it does not keep to the {kind.oid._name} of those who stand for it")
        if bounds and kind is NameConstraints and new.subject != top.subject:
            raise Unfit("those who stand for it may only name certain others")


def _room(each: Certificate, top: Certificate) -> float:
    """How many CAs may follow `each` below `top` (RFC 5280, 6.1.4 l and m); -1: not even it."""
    room = _below(top, inf)
    if each.subject != each.issuer:
        room -= 1
    return -1 if room < 0 else _below(each, room)


def _below(certificate: Certificate, most: float) -> float:
    """The number of CAs below it that it allows, if these are fewer than `most`."""
    constraints = x509.extension(certificate, BasicConstraints)
    length = None if constraints is None else constraints.path_length
    return most if length is None else min(most, length)
