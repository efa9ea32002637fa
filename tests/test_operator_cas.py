"""Of the CAs that EST gives, which issue to devices: whom they certify, the group lets in."""

from datetime import timedelta

import pytest

from agent.errors import OperationalCaUnusable
from agent.operator import cas
from tests.lab import pki


def test_of_two_cas_that_issue_the_newer_comes_first_and_of_three_none_is_chosen() -> None:
    root = pki.root("Root")
    below = [root.below(f"CA {n}").certificate for n in range(3)]
    chosen = cas.issuing([*below[:2], root.certificate])
    assert {cas.name(each) for each in chosen} == {cas.name(each) for each in below[:2]}
    assert chosen[0].not_valid_before_utc >= chosen[1].not_valid_before_utc
    with pytest.raises(OperationalCaUnusable):
        cas.issuing([*below, root.certificate])


def test_while_a_root_rolls_over_both_are_let_in() -> None:
    """RFC 4210, 4.4: the new root, the old one, and each one's word for the other."""
    for names in (("Root", "Root 2"), ("Root", "Root")):
        old, new = pki.root(names[0], starts=timedelta(days=-9)), pki.root(names[1])
        crossed = [
            above.issue(below.key.public_key(), below.certificate.subject, ca=True, usages=())
            for above, below in ((old, new), (new, old))
        ]
        found = cas.issuing([old.certificate, *crossed, new.certificate])
        assert found == [new.certificate, old.certificate]


def test_a_root_beside_the_ca_that_issues_is_not_let_in_by_a_guess() -> None:
    operations = pki.authority("Operations CA")
    stranger = pki.root("TLS root of the server").certificate
    with pytest.raises(OperationalCaUnusable, match="TLS root of the server"):
        cas.issuing([*operations.chain, stranger])
