"""TCG-CSR-IDEVID: the bytes, as the specification has them, and nothing but them."""

import struct
from dataclasses import fields, replace
from hashlib import sha256

import pytest

from agent import tcg_csr
from agent.errors import TcgCsrGarbled
from agent.tcg_csr import Content
from tests.lab import forger, tcg_request

CONTENT = Content(
    model=b"Model",
    serial=b"0001",
    ek_certificate=b"certificate",
    iak=b"iak",
    iak_ticket=b"ticket",
    iak_created=b"created",
    iak_created_signature=b"by iak",
    idevid=b"idevid",
    idevid_certified=b"certified",
    idevid_certified_signature=b"by iak, too",
)


def test_the_layout_is_that_of_13_1_byte_for_byte() -> None:
    sizes = [5, 4, 0, 0, 11, 3, 6, 7, 6, 6, 9, 11, 0]
    fixed = 12 + 32 + 4 * len(sizes)
    sizes[-1] = -(fixed + sum(sizes)) % 16
    values = b"Model0001certificateiakticketcreatedby iakidevidcertifiedby iak, too"
    rest = struct.pack(">13I", *sizes) + values + b"P" * sizes[-1]
    start = bytes.fromhex("000001000000000b00000020")
    contents = start + sha256(rest).digest() + rest
    assert tcg_csr.encode_content(CONTENT, lambda size: b"P" * size) == contents
    whole = bytes.fromhex("01000100") + struct.pack(">II", len(contents), 3) + contents + b"sig"
    assert tcg_csr.encode(contents, b"sig") == whole


def test_what_is_put_together_comes_apart_again() -> None:
    contents = tcg_csr.encode_content(CONTENT)
    found = tcg_csr.decode(tcg_csr.encode(contents, b"sig"))
    assert found == tcg_csr.Csr(CONTENT, contents, b"sig")


def test_the_lab_reads_the_same_in_it() -> None:
    """By code of its own, with the specification's names."""
    found = tcg_request.parse(tcg_csr.encode(tcg_csr.encode_content(CONTENT), b"sig")).fields
    values = [getattr(CONTENT, each.name) for each in fields(Content)]
    assert list(found.values())[:-1] == values
    assert found["sgnCertifyInfoSignature"] == b"by iak, too"


@pytest.mark.parametrize("more", range(16))
def test_contents_are_always_whole_blocks_and_padded_at_random(more: int) -> None:
    content = replace(CONTENT, ca_data=b"x" * more)
    contents = tcg_csr.encode_content(content)
    assert len(contents) % 16 == 0
    assert tcg_csr.decode_content(contents) == content


def test_the_signature_bears_its_algorithm() -> None:
    ecdsa = bytes.fromhex("3012300a06082a8648ce3d040302030400616263")
    assert tcg_csr.signature(b"abc", ecc=True) == ecdsa
    rsa = bytes.fromhex("3015300d06092a864886f70d01010b0500030400616263")
    assert tcg_csr.signature(b"abc", ecc=False) == rsa


@pytest.mark.parametrize("each", fields(Content), ids=lambda each: each.name)
def test_a_field_of_an_impossible_size_is_neither_written_nor_read(each) -> None:  # type: ignore[no-untyped-def]
    large = replace(CONTENT, **{each.name: bytes(each.metadata["most"] + 1)})
    with pytest.raises(TcgCsrGarbled, match=each.name):
        tcg_csr.encode_content(large)
    contents = tcg_csr.encode_content(CONTENT)
    at = 44 + 4 * [f.name for f in fields(Content)].index(each.name)
    for size in (each.metadata["most"] + 1, 0xFFFFFFFF):
        with pytest.raises(TcgCsrGarbled, match=each.name):
            tcg_csr.decode_content(forger.rehashed(forger.with_number(contents, at, size)))


def test_a_request_cut_off_anywhere_is_garbled() -> None:
    whole = tcg_csr.encode(tcg_csr.encode_content(CONTENT), b"sig")
    for size in range(len(whole)):
        with pytest.raises(TcgCsrGarbled):
            tcg_csr.decode(whole[:size])
    with pytest.raises(TcgCsrGarbled, match="length"):
        tcg_csr.decode(whole + b"\0")


def test_a_bit_turned_over_in_the_contents_is_noticed_wherever_it_is() -> None:
    contents = tcg_csr.encode_content(CONTENT)
    for at in range(len(contents)):
        with pytest.raises(TcgCsrGarbled):
            tcg_csr.decode_content(forger.flipped(contents, at))


GARBLED = {
    "nothing": (b"", "4 bytes announced, 0 there"),
    "another version": (bytes.fromhex("00000100") + bytes(60), "the version is 0x100"),
    "no signature": (bytes.fromhex("01000100") + bytes(60), "the signature has 0 bytes"),
    "endless": (bytes(0x200001), "2097153 bytes"),
}


@pytest.mark.parametrize(("data", "why"), GARBLED.values(), ids=list(GARBLED))
def test_what_is_no_request_is_refused_in_words(data: bytes, why: str) -> None:
    with pytest.raises(TcgCsrGarbled, match=why):
        tcg_csr.decode(data)


def test_contents_of_another_version_hash_or_block_are_refused() -> None:
    contents = tcg_csr.encode_content(CONTENT)
    changes = {"version of the contents": (0, 0x101), "hash algorithm 0x4": (4, 4)}
    changes |= {"size of the digest": (8, 20)}
    for why, (at, value) in changes.items():
        with pytest.raises(TcgCsrGarbled, match=why):
            tcg_csr.decode_content(forger.with_number(contents, at, value))
    pad = struct.unpack_from(">I", contents, 44 + 48)[0]
    longer = forger.rehashed(forger.with_number(contents, 44 + 48, pad + 16) + bytes(16))
    with pytest.raises(TcgCsrGarbled, match="size of the padding"):
        tcg_csr.decode_content(longer)
