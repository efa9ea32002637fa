"""An IDevID that works in approved boot states alone: the key is made for the public key of the
device's maker, and that one's signature over the values of some registers lets it be used."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from tpm2_pytss import ESAPI

from agent.errors import (
    ApprovalForged,
    ApprovalsAbsent,
    ApprovalUnreadable,
    BootStateUnapproved,
    PcrBankAbsent,
    PcrMoved,
    PolicyKeyOther,
    TpmAuth,
)
from agent.tpm import Tpm
from agent.tpm.approved import Maker as PublicMaker
from agent.tpm.templates import KeyType
from agent.x509_idevid import Who, request, subject
from tests.lab.approvals import Kind, Maker, boot_otherwise
from tests.lab.tools import Tools

IDEVID = 0x81020000
DIGEST = bytes(32)


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "maker")


def policy(maker: Maker) -> bytes:
    return PublicMaker.of_pem(maker.public.read_bytes()).policy


@contextmanager
def kept(tpm: Tpm, maker: Maker, kind: KeyType = "ecc256") -> Iterator[Tpm]:
    """The key is in its place, and what the maker has released on the disk."""
    with tpm.idevid(kind, policy(maker)) as made:
        tpm.persist(made, IDEVID)
    tpm.approvals = maker.released
    yield tpm


@pytest.fixture
def bound(tpm: Tpm, maker: Maker) -> Iterator[Tpm]:
    with kept(tpm, maker) as bound:
        yield bound


@pytest.mark.parametrize("kind", ["ecc256", "ecc384", "rsa2048", "rsa3072"])
@pytest.mark.parametrize("key", ["ecc256", "rsa2048"])
def test_in_an_approved_state_it_signs(tpm: Tpm, tmp_path: Path, kind: Kind, key: KeyType) -> None:
    with kept(tpm, maker := Maker(tmp_path / kind, kind), key):
        maker.approve(tpm)
        assert tpm.sign(IDEVID, DIGEST, "sha256")
        assert tpm.loaded() == set()


def test_what_it_signs_verifies(bound: Tpm, maker: Maker) -> None:
    maker.approve(bound)
    public = bound.public(IDEVID)
    assert public is not None
    assert isinstance(public.key, EllipticCurvePublicKey)
    signature = bound.sign(IDEVID, sha256(b"text").digest(), "sha256")
    public.key.verify(signature, b"text", ec.ECDSA(hashes.SHA256()))


def test_in_another_state_it_does_not_and_the_registers_are_named(
    bound: Tpm, maker: Maker, tools: Tools
) -> None:
    maker.approve(bound)
    boot_otherwise(tools)
    with pytest.raises(BootStateUnapproved, match="PCR 7 differs from 'v1'") as e:
        bound.sign(IDEVID, DIGEST, "sha256")
    assert "PCR 7" in e.value.remedy
    assert str(maker.released) in e.value.remedy


def test_of_several_approvals_the_nearest_tells_what_is_different(
    bound: Tpm, maker: Maker, tools: Tools
) -> None:
    maker.approve(bound, "old")
    for register in (0, 2):
        boot_otherwise(tools, register)
    maker.approve(bound, "new")
    boot_otherwise(tools, 2)
    with pytest.raises(BootStateUnapproved, match="PCR 2 differs from 'new', the nearest of 2"):
        bound.sign(IDEVID, DIGEST, "sha256")


def test_a_newly_signed_state_is_accepted_without_touching_the_key(
    bound: Tpm, maker: Maker, tools: Tools
) -> None:
    maker.approve(bound, "v1")
    boot_otherwise(tools)
    before = bound.public(IDEVID)
    maker.approve(bound, "v2")
    assert bound.sign(IDEVID, DIGEST, "sha256")
    assert bound.public(IDEVID) == before


def test_a_register_that_nobody_asked_for_may_have_any_value(
    bound: Tpm, maker: Maker, tools: Tools
) -> None:
    maker.approve(bound)
    boot_otherwise(tools, 8)
    assert bound.sign(IDEVID, DIGEST, "sha256")


@pytest.mark.parametrize("kind", ["ecc256", "ecc384", "rsa2048"])
def test_the_name_of_the_makers_key_is_what_tpm2_tools_come_to(
    tpm: Tpm, tools: Tools, tmp_path: Path, kind: Kind
) -> None:
    public = Maker(tmp_path / kind, kind).public
    external = ("-C", "e", "-G", kind[:3], "-u", str(public), "-a", "userwithauth|sign")
    tools("loadexternal", *external, "-c", "maker.ctx", "-n", "maker.name")
    tools("flushcontext", "-t")
    area = PublicMaker.of_pem(public.read_bytes()).area
    if kind == "rsa2048":  # we leave it to the TPM, as the TCG's templates do; the tools write it
        area.publicArea.parameters.rsaDetail.exponent = 65537
    assert bytes(area.get_name()) == (tools.directory / "maker.name").read_bytes()


@pytest.mark.parametrize("which", ["x", "y"])
def test_a_maker_whose_key_begins_with_a_zero_is_one_as_any_other(
    tpm: Tpm, maker: Maker, which: str
) -> None:
    keys = iter(lambda: ec.generate_private_key(ec.SECP256R1()), None)
    short = (k for k in keys if getattr(k.public_key().public_numbers(), which) >> 248 == 0)
    maker.have(next(short))
    with kept(tpm, maker):
        maker.approve(tpm)
        assert tpm.sign(IDEVID, DIGEST, "sha256")


# --- no approval does ---


def test_a_signature_by_somebody_else_is_refused(bound: Tpm, maker: Maker, tmp_path: Path) -> None:
    other = Maker(tmp_path / "other")
    other.approve(bound)
    maker.approve(bound)
    (maker.released / "v1.sig").write_bytes((other.released / "v1.sig").read_bytes())
    with pytest.raises(ApprovalForged, match=r"v1\.sig' is no signature by the maker's key"):
        bound.sign(IDEVID, DIGEST, "sha256")


def test_a_state_that_was_changed_after_it_was_signed_is_refused(
    bound: Tpm, maker: Maker, tools: Tools
) -> None:
    maker.approve(bound, "v1")
    boot_otherwise(tools)
    maker.approve(bound, "v2")
    (maker.released / "v1.json").write_bytes((maker.released / "v2.json").read_bytes())
    (maker.released / "v2.json").unlink()
    with pytest.raises(ApprovalForged):
        bound.sign(IDEVID, DIGEST, "sha256")


def test_the_tpm_itself_refuses_what_we_would_let_pass(
    bound: Tpm, maker: Maker, tools: Tools, tmp_path: Path
) -> None:
    """The policy is not ours to check: it is in the key. Without any of it, nothing is signed."""
    maker.approve(bound)
    (tmp_path / "digest").write_bytes(DIGEST)
    sign = ("sign", "-c", hex(IDEVID), "-g", "sha256", "-d", "-o", "out", "digest")
    assert tools.ask(*sign).returncode != 0
    tools("startauthsession", "-S", "s", "--policy-session", "-g", "sha256")
    tools("policypcr", "-S", "s", "-l", "sha256:0,2,7")
    assert tools.ask(*sign, "-p", "session:s").returncode != 0
    tools("flushcontext", "s")


def test_tpm2_tools_come_to_the_same_policy_and_use_the_key_by_it(
    bound: Tpm, maker: Maker, tools: Tools
) -> None:
    """As docs/factory.md says it: PolicyPCR, and PolicyAuthorize by the maker's key."""
    maker.approve(bound)
    where = tools.directory
    (where / "digest").write_bytes(DIGEST)
    (where / "ref").write_bytes(b"tpm2cloud boot state")
    (where / "tbs").write_bytes((maker.released.parent / "v1.tbs").read_bytes())
    external = ("-C", "e", "-G", "ecc", "-u", str(maker.public), "-a", "userwithauth|sign")
    tools("loadexternal", *external, "-c", "maker.ctx", "-n", "maker.name")
    signature = ("-g", "sha256", "-f", "ecdsa", "-s", str(maker.released / "v1.sig"))
    tools("verifysignature", "-c", "maker.ctx", "-m", "tbs", *signature, "-t", "ticket")
    tools("flushcontext", "-t")
    tools("startauthsession", "-S", "s", "--policy-session", "-g", "sha256")
    tools("policypcr", "-S", "s", "-l", "sha256:0,2,7", "-L", "pcr")
    authorize = ("-i", "pcr", "-q", "ref", "-n", "maker.name", "-t", "ticket", "-L", "policy")
    tools("policyauthorize", "-S", "s", *authorize)
    assert (where / "policy").read_bytes() == policy(maker)
    use = ("-g", "sha256", "-d", "-o", "out", "digest", "-p", "session:s")
    tools("sign", "-c", hex(IDEVID), *use)
    tools("flushcontext", "s")


