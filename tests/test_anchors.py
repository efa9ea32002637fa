"""Which CAs become trusted because the old one says so, and which do not."""

import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa

from agent import x509_anchors
from agent.x509_anchors import Accepted, Declined, Unfit
from tests.lab import maker, pki
from tests.lab.rollover import CA_USE, DAY, NOW, YEAR, Ca, certificate, root


def accepted(
    trusted: Sequence[x509.Certificate], *offered: x509.Certificate, now: datetime = NOW
) -> list[x509.Certificate]:
    return [each.anchor for each in x509_anchors.accept(trusted, offered, now)]


def why(trusted: Sequence[x509.Certificate], *offered: x509.Certificate) -> str:
    """Why the first that is refused is refused."""
    judged = x509_anchors.judge(trusted, offered, NOW)
    assert not any(isinstance(each, Accepted) for each in judged)
    return next(each.why for each in judged if isinstance(each, Declined))


@pytest.fixture(scope="module")
def old() -> Ca:
    return root("Root 1")


@pytest.fixture(scope="module")
def new() -> Ca:
    return root("Root 2", ends=NOW + 9 * YEAR)


def by_sha1(signed: x509.Certificate, key: pki.PrivateKey) -> x509.Certificate:
    return x509.load_der_x509_certificate(maker.changed(signed, key, maker.over_sha1))


# --- what is accepted ---


def test_the_four_certificates_of_a_roll_over_bring_the_new_root(old: Ca, new: Ca) -> None:
    """RFC 4210, 4.4: OldWithOld, OldWithNew, NewWithOld, NewWithNew."""
    offered = [old.own, new.vouches(old), old.vouches(new), new.own]
    for order in (offered, offered[::-1]):
        assert accepted([old.own], *order) == [new.own]


def test_a_ca_may_keep_its_name(old: Ca) -> None:
    same = root(old.title)
    assert accepted([old.own], same.own, old.vouches(same)) == [same.own]


def test_a_ca_may_renew_its_certificate_and_keep_its_key(old: Ca) -> None:
    renewed = root(old.title, old.key, ends=NOW + 9 * YEAR)
    assert accepted([old.own], renewed.own) == [renewed.own]


def test_rsa_and_p384_roots_follow_each_other() -> None:
    one = root("Root R", pki.new_key("rsa2048"))
    two = root("Root E", ec.generate_private_key(ec.SECP384R1()), hash=hashes.SHA384())
    assert accepted([one.own], two.own, one.vouches(two)) == [two.own]
    assert accepted([two.own], one.own, two.vouches(one)) == [one.own]


def test_two_roll_overs_at_once_are_followed(old: Ca, new: Ca) -> None:
    third = root("Root 3")
    offered = [third.own, new.vouches(third), new.own, old.vouches(new)]
    assert accepted([old.own], *offered) == [third.own, new.own]


def test_what_is_trusted_already_is_not_accepted_again(old: Ca, new: Ca) -> None:
    assert accepted([old.own, new.own], old.own, new.own, old.vouches(new)) == []


def test_a_pinned_ca_that_is_no_root_may_have_a_new_root_signed_for(old: Ca, new: Ca) -> None:
    """Each certificate of a trust file is an anchor (RFC 7030, 3.6.1)."""
    pinned = Ca("Issuing", pki.new_key(), old.own)
    own = old.vouches(pinned)
    assert accepted([own], new.own, pinned.vouches(new)) == [new.own]


def test_limits_that_the_new_root_keeps_to_do_not_hinder_it() -> None:
    bounds = [(x509.NameConstraints([x509.DNSName("lab.test")], None), True)]
    old, same = (root("Root", length=1, extensions=bounds) for _ in "12")
    by_old = old.vouches(same, length=1, extensions=bounds)
    assert accepted([old.own], same.own, by_old) == [same.own]


# --- attacks ---


def test_a_root_alone_proves_nothing(old: Ca, new: Ca) -> None:
    assert "no CA that is trusted" in why([old.own], new.own)


def test_the_new_ones_word_for_the_old_one_proves_nothing(old: Ca, new: Ca) -> None:
    assert "no CA that is trusted" in why([old.own], new.own, new.vouches(old), old.own)


def test_a_ca_below_the_trusted_one_cannot_vouch(old: Ca, new: Ca) -> None:
    between = Ca("Between", pki.new_key(), old.own)
    own = old.vouches(between)
    assert "no CA that is trusted" in why([old.own], new.own, between.vouches(new), own)
    assert accepted([own], new.own, between.vouches(new)) == [new.own]  # pinned itself


