"""What the TPM says about its keys, signed with the IAK, and checked by others."""

import struct
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest

from agent.errors import TpmError
from agent.tpm import Public, Tpm
from agent.tpm.templates import KeyType
from tests.lab import process
from tests.lab.tools import Tools

EK, KEY = 0x81010001, 0x81020000
NONCE = b"asked for by the CA"
KINDS: tuple[KeyType, ...] = ("ecc256", "rsa2048")
ENDORSEMENT = (0x4000000B).to_bytes(4, "big")  # the name of a hierarchy is its handle


def verified(tools: Tools, by: Public, attest: bytes, signature: bytes) -> bool:
    """By the TPM that tpm2-tools ask, from the public key alone."""
    for name, data in (("pub", by.blob), ("said", attest), ("sig", signature)):
        (tools.directory / name).write_bytes(data)
    tools("loadexternal", "-C", "n", "-u", "pub", "-c", "by")
    done = tools.ask("verifysignature", "-c", "by", "-g", "sha256", "-m", "said", "-s", "sig")
    tools("flushcontext", "-t")
    return done.returncode == 0


@dataclass(frozen=True)
class Said:
    """TPMS_ATTEST of a key (TPM 2.0 Library, part 2, 10.12.12): `first` and `second` are name and
    qualified name (10.12.3), or name and creation hash (10.12.7)."""

    kind: int
    signer: bytes
    nonce: bytes
    first: bytes
    second: bytes


def parsed(attest: bytes) -> Said:
    rest = BytesIO(attest)
    magic, kind = struct.unpack(">4sH", rest.read(6))
    assert magic == b"\xffTCG"
    signer, nonce = sized(rest), sized(rest)
    rest.read(17 + 8)  # clock, firmware version
    said = Said(kind, signer, nonce, sized(rest), sized(rest))
    assert rest.read() == b""
    return said


def sized(rest: BytesIO) -> bytes:
    return rest.read(int.from_bytes(rest.read(2), "big"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("profile", ["tcg", "ek-child"])
def test_the_iak_certifies_the_idevid(tpm: Tpm, tools: Tools, kind: KeyType, profile: str) -> None:
    with tpm.idevid(kind) if profile == "tcg" else tpm.ek_child(EK, kind) as idevid:
        tpm.persist(idevid, KEY)
    with tpm.iak(kind) as iak:
        attest, signature = tpm.certify(KEY, iak, NONCE)
        qualified = tpm.qualified_name(KEY), tpm.qualified_name(iak)
    assert tpm.loaded() == set()
    assert parsed(attest) == Said(0x8017, qualified[1], NONCE, idevid.public.name, qualified[0])
    assert verified(tools, iak.public, attest, signature)
    assert not verified(tools, iak.public, attest[:-1] + bytes([attest[-1] ^ 1]), signature)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tpm_certifies_that_it_made_the_iak(tpm: Tpm, tools: Tools, kind: KeyType) -> None:
    with tpm.iak(kind) as iak:
        attest, signature = tpm.certify_creation(iak, NONCE)
        signer = tpm.qualified_name(iak)
    assert parsed(attest) == Said(0x801A, signer, NONCE, iak.public.name, iak.creation_hash)
    assert verified(tools, iak.public, attest, signature)
    assert tpm.loaded() == set()


def test_openssl_verifies_it_too(tpm: Tpm, tmp_path: Path, tools: Tools) -> None:
    """With nothing of the TPM's world but the bytes."""
    with tpm.idevid("ecc256") as key, tpm.iak("rsa2048") as iak:
        attest, signature = tpm.certify(key, iak, NONCE)
    assert signature[:4].hex() == "0016000b"  # TPM_ALG_RSAPSS, TPM_ALG_SHA256
    assert int.from_bytes(signature[4:6], "big") == len(signature) - 6
    for name, data in (("pub", iak.public.blob), ("said", attest), ("sig", signature[6:])):
        (tmp_path / name).write_bytes(data)
    pem = tools("print", "-t", "TPM2B_PUBLIC", "pub", "-f", "pem")
    (tmp_path / "pem").write_text(pem)
    pss = ("-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:auto")
    files = ("-verify", tmp_path / "pem", "-signature", tmp_path / "sig", tmp_path / "said")
    assert "Verified OK" in process.run("openssl", "dgst", "-sha256", *pss, *files)


def test_a_qualified_name_tells_the_parents(tpm: Tpm) -> None:
    ek = tpm.public(EK)
    assert ek is not None
    with tpm.idevid("ecc256") as primary, tpm.ek_child(EK, "ecc256") as child:
        assert tpm.qualified_name(primary) == qualified(ENDORSEMENT, primary.public)
        assert tpm.qualified_name(EK) == qualified(ENDORSEMENT, ek)
        assert tpm.qualified_name(child) == qualified(tpm.qualified_name(EK), child.public)


def qualified(parent: bytes, public: Public) -> bytes:
    return public.name[:2] + sha256(parent + public.name).digest()


def test_only_a_restricted_key_speaks_for_the_tpm(tpm: Tpm) -> None:
    """One that signs anything could be made to sign such words from outside."""
    refused = pytest.raises(TpmError, match="cannot certify a key")
    with tpm.idevid("rsa2048") as key, tpm.ek_child(EK, "rsa2048") as child, refused:
        tpm.certify(key, child, NONCE)
    assert tpm.loaded() == set()


def test_a_creation_that_was_not_is_not_certified(tpm: Tpm) -> None:
    with tpm.iak("ecc256") as one, tpm.iak("rsa2048") as other:
        mixed = type(one)(one.handle, one.public, other.creation_hash, other.ticket)
        with pytest.raises(TpmError, match="cannot certify a key's creation"):
            tpm.certify_creation(mixed, NONCE)
    assert tpm.loaded() == set()