def test_firmware_of_another_maker_is_named(bound: Tpm, tmp_path: Path) -> None:
    other = Maker(tmp_path / "other")
    other.approve(bound)
    bound.approvals = other.released
    with pytest.raises(PolicyKeyOther, match=r"another maker than 'maker\.pem'"):
        bound.sign(IDEVID, DIGEST, "sha256")


def test_one_image_may_serve_boards_of_two_makers(bound: Tpm, maker: Maker, tmp_path: Path) -> None:
    other = Maker(tmp_path / "other")
    maker.approve(bound)
    (maker.released / "another.pem").write_bytes(other.public.read_bytes())
    assert bound.sign(IDEVID, DIGEST, "sha256")


def test_what_is_about_other_boards_is_in_nobodys_way(bound: Tpm, maker: Maker) -> None:
    """A bank that this TPM does not have, and a maker whose key is of no use here."""
    values = {"7": "00" * 48}
    other = maker.released / "another-line.json"
    other.write_text(json.dumps({"pcrs": "sha384:7", "values": values}))
    with pytest.raises(PcrBankAbsent) as e:
        bound.sign(IDEVID, DIGEST, "sha256")
    assert "sha384" in e.value.remedy
    (maker.released / "another-line.pem").write_text("of no known kind")
    maker.approve(bound)
    assert bound.sign(IDEVID, DIGEST, "sha256")


