"""An EK certificate, read: padded, concatenated, not quite DER; whose it is and what for."""

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent import x509_der, x509_ek
from tests.lab import maker, pki, shapes
from tests.lab.maker import EK_SAYS, Ca, ca_says
from tests.lab.shapes import MIDDLE, ROOT, TPM, middle

LEAF = pki.der(MIDDLE.ek(TPM))

# --- bytes ---


@pytest.mark.parametrize("padding", [b"", b"\xff" * 300, bytes(300), b"\0\xff\x30"])
def test_what_is_behind_a_certificate_in_nv_is_no_part_of_it(padding: bytes) -> None:
    assert x509_der.leading(LEAF + padding).der == LEAF


@pytest.mark.parametrize("padding", [b"", b"\xff" * 9, bytes(9), b"\0\xff\xff"])
def test_a_chain_in_nv_is_read_to_its_end_with_padding_anywhere(padding: bytes) -> None:
    ders = [pki.der(each) for each in (middle(), ROOT.own())]
    data = padding.join([b"", *ders, b""])
    assert [each.der for each in x509_der.sequence(data)] == ders
    assert x509_der.sequence(padding) == []


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"0",
        b"\xff" * 64,
        b"0\x80\0\0",
        b"0\x84\xff\xff",
        b"0\x03\x02\x01",
        LEAF[:-1],
        b"\x31" + LEAF[1:],
    ],
)
def test_what_is_no_certificate_is_refused(odd: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (whatever the parser says)
        x509_der.leading(odd)
    if odd.strip(b"\xff"):
        with pytest.raises(ValueError):  # noqa: PT011
            x509_der.sequence(pki.der(middle()) + odd)


def test_a_certificate_in_strict_der_is_read_as_it_is() -> None:
    read = x509_der.read(LEAF)
    assert read.read.public_bytes(Encoding.DER) == read.der == x509_der.normal(LEAF) == LEAF
    assert read.fingerprint == pki.fingerprint(read.read)
    assert x509_der.pem_or_der(read.pem) == [read]


@pytest.mark.parametrize("shape", [shapes.nuvoton, shapes.intel])
def test_an_oddity_is_put_right_to_be_read_and_the_bytes_stay(
    shape: Callable[[], shapes.Path3],
) -> None:
    leaf, _, root = shape()
    for der in (leaf, root):
        with pytest.raises(ValueError, match="ParseError"):
            x509.load_der_x509_certificate(der).extensions  # noqa: B018
        read = x509_der.read(der)
        assert read.der == der
        assert read.read.public_bytes(Encoding.DER) == x509_der.normal(der) != der
    assert x509_ek.maker(x509_der.read(leaf).read) == x509_ek.Maker("LAB", "Lab TPM", "id:00010002")


def indefinite(der: bytes) -> bytes:
    """BER: the length of the outermost value is not said, two zeros end it."""
    return b"\x30\x80" + der[4:] + bytes(2)


def long_length(der: bytes) -> bytes:
    """BER: a length in more octets than it needs."""
    return b"\x30\x83\0" + der[2:]


@pytest.mark.parametrize("ber", [indefinite, long_length])
def test_what_is_ber_beyond_that_is_refused(ber: Callable[[bytes], bytes]) -> None:
    for der in (LEAF, shapes.nuvoton()[0]):
        with pytest.raises(ValueError):  # noqa: PT011
            x509_der.read(ber(der))


def test_nesting_and_size_have_an_end() -> None:
    deep = maker.Value(0x05)
    for _ in range(50):
        deep = maker.Value(0x30, values=[deep])
    with pytest.raises(ValueError, match="nested too deeply"):
        x509_der.normal(deep.der())
    with pytest.raises(ValueError, match="too large"):
        x509_der.read(bytes(1 << 17))


def test_a_negative_serial_number_is_the_one_that_was_meant() -> None:
    der = shapes.negative_serial()[0]
    assert x509_der.read(der).read.serial_number == int.from_bytes(b"\x87" * 16, "big")
    zero = maker.changed(MIDDLE.ek(TPM), MIDDLE.key, maker.zero_serial)
    with pytest.raises(ValueError, match="not positive"):
        x509_der.read(zero)


# --- what it says ---


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("id:49465800", "IFX"),
        ("id:53544D20", "STM"),
        ("id:4e544300", "NTC"),
        ("id:00001014", "id:00001014"),
        ("AMD", "AMD"),
        ("", ""),
    ],
)
def test_a_vendor_id_is_shown_as_the_text_that_it_is(text: str, shown: str) -> None:
    assert x509_ek.vendor(text) == shown


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (ca_says(), "a CA's"),
        ([(x509.ExtendedKeyUsage([pki.CLIENT]), False)], "for something else"),
        ([(maker.usage("digital_signature"), True)], "may not be used to encrypt"),
    ],
    ids=["CA", "TLS", "signing"],
)
def test_a_certificate_for_something_else_is_none_for_an_ek(
    says: maker.Extensions, why: str
) -> None:
    made = MIDDLE.issue(x509.Name([]), TPM, says)
    assert why in str(x509_ek.misuse(made))


def test_a_certificate_for_an_ek_may_say_so_or_nothing() -> None:
    for says in (EK_SAYS, (), [(maker.usage("key_agreement"), True)]):
        assert x509_ek.misuse(MIDDLE.issue(x509.Name([]), TPM, says)) is None


def test_a_name_with_control_characters_is_shown_without() -> None:
    made = Ca(pki.name("x")).issue(x509.Name([]), TPM, [(maker.tpm_name("A\x1b[2J"), True)])
    assert str(x509_ek.maker(made)) == "A?[2J"
    assert str(x509_ek.maker(MIDDLE.issue(x509.Name([]), TPM, ()))) == "no name"