def test_a_ca_below_the_trusted_one_does_not_make_itself_a_root(old: Ca) -> None:
    """It shows a certificate of its own making, and as NewWithOld the one by which it is below: one
    that keeps it short of what its root may do, as such ones do."""
    below, uses = Ca("Issuing", pki.new_key(), old.own), x509.ExtendedKeyUsage([pki.CLIENT])
    short: list[dict[str, Any]] = [{"length": 0}, {"extensions": [(uses, False)]}]
    for bounds in short:
        own, twin = old.vouches(below, **bounds), root(below.title, below.key, **bounds)
        assert "than a successor would" in why([old.own], own, twin.own)


def test_the_same_name_with_another_key_is_another_ca(old: Ca, new: Ca) -> None:
    impostor = root(new.title)
    assert "no CA that is trusted" in why([old.own], impostor.own, old.vouches(new))
    assert "no CA that is trusted" in why([old.own], root(old.title).own)


def test_the_same_key_under_another_name_is_another_ca(old: Ca, new: Ca) -> None:
    renamed = root("Root X", new.key)
    assert "no CA that is trusted" in why([old.own], renamed.own, old.vouches(new))


def test_a_root_that_another_key_signed_is_none(old: Ca, new: Ca) -> None:
    forged = certificate(new.title, new.key, new.title, pki.new_key())
    assert "its own key" in why([old.own], forged, old.vouches(new))


def test_who_is_no_ca_cannot_vouch(old: Ca, new: Ca) -> None:
    leaf = Ca("Leaf", pki.new_key(), old.own)
    for own in (
        old.vouches(leaf, is_ca=False, use=pki.usage(ca=False)),
        old.vouches(leaf, is_ca=None),
        old.vouches(leaf, use=pki.usage(ca=False)),
    ):
        assert accepted([old.own], new.own, leaf.vouches(new), own) == []
        assert accepted([own], new.own, leaf.vouches(new)) == []  # pinned, as a server's may be


def test_to_sign_it_as_no_ca_is_not_to_vouch_for_a_ca(old: Ca, new: Ca) -> None:
    for wrong in (
        old.vouches(new, is_ca=False, use=pki.usage(ca=False)),
        old.vouches(new, is_ca=None),
    ):
        assert "it is no CA's" in why([old.own], new.own, wrong)
    for use in (pki.usage(ca=False), None):
        assert "may not sign" in why([old.own], new.own, old.vouches(new, use=use))


def test_a_leaf_that_signed_itself_is_no_anchor(old: Ca) -> None:
    leaf = root("Leaf", is_ca=False, use=pki.usage(ca=False))
    assert "no CA's" in why([old.own], leaf.own, old.vouches(leaf))
    v1_like = root("Leaf", is_ca=None, use=None)
    assert "no CA's" in why([old.own], v1_like.own, old.vouches(v1_like))
    other_use = root("Leaf", use=pki.usage(ca=False))
    assert "may not sign" in why([old.own], other_use.own, old.vouches(other_use))


def test_an_anchor_that_is_expired_vouches_for_nobody(new: Ca) -> None:
    old = root("Root 1", ends=NOW - DAY)
    offered = [new.own, old.vouches(new), root(old.title, old.key).own]
    assert accepted([old.own], *offered) == []
    assert accepted([old.own], *offered, now=NOW - 2 * DAY) == [new.own, offered[2]]


def test_nobody_is_vouched_for_before_or_after_the_time(old: Ca, new: Ca) -> None:
    wrong: list[dict[str, Any]] = [{"starts": NOW + DAY}, {"ends": NOW - DAY}]
    for dates in wrong:
        assert accepted([old.own], new.own, old.vouches(new, **dates)) == []
        other = root("Root 3", **dates)
        assert "not now" in why([old.own], other.own, old.vouches(other))


def test_who_may_have_no_cas_below_it_cannot_vouch_for_one(new: Ca) -> None:
    old = root("Root 1", length=0)
    assert accepted([old.own], new.own, old.vouches(new)) == []
    bound = root("Root 3", length=0)
    assert accepted([old.own], bound.own, old.vouches(bound, length=0)) == []
    itself = root("Root 1", old.key, length=0)
    assert accepted([old.own], itself.own) == [itself.own]


def test_a_root_with_fewer_levels_does_not_get_more_by_a_new_one(new: Ca) -> None:
    old = root("Root 1", length=1)
    same = root("Root 1", length=2)
    assert "path length" in why([old.own], new.own, old.vouches(new))
    assert "path length" in why([old.own], same.own, old.vouches(same))
    renewed = root("Root 1", old.key)
    assert "path length" in why([old.own], renewed.own)


def test_what_bounds_the_old_ones_names_or_uses_is_not_shaken_off(old: Ca, new: Ca) -> None:
    names = x509.NameConstraints([x509.DNSName("lab.test")], None)
    uses = x509.ExtendedKeyUsage([pki.CLIENT])
    for bound in (names, uses):
        tight = old.vouches(new, extensions=[(bound, False)])
        assert "does not keep to" in why([old.own], new.own, tight)
        short = root("Root 1", extensions=[(bound, False)])
        assert "does not keep to" in why([short.own], new.own, short.vouches(new))
    other = root("Root 3", extensions=[(names, True)])
    by_old = old.vouches(other, extensions=[(names, True)])
    assert "only name certain others" in why([old.own], other.own, by_old)