def test_without_any_approval_that_is_what_is_said(
    bound: Tpm, maker: Maker, tmp_path: Path
) -> None:
    with pytest.raises(ApprovalsAbsent, match=r"no approval \(\*\.json\)"):
        bound.sign(IDEVID, DIGEST, "sha256")
    bound.approvals = tmp_path / "nothing"
    with pytest.raises(ApprovalsAbsent, match=r"no maker's public key \(\*\.pem\)"):
        bound.sign(IDEVID, DIGEST, "sha256")


UNREADABLE = {
    "empty": ("v1.json", b""),
    "a-list": ("v1.json", b"[]"),
    "nested": ("v1.json", b"[" * 60000),
    "no-values": ("v1.json", b'{"pcrs": "sha256:0"}'),
    "short-value": ("v1.json", b'{"pcrs": "sha256:0", "values": {"0": "00"}}'),
    "other-register": ("v1.json", b'{"pcrs": "sha256:0", "values": {"1": "00"}}'),
    "too-large": ("v1.json", b" " * 70000),
    "no-key": ("maker.pem", b""),
    "half-a-key": ("maker.pem", b"-----BEGIN PUBLIC KEY-----\n"),
}


@pytest.mark.parametrize(("file", "data"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_is_not_what_its_name_says_is_named(
    bound: Tpm, maker: Maker, file: str, data: bytes
) -> None:
    maker.approve(bound)
    (maker.released / file).write_bytes(data)
    with pytest.raises(ApprovalUnreadable, match=file):
        bound.sign(IDEVID, DIGEST, "sha256")


def test_nobody_waits_for_a_pipe(bound: Tpm, maker: Maker) -> None:
    maker.approve(bound)
    for name in ("v0.json", "a.pem"):
        os.mkfifo(maker.released / name)
    assert bound.sign(IDEVID, DIGEST, "sha256")
    (maker.released / "v1.sig").unlink()
    (maker.released / "v0.json").rename(maker.released / "v1.sig")
    with pytest.raises(ApprovalUnreadable, match=r"v1\.sig': Not a regular file"):
        bound.sign(IDEVID, DIGEST, "sha256")


def test_a_signature_that_is_not_there_is_named(bound: Tpm, maker: Maker) -> None:
    maker.approve(bound)
    (maker.released / "v1.sig").unlink()
    with pytest.raises(ApprovalUnreadable, match=r"v1\.sig': No such file"):
        bound.sign(IDEVID, DIGEST, "sha256")


# --- what else there is ---


def test_a_register_that_is_extended_in_the_midst_of_it_is_no_failure(
    bound: Tpm, maker: Maker, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel's IMA extends register 10 all the time."""
    maker.approve(bound)
    sign, busy = ESAPI.sign, iter([True, True, False])

    def in_the_midst(*args: Any, **kwargs: Any) -> Any:
        if next(busy):
            boot_otherwise(tools, 10)
        return sign(*args, **kwargs)

    monkeypatch.setattr(ESAPI, "sign", in_the_midst)
    assert bound.sign(IDEVID, DIGEST, "sha256")
    assert list(busy) == []


def test_a_request_that_is_signed_at_such_a_moment_is_to_be_tried_again(
    bound: Tpm, maker: Maker, tools: Tools
) -> None:
    maker.approve(bound)
    who = Who(subject({"common_name": "4711", "serial_number": "4711"}))

    def signed_at_such_a_moment() -> None:
        with bound.private_key(IDEVID) as key:
            boot_otherwise(tools, 10)
            request(key, who)

    with pytest.raises(PcrMoved, match="sign with 0x81020000") as e:
        signed_at_such_a_moment()
    assert e.value.status == os.EX_TEMPFAIL
    assert bound.loaded() == set()


def test_it_needs_no_password_of_the_endorsement_hierarchy_once_it_is_made(
    bound: Tpm, maker: Maker, tools: Tools
) -> None:
    maker.approve(bound)
    tools("changeauth", "-c", "e", "secret")
    assert bound.sign(IDEVID, DIGEST, "sha256")
    with pytest.raises(TpmAuth), bound.idevid("ecc256", policy(maker)):
        pass


def test_a_wrong_state_is_never_counted_as_an_attack(
    bound: Tpm, maker: Maker, tools: Tools
) -> None:
    maker.approve(bound)
    boot_otherwise(tools)
    for _ in range(3):
        with pytest.raises(BootStateUnapproved):
            bound.sign(IDEVID, DIGEST, "sha256")
    assert bound.budget().lockout_counter == 0
