"""Certificates: how they are read, what leads to an anchor, and what is believed of an answer."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509 as c509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import Certificate, load_der_x509_certificate

from agent import x509, x509_issued
from agent.errors import (
    IssuedAsCa,
    IssuedByAnother,
    IssuedForAnotherKey,
    IssuedWithWrongDates,
    IssuedWithWrongName,
    IssuedWrong,
    TrustUnreadable,
)
from tests.lab import pki

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
CA = pki.root("Root").below("Middle").below("Issuing")
ISSUING, MIDDLE, ROOT = CA.chain
KEY = pki.new_key()
CSR = x509_issued.request(KEY, "device")
LEAF = CA.issue(KEY.public_key(), "device")


def below(by: pki.Authority, **how: object) -> Certificate:
    return by.issue(KEY.public_key(), "device", **how)  # type: ignore[arg-type]


def patched(certificate: Certificate, old: str, new: str) -> Certificate:
    """The same with these bytes (hex) exchanged; its signature is wrong then."""
    der = pki.der(certificate)
    assert bytes.fromhex(old) in der
    return load_der_x509_certificate(der.replace(bytes.fromhex(old), bytes.fromhex(new)))


# --- reading ---


def test_a_name_makes_no_lines_and_tells_a_terminal_nothing() -> None:
    """Whoever compares what is shown of a certificate would read what its maker wrote there."""
    said = x509.written(pki.name("Good\n    SHA-256 00\x1b[2K\u202eü, Ltd"))
    assert said == "CN=Good\\0A    SHA-256 00\\1B[2K\\E2\\80\\AEü\\, Ltd"


@pytest.mark.parametrize("padding", [b"", b"\xff" * 9, b"\0" * 9, b"0"])
def test_what_follows_a_certificate_in_nv_is_not_part_of_it(padding: bytes) -> None:
    assert x509.leading(pki.der(LEAF) + padding) == LEAF


@pytest.mark.parametrize("odd", [b"0", b"0\x80\0\0", b"0\xff" + b"\xff" * 200, b"0\x84\xff\xff"])
def test_nonsense_in_nv_is_no_certificate(odd: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (whatever the parser says)
        x509.leading(odd)


def test_a_key_or_a_name_of_no_known_kind_is_as_good_as_no_certificate() -> None:
    for old, new in (("2a8648ce3d030107", "2a8648ce3d030106"), ("0c06646576696365", "0c06ff" * 2)):
        with pytest.raises(ValueError):  # noqa: PT011
            x509.leading(pki.der(patched(LEAF, old, (new + "ffff")[: len(old)])))


@pytest.mark.parametrize("data", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\n", None])
def test_a_file_without_a_certificate_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "ca.pem"
    file.mkdir() if data is None else file.write_bytes(data)
    with pytest.raises(TrustUnreadable, match=str(file)):
        x509.anchors(file)


# --- trusting ---


def test_a_chain_goes_up_to_a_root_if_it_can() -> None:
    """Whoever it is shown to may know the root alone."""
    for anchors in ([ISSUING, MIDDLE, ROOT], [ROOT, MIDDLE, ISSUING]):
        assert x509.chain(LEAF, anchors, [], NOW) == [LEAF, *CA.chain]
    assert x509.shown([LEAF, *CA.chain]) == [LEAF, ISSUING, MIDDLE]


def test_an_intermediate_may_be_all_that_is_trusted() -> None:
    assert x509.chain(LEAF, [ISSUING], [], NOW) == [LEAF, ISSUING]
    assert x509.shown([LEAF, ISSUING]) == [LEAF, ISSUING]
    stranger = pki.root("Stranger").root
    assert x509.chain(LEAF, [stranger, MIDDLE], [ISSUING], NOW) == [LEAF, ISSUING, MIDDLE]


def no_ca() -> Certificate:
    leaf = pki.Authority(KEY, (LEAF, *CA.chain))
    return below(leaf)


@pytest.mark.parametrize(
    ("leaf", "roots", "others", "at"),
    [
        (LEAF, [], [ISSUING, MIDDLE, ROOT], NOW),
        (LEAF, [ROOT], [ISSUING], NOW),
        (LEAF, [pki.root("Root").root], [ISSUING, MIDDLE], NOW),
        (LEAF, [ROOT], [ISSUING, MIDDLE], NOW + 3650 * DAY),
        (LEAF, [ROOT], [ISSUING, MIDDLE], NOW - DAY),
        (no_ca(), [ROOT], [LEAF, ISSUING, MIDDLE], NOW),
    ],
    ids=["nothing trusted", "a link missing", "same name", "expired", "not yet", "by no CA"],
)
def test_what_leads_to_no_anchor_is_not_trusted(
    leaf: Certificate, roots: list[Certificate], others: list[Certificate], at: datetime
) -> None:
    with pytest.raises(x509.Untrusted):
        x509.chain(leaf, roots, others, at)


def test_an_unknown_critical_extension_is_not_passed_over() -> None:
    unknown = c509.UnrecognizedExtension(c509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    builder = c509.CertificateBuilder(
        issuer_name=ISSUING.subject, subject_name=pki.name("device"), public_key=KEY.public_key(),
        serial_number=7, not_valid_before=NOW - DAY, not_valid_after=NOW + DAY,
    ).add_extension(unknown, critical=True)  # fmt: skip
    with pytest.raises(x509.Untrusted, match=r"1\.2\.3\.4"):
        x509.chain(builder.sign(CA.key, hashes.SHA256()), [ROOT], [ISSUING, MIDDLE], NOW)


# --- what a CA answers ---


def judged(*certificates: Certificate) -> list[Certificate]:
    return x509_issued.issued(certificates, CSR, [ROOT], [ISSUING, MIDDLE], datetime.now(UTC))


def test_the_answer_is_found_among_others_and_its_chain_goes_with_it() -> None:
    odd = patched(LEAF, "2a8648ce3d030107", "2a8648ce3d030106")
    assert judged(odd, MIDDLE, LEAF, ROOT) == [LEAF, ISSUING, MIDDLE]
    assert judged(below(CA, usages=[])) != []


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: CA.issue(pki.new_key().public_key(), "device"), IssuedForAnotherKey),
        (lambda: CA.issue(KEY.public_key(), "other"), IssuedWithWrongName),
        (lambda: CA.issue(KEY.public_key(), c509.Name([])), IssuedWithWrongName),
        (lambda: below(CA, starts=-3 * DAY, lasts=DAY), IssuedWithWrongDates),
        (lambda: below(CA, starts=DAY), IssuedWithWrongDates),
        (lambda: below(CA, ca=True), IssuedAsCa),
        (lambda: below(CA, usages=[pki.SERVER]), IssuedWrong),
        (lambda: below(pki.root("Root")), IssuedByAnother),
        (lambda: patched(LEAF, "551d0e", "551d23"), IssuedWrong),
        (lambda: patched(LEAF, "551d0e", "551d11"), IssuedWrong),
        (lambda: patched(LEAF, "0c06646576696365", "0c06ffffffffffff"), IssuedWrong),
        (lambda: patched(LEAF, "2a8648ce3d030107", "2a8648ce3d030106"), IssuedForAnotherKey),
    ],
    ids=[
        "another key", "another name", "no name", "expired", "not yet", "a CA", "for servers",
        "another CA of that name", "an extension twice", "a garbled extension", "a garbled name",
        "an odd curve",
    ],
)  # fmt: skip
def test_an_answer_that_is_not_believed(
    make: Callable[[], Certificate], error: type[IssuedWrong]
) -> None:
    with pytest.raises(IssuedWrong) as raised:
        judged(make())
    assert raised.type is error


def test_a_ca_may_be_a_little_ahead_of_us() -> None:
    assert judged(below(CA, starts=x509.SKEW / 2))
    with pytest.raises(IssuedWithWrongDates):
        judged(below(CA, starts=x509.SKEW * 2))


def test_a_request_is_signed_and_asks_for_a_tls_client() -> None:
    assert CSR.is_signature_valid
    assert x509.common_name(CSR) == "device"
    made = x509_issued.issue(CSR, ISSUING, pki.private_pem(CA.key), datetime.now(UTC) + DAY)
    assert judged(made) == [made, ISSUING, MIDDLE]
    with pytest.raises(ValueError, match="not that of the CA"):
        x509_issued.issue(CSR, ISSUING, pki.private_pem(KEY), datetime.now(UTC) + DAY)