@pytest.mark.parametrize("kind", ["rsa1024", "p192", "k1", "dsa"])
def test_no_weak_or_odd_key_becomes_an_anchor(old: Ca, kind: str) -> None:
    weak: dict[str, Callable[[], Any]] = {
        "rsa1024": lambda: rsa.generate_private_key(65537, 1024),  # noqa: S505
        "p192": lambda: ec.generate_private_key(ec.SECP192R1()),
        "k1": lambda: ec.generate_private_key(ec.SECP256K1()),
        "dsa": lambda: dsa.generate_private_key(2048),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cryptography names the old curves deprecated
        ca = root("Weak", weak[kind]())
        assert "too weak" in why([old.own], ca.own, old.vouches(ca))


def test_sha_1_vouches_for_nobody(old: Ca, new: Ca) -> None:
    rsa_ca = root("Root 3", pki.new_key("rsa2048"))
    weakly = by_sha1(rsa_ca.own, rsa_ca.key)
    assert "hash" in why([old.own], weakly, old.vouches(rsa_ca))
    assert accepted([rsa_ca.own], new.own, by_sha1(rsa_ca.vouches(new), rsa_ca.key)) == []
    assert accepted([rsa_ca.own], new.own, rsa_ca.vouches(new)) == [new.own]


def test_a_ca_below_is_not_made_an_anchor(old: Ca) -> None:
    """Its place is below, and it goes when those above it do."""
    below = Ca("Issuing", pki.new_key(), old.own)
    assert x509_anchors.judge([old.own], [old.vouches(below), old.own], NOW) == []


def test_thousands_of_certificates_are_not_even_looked_at(old: Ca, new: Ca) -> None:
    with pytest.raises(Unfit, match="3000 certificates"):
        accepted([old.own], *[new.own] * 3000)


def test_the_most_that_is_looked_at_is_bounded_work(old: Ca) -> None:
    """All of one name and key, each of which might stand for each other; and a ring."""
    key = pki.new_key()
    many = [root("Many", key).own for _ in range(x509_anchors.LIMIT)]
    assert accepted([old.own], *many) == []
    ring = [Ca(f"Ring {n}", pki.new_key(), old.own) for n in range(8)]
    edges = [a.vouches(b) for a in ring for b in ring][: x509_anchors.LIMIT]
    assert accepted([old.own], *edges) == []


def test_extensions_that_make_no_sense_spoil_only_their_own_certificate(old: Ca, new: Ca) -> None:
    key_usage, unknown = x509.ObjectIdentifier("2.5.29.15"), x509.ObjectIdentifier("1.3.9.9")
    garbled = [(x509.UnrecognizedExtension(key_usage, b"\xff\xff\xff"), True)]
    odd = [(x509.UnrecognizedExtension(unknown, b"\x05\x00"), True)]
    nonsense = root("Nonsense", use=None, extensions=garbled)
    critical = root("Critical", extensions=odd)
    offered = [nonsense.own, old.vouches(nonsense), critical.own, old.vouches(critical)]
    assert accepted([old.own], *offered) == []
    assert accepted([old.own], *offered, new.own, old.vouches(new)) == [new.own]
    for extensions in (garbled, odd):
        by_old = old.vouches(
            new, use=None if extensions is garbled else CA_USE, extensions=extensions
        )
        assert accepted([old.own], new.own, by_old) == []


# --- and later ---


def test_a_proof_outlives_the_certificates_it_is_made_of(old: Ca, new: Ca) -> None:
    third = root("Root 3")
    first = x509_anchors.accept([old.own], [new.own, old.vouches(new)], NOW)
    second = x509_anchors.accept([new.own], [third.own, new.vouches(third)], NOW + YEAR)
    assert x509_anchors.proven([*second, *first], [old.own]) == [*second, *first]
    assert x509_anchors.proven(second, [old.own]) == []
    assert x509_anchors.proven([*second, *first], [root("Root 9").own]) == []


def test_a_proof_that_was_tampered_with_is_none(old: Ca, new: Ca) -> None:
    (good,) = x509_anchors.accept([old.own], [new.own, old.vouches(new)], NOW)
    evil = root("Root 2")
    forgeries = [
        Accepted(evil.own, good.path, good.at),
        Accepted(evil.own, (evil.own, *good.path), good.at),
        Accepted(evil.own, (evil.vouches(evil), old.own), good.at),
        Accepted(good.anchor, (old.own,), good.at),
        Accepted(good.anchor, good.path, NOW - 2 * YEAR),
    ]
    for forged in forgeries:
        assert x509_anchors.proven([forged], [old.own]) == []
