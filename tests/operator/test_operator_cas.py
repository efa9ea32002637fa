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


def test_what_cannot_issue_is_left_out_by_name(caplog: pytest.LogCaptureFixture) -> None:
    operations = pki.authority("Operations CA")
    ended = pki.root("Root of old", starts=timedelta(days=-9), lasts=timedelta(days=8)).certificate
    leaf = operations.issue(pki.new_key().public_key(), "est.example.com")
    found = cas.chosen([*operations.chain, ended, leaf])
    assert set(found.trusted) == set(operations.chain)
    assert found.issuing == [operations.certificate]
    for each in (ended, leaf):
        [line] = [x for x in caplog.messages if pki.fingerprint(each) in x]
        assert cas.told(each) in line
    with pytest.raises(OperationalCaUnusable, match="no CA in it that can issue now: CN=Root of"):
        cas.chosen([ended, leaf])


def test_in_the_place_of_a_ca_that_is_out_of_date_comes_none_above_it() -> None:
    root = pki.root("Root", starts=timedelta(days=-9))
    below = root.below("CA", starts=timedelta(days=-9), lasts=timedelta(days=8))
    with pytest.raises(OperationalCaUnusable, match="0 are in date and have none below them"):
        cas.chosen([below.certificate, root.certificate])


def test_who_says_which_ca_issues_gets_those_and_no_others() -> None:
    root = pki.root("Root")
    below = [root.below(f"CA {n}").certificate for n in range(3)]
    given = [*below, root.certificate]
    for picked in ([below[1]], [root.certificate], below[1:]):
        found = cas.chosen(given, [pki.fingerprint(each) for each in picked])
        assert set(found.trusted) == set(found.issuing) == set(picked)
    with pytest.raises(OperationalCaUnusable, match="does not give 00; it gives CN=CA") as refused:
        cas.chosen(given, [pki.fingerprint(below[0]), "00"])
    assert all(cas.told(each) in str(refused.value) for each in given)
    ended = pki.root("Old", starts=timedelta(days=-9), lasts=timedelta(days=8)).certificate
    with pytest.raises(OperationalCaUnusable, match=r"CN=Old .*: out of date"):
        cas.chosen([*given, ended], [pki.fingerprint(ended)])
