"""Who vouches for an EK certificate: real makers' ways of writing them, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import ek_path, x509_der, x509_ek, x509_path
from agent.ek_path import Trust
from agent.errors import (
    AgentError,
    ClockImplausible,
    EkCertificateExpired,
    EkCertificateUntrusted,
    EkIssuerExpired,
    EkIssuerMissing,
    EkRootExpired,
)
from agent.x509_der import Issued
from tests.lab import maker, pki, shapes
from tests.lab.maker import DAY, Ca
from tests.lab.shapes import MIDDLE, ROOT, RSA, TPM, Path3, middle, plain


def judged(path: Path3, directory: Path, **trust: Any) -> list[Issued]:
    leaf, between, root = path
    roots = directory / "roots"
    roots.mkdir()
    (roots / "root.cer").write_bytes(root)
    found = ek_path.find(
        x509_der.leading(leaf + b"\xff" * 16),
        x509_der.sequence(b"".join(between)),
        Trust([roots], **trust),
        fetch=False,
    )
    assert [each.der for each in found] == [leaf, *between, root]
    return found


SHAPES = (
    shapes.infineon, shapes.st, shapes.amd, shapes.nuvoton, shapes.intel, shapes.forever,
    shapes.silent, shapes.pss, shapes.p521, shapes.deep, shapes.negative_serial,
)  # fmt: skip
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)


@each_shape
def test_a_certificate_that_a_real_maker_could_have_made_is_believed(
    shape: Callable[[], Path3], tmp_path: Path
) -> None:
    path = judged(shape(), tmp_path)
    assert path[0].read.public_key() == TPM
    if shape is not shapes.silent:
        assert str(x509_ek.maker(path[0].read)) == "LAB Lab TPM id:00010002"
    assert x509_ek.misuse(path[0].read) is None


@each_shape
def test_whatever_its_encoding_the_signature_is_over_the_very_bytes(
    shape: Callable[[], Path3], tmp_path: Path
) -> None:
    leaf, between, root = shape()
    with pytest.raises((EkCertificateUntrusted, ValueError)):
        judged((maker.broken(leaf), between, root), tmp_path)
    other = shape()[2] if shape in (shapes.nuvoton, shapes.p521) else pki.der(Ca(ROOT.name).own())
    (tmp_path / "roots" / "root.cer").unlink()
    (tmp_path / "roots").rmdir()
    with pytest.raises(EkCertificateUntrusted):
        judged((leaf, between, other), tmp_path)


# --- refused ---


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (shapes.sha1, "digest algorithm too weak"),
        (shapes.rsa1024, "key too weak"),
        (shapes.too_long, "path length constraint exceeded"),
        (shapes.by_no_ca, "invalid CA certificate"),
        (shapes.may_not_issue, "invalid CA certificate"),
        (shapes.unknown_critical, "unhandled critical extension"),
        (shapes.another_of_that_name, "certificate signature failure"),
        (shapes.other_names_only, "permitted subtree violation"),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_a_path_that_must_not_be_believed(
    path: Callable[[], Path3], why: str, tmp_path: Path
) -> None:
    with pytest.raises(EkCertificateUntrusted, match=why):
        judged(path(), tmp_path)


def test_several_roots_of_one_name_are_all_tried(tmp_path: Path) -> None:
    """AMD has two of the same name, Nuvoton has renewed one."""
    for n, other in enumerate((Ca(ROOT.name), Ca(ROOT.name, pki.new_key("rsa2048")))):
        (tmp_path / f"{n}.crt").write_bytes(pki.der(other.own()))
    (tmp_path / "x.pem").write_bytes(pki.pem(ROOT.own()))
    leaf, between = x509_der.read(pki.der(MIDDLE.ek(TPM))), x509_der.read(pki.der(middle()))
    found = ek_path.find(leaf, [between], Trust([tmp_path]), fetch=False)
    assert found[-1].read.public_key() == ROOT.key.public_key()


def test_a_maker_is_unknown_if_his_root_is_not_there_and_none_comes_with_the_tpm(
    tmp_path: Path,
) -> None:
    leaf = x509_der.read(pki.der(MIDDLE.ek(TPM)))
    beside = [x509_der.read(pki.der(each)) for each in (middle(), ROOT.own())]
    with pytest.raises(EkCertificateUntrusted, match="no root of a TPM maker is in"):
        ek_path.find(leaf, beside, Trust([tmp_path]), fetch=False)
    (tmp_path / "other.pem").write_bytes(pki.pem(Ca(pki.name("Other")).own()))
    with pytest.raises(EkCertificateUntrusted, match="does not lead to one of them") as raised:
        ek_path.find(leaf, beside, Trust([tmp_path]), fetch=False)
    assert "import-root" in raised.value.remedy


def test_an_intermediate_in_the_directory_is_no_root(tmp_path: Path) -> None:
    """It may be there, and leads nowhere without its root."""
    (tmp_path / "middle.pem").write_bytes(pki.pem(middle()))
    (tmp_path / "other.pem").write_bytes(pki.pem(Ca(pki.name("Other")).own()))
    with pytest.raises(EkCertificateUntrusted):
        ek_path.find(x509_der.read(pki.der(MIDDLE.ek(TPM))), [], Trust([tmp_path]), fetch=False)


# --- dates ---

PAST: Any = {"starts": -9 * DAY, "lasts": 2 * DAY}
FUTURE: Any = {"starts": 2 * DAY}


@pytest.mark.parametrize(
    ("path", "error", "what"),
    [
        (lambda: plain(MIDDLE.ek(TPM, **PAST)), EkCertificateExpired, "it was valid until"),
        (lambda: plain(between=middle(**PAST)), EkIssuerExpired, "'CN=Lab TPM EK CA 01,C=XX' was"),
        (lambda: plain(root=ROOT.own(**PAST)), EkRootExpired, "'CN=Lab TPM Root CA,C=XX' was"),
        (lambda: plain(MIDDLE.ek(TPM, **FUTURE)), ClockImplausible, "it is valid from"),
        (lambda: plain(between=middle(**FUTURE)), ClockImplausible, "EK CA 01,C=XX' is valid from"),
        (lambda: plain(root=ROOT.own(**FUTURE)), ClockImplausible, "Root CA,C=XX' is valid from"),
    ],
    ids=["leaf", "intermediate", "root", "leaf to be", "intermediate to be", "root to be"],
)
def test_what_is_out_of_date_is_named(
    path: Callable[[], Path3], error: type[AgentError], what: str, tmp_path: Path
) -> None:
    with pytest.raises(AgentError, match=what) as raised:
        judged(path(), tmp_path)
    assert type(raised.value) is error


def test_an_out_of_date_one_beside_its_successor_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_bytes(pki.pem(middle(**PAST), ROOT.own(**PAST)))
    (tmp_path / "b.pem").write_bytes(pki.pem(middle(), ROOT.own()))
    leaf = x509_der.read(pki.der(MIDDLE.ek(TPM)))
    assert len(ek_path.find(leaf, [], Trust([tmp_path]), fetch=False)) == 3


# --- what could be fetched ---


def test_an_issuer_that_is_elsewhere_is_told_with_its_place(tmp_path: Path) -> None:
    url = "http://pki.lab.test/ca01.crt"
    leaf = MIDDLE.ek(TPM, (maker.at("ldap://pki.lab.test/cn=x"), False))
    with pytest.raises(EkCertificateUntrusted):
        judged((pki.der(leaf), [], pki.der(ROOT.own())), tmp_path)
    leaf = MIDDLE.ek(TPM, (maker.at(url), False))
    trust = Trust([tmp_path / "roots"])
    with pytest.raises(EkIssuerMissing, match="does not allow") as raised:
        ek_path.find(x509_der.read(pki.der(leaf)), [], trust, fetch=True)
    assert f"get {url}" in raised.value.remedy
    assert "tpm.fetch_from = ['pki.lab.test']" in raised.value.remedy
    allowed = Trust([tmp_path / "roots"], fetch_from=["PKI.lab.test"])
    with pytest.raises(ek_path.ToBeFetched, match=url):
        ek_path.find(x509_der.read(pki.der(leaf)), [], allowed, fetch=False)


def test_an_address_that_is_none_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "root.cer").write_bytes(pki.der(ROOT.own()))
    trust = Trust([tmp_path], fetch_from=["pki.lab.test"])
    for url in ("http://[", "http://", "http:\x1b[2J", "https://pki.lab.test:x/"):
        leaf = x509_der.read(pki.der(MIDDLE.ek(TPM, (maker.at(url), False))))
        with pytest.raises(EkIssuerMissing) as raised:
            ek_path.find(leaf, [], trust, fetch=True)
        assert "\x1b" not in str(raised.value) + raised.value.remedy


def test_openssl_looks_at_no_more_than_it_should(tmp_path: Path) -> None:
    """What it kept of a certificate is what it was given."""
    leaf, between, root = (x509_der.read(each) for each in (plain()[0], *plain()[1], plain()[2]))
    with pytest.raises(x509_path.Broken) as raised:
        x509_path.find(leaf, [x509_der.read(pki.der(RSA.own()))], [between, root])
    assert raised.value.no_issuer
    assert [each.der for each in raised.value.path] == [leaf.der, between.der, root.der]
    with pytest.raises(ValueError, match="no root"):
        x509_path.find(leaf, [], [between])
