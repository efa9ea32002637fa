"""Is an EK certificate revoked, as far as files tell?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from agent import ek_path, x509_der
from agent.ek_path import Trust
from agent.errors import EkCertificateRevoked, EkRevocationUnknown, TrustUnreadable
from agent.x509_der import Issued
from tests.lab import maker, pki, shapes
from tests.lab.maker import DAY, Ca
from tests.lab.shapes import MIDDLE, ROOT, TPM, middle


def revocation(
    lists: Sequence[bytes], directory: Path, leaf: x509.Certificate, *, strict: bool = False
) -> str:
    crls = directory / "crls"
    crls.mkdir()
    for n, each in enumerate(lists):
        (crls / f"{n}.crl").write_bytes(each)
    trust = Trust([], [crls])
    above = [x509_der.read(pki.der(each)) for each in (middle(), ROOT.own())]
    path = [Issued(pki.der(leaf), leaf), *above]
    return ek_path.revocation(path, trust, strict=strict)


LEAF = MIDDLE.ek(TPM, (maker.list_at("http://pki.lab.test/ek.crl"), False))
GOOD = [MIDDLE.crl(1, 2, 3), ROOT.crl()]


def test_a_path_of_which_nothing_is_revoked(tmp_path: Path) -> None:
    assert revocation(GOOD, tmp_path, LEAF, strict=True) == "not revoked"


def test_without_lists_it_is_said_that_nothing_is_known(tmp_path: Path) -> None:
    assert ek_path.revocation([], Trust([]), strict=True).startswith("revocation unknown")


def test_a_revoked_ek_certificate_or_one_below_a_revoked_ca(tmp_path: Path) -> None:
    between = x509_der.read(pki.der(middle()))
    lists = [MIDDLE.crl(LEAF.serial_number), ROOT.crl()]
    with pytest.raises(EkCertificateRevoked, match="was revoked on") as raised:
        revocation(lists, tmp_path, LEAF)
    assert str(tmp_path / "crls" / "0.crl") in raised.value.remedy
    path = [x509_der.read(pki.der(LEAF)), between, x509_der.read(pki.der(ROOT.own()))]
    (tmp_path / "crls" / "0.crl").write_bytes(ROOT.crl(between.read.serial_number))
    with pytest.raises(EkCertificateRevoked, match="EK CA 01"):
        ek_path.revocation(path, Trust([], [tmp_path / "crls"]), strict=False)


def test_an_old_list_still_tells_of_what_was_revoked_by_then(tmp_path: Path) -> None:
    with pytest.raises(EkCertificateRevoked):
        revocation([MIDDLE.crl(LEAF.serial_number, starts=-9 * DAY, lasts=DAY)], tmp_path, LEAF)


def test_a_serial_number_that_is_negative_in_the_list_too(tmp_path: Path) -> None:
    leaf = x509_der.read(shapes.negative_serial()[0])
    made = maker.changed(MIDDLE.crl(5, leaf.read.serial_number), MIDDLE.key, maker.negative_entries)
    with pytest.raises(EkCertificateRevoked):
        revocation([made], tmp_path, leaf.read)


SCOPE: dict[str, Any] = {
    "full_name": None, "relative_name": None, "only_contains_user_certs": False,
    "only_contains_ca_certs": False, "only_some_reasons": None, "indirect_crl": False,
    "only_contains_attribute_certs": False,
}  # fmt: skip


def scope(**what: Any) -> x509.IssuingDistributionPoint:
    return x509.IssuingDistributionPoint(**{**SCOPE, **what})


@pytest.mark.parametrize(
    "of_middle",
    [
        [],
        [MIDDLE.crl(starts=-9 * DAY, lasts=DAY)],
        [MIDDLE.crl(starts=DAY)],
        [Ca(MIDDLE.name).crl(LEAF.serial_number)],
        [Ca(pki.name("Other"), MIDDLE.key).crl(LEAF.serial_number)],
        [MIDDLE.crl(LEAF.serial_number, scope=scope(only_contains_ca_certs=True))],
        [MIDDLE.crl(scope=scope(indirect_crl=True))],
    ],
    ids=["none", "stale", "to be", "forged", "another CA's", "of CAs only", "indirect"],
)
def test_a_list_that_does_not_tell_is_as_good_as_none(
    of_middle: list[bytes], tmp_path: Path
) -> None:
    """On a device that is said; in the factory the board is refused."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    lists = [*of_middle, ROOT.crl()]
    assert "unknown" in revocation(lists, tmp_path / "a", LEAF)
    with pytest.raises(EkRevocationUnknown) as raised:
        revocation(lists, tmp_path / "b", LEAF, strict=True)
    assert "http://pki.lab.test/ek.crl" in raised.value.remedy


def test_a_list_for_user_certificates_is_one_for_an_eks(tmp_path: Path) -> None:
    lists = [MIDDLE.crl(scope=scope(only_contains_user_certs=True)), ROOT.crl()]
    assert revocation(lists, tmp_path, LEAF, strict=True) == "not revoked"


def test_where_a_maker_publishes_no_list_none_can_be_asked_for(tmp_path: Path) -> None:
    said = revocation([], tmp_path, MIDDLE.ek(TPM), strict=True)
    assert said.startswith("revocation unknown (no CRL of 'CN=Lab TPM EK CA 01")


def test_a_garbled_list_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TrustUnreadable, match=r"0\.crl"):
        revocation([b"junk"], tmp_path, LEAF)
