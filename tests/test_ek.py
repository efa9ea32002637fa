"""Is this TPM genuine: every kind of EK, whatever NV holds, and TPMs that pretend."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import ek
from agent.ek import KINDS, Kind, Trust
from agent.errors import (
    EkCertificateAbsent,
    EkCertificateInvalid,
    EkCertificateMismatch,
    EkCertificatePurpose,
    EkNotHeld,
)
from agent.tpm import Tpm
from tests.conftest import MakeDevice
from tests.lab import liar, maker, pki, swtpm
from tests.lab.hostile import http, whole
from tests.lab.plain import Plain
from tests.lab.shapes import MIDDLE, ROOT, middle
from tests.test_bad_input import refused, tools
from tests.test_bad_tpm import write_nv

SWTPMS = (0x01C00002, 0x01C00016)  # the certificates that swtpm_setup leaves
BY = {kind.template: kind for kind in KINDS}
CHAIN = pki.der(middle()) + pki.der(ROOT.own())


@pytest.fixture
def trust(factory_fresh: Path, tmp_path: Path) -> Trust:
    """swtpm's maker, and one of the lab."""
    roots = tmp_path / "roots"
    roots.mkdir()
    for each in (swtpm.roots(factory_fresh / "ca"), factory_fresh / "ca/issuercert.pem"):
        shutil.copy(each, roots)
    (roots / "lab.pem").write_bytes(pki.pem(ROOT.own()))
    return Trust([roots])


def certify(tpm: Tpm, kind: Kind, **how: Any) -> bytes:
    """What a maker of the lab says of a TPM's own EK."""
    key = ek.made(tpm, kind).key
    assert key is not None
    return pki.der(MIDDLE.ek(key, **how))


def only(tpm: Tpm, contents: dict[int, bytes]) -> None:
    """These NV indices, and none of swtpm's."""
    for index in SWTPMS:
        tpm.nv_undefine(index)
    for index, data in contents.items():
        tpm.nv_store(index, data, "platform")


# --- genuine ---


def test_a_genuine_tpm_is_told_with_its_maker_and_what_is_not_known(tpm: Tpm, trust: Trust) -> None:
    found = ek.verify(tpm, trust)
    assert found.kind == BY["EK-RSA2048"]
    assert found.maker.model == "swtpm"
    assert found.encoded[0] == tpm.nv_read(found.kind.index)
    assert [each.subject for each in found.chain[:-1]] != [each.issuer for each in found.chain[:-1]]
    said = str(found)
    assert "id:00001014 swtpm id:" in said
    assert "certified by CN=swtpm-localca-rootca" in said
    assert "revocation unknown (no CRL is configured)" in said
    assert "the chip calls its maker 'IBM'" in said
    assert "not used: EK-HIGH-ECC384" in said
    assert tpm.loaded() == set()


@pytest.mark.parametrize(
    "template",
    ["EK-RSA2048", "EK-ECC256", "EK-HIGH-RSA2048", "EK-HIGH-ECC256", "EK-HIGH-ECC384",
     "EK-HIGH-ECC521", "EK-HIGH-RSA3072"],
)  # fmt: skip
def test_every_kind_of_ek_is_verified_by_its_own_certificate(
    template: str, tpm: Tpm, trust: Trust
) -> None:
    """Made anew, kept, and looked at again; its chain is in NV."""
    kind = BY[template]
    only(tpm, {kind.index: certify(tpm, kind), ek.CHAIN[0]: CHAIN})
    for strict in (False, True):
        assert ek.verify(tpm, trust, strict=strict).kind == kind
    if tpm.public(kind.handle) is None:
        with tpm.ek(template) as made:
            tpm.persist(made, kind.handle)
    assert ek.verify(tpm, trust).notes == (f"the chip calls its maker '{str(tpm).split()[0]}'",)
    assert tpm.loaded() == set()


def test_a_chain_may_go_over_several_indices_wherever_they_are_cut(tpm: Tpm, trust: Trust) -> None:
    kind = BY["EK-ECC256"]
    chain = bytes(3) + CHAIN + b"\xff" * 50
    pieces = {ek.CHAIN[3 * n]: chain[300 * n : 300 * n + 300] for n in range(-(-len(chain) // 300))}
    assert len(pieces) > 2
    only(tpm, {kind.index: certify(tpm, kind) + b"\xff" * 100, **pieces})
    assert len(ek.verify(tpm, trust).path) == 3


def test_the_first_certificate_is_used_and_what_else_is_there_is_said(
    tpm: Tpm, trust: Trust
) -> None:
    low, high = BY["EK-ECC256"], BY["EK-HIGH-ECC384"]
    contents = {low.index: certify(tpm, low), high.index: b"\xff" * 700, ek.CHAIN[0]: CHAIN}
    only(tpm, contents)
    found = ek.verify(tpm, trust)
    assert found.kind == low
    assert f"not used: the certificate at NV {high.index:#x}, garbled" in str(found)


# --- not genuine ---


def test_no_certificate_at_all(tpm: Tpm, trust: Trust) -> None:
    only(tpm, {})
    with pytest.raises(EkCertificateAbsent):
        ek.verify(tpm, trust)


@pytest.mark.parametrize("data", [b"\xff" * 64, bytes(64), pki.der(ROOT.own())[:-5]])
def test_a_garbled_certificate_is_not_passed_over_for_a_good_one(
    data: bytes, tpm: Tpm, trust: Trust
) -> None:
    tpm.nv_undefine(SWTPMS[0])
    tpm.nv_store(SWTPMS[0], data, "platform")
    with pytest.raises(EkCertificateInvalid, match="NV 0x1c00002") as raised:
        ek.verify(tpm, trust)
    assert type(raised.value) is EkCertificateInvalid


def test_a_garbled_chain_is_refused(tpm: Tpm, trust: Trust) -> None:
    tpm.nv_store(ek.CHAIN[0], CHAIN + b"0junk", "platform")
    with pytest.raises(EkCertificateInvalid, match="chain at NV 0x1c00100"):
        ek.verify(tpm, trust)


def test_a_certificate_for_something_else(tpm: Tpm, trust: Trust) -> None:
    kind = BY["EK-ECC256"]
    key = ek.made(tpm, kind).key
    assert key is not None
    says = [(maker.usage("digital_signature"), True)]
    only(tpm, {kind.index: pki.der(MIDDLE.issue(pki.name("x"), key, says)), ek.CHAIN[0]: CHAIN})
    with pytest.raises(EkCertificatePurpose, match="may not be used to encrypt"):
        ek.verify(tpm, trust)


@pytest.mark.parametrize("template", ["EK-RSA2048", "EK-HIGH-ECC384"])
def test_the_certificate_of_another_ek_of_the_same_maker(
    template: str, tpm: Tpm, trust: Trust
) -> None:
    kind = BY[template]
    stranger = pki.der(MIDDLE.ek(pki.new_key().public_key()))
    only(tpm, {kind.index: stranger, ek.CHAIN[0]: CHAIN})
    with pytest.raises(EkCertificateMismatch, match=template):
        ek.verify(tpm, trust)


# --- a TPM between that pretends to be another ---


@pytest.fixture
def pretender(
    factory_fresh: Path, tmp_path: Path, tcti: str
) -> Iterator[Callable[[set[int]], Any]]:
    """Another TPM of the same maker, that lets the genuine one answer some commands."""
    other = tmp_path / "other"
    swtpm.make(other, factory_fresh / "ca")
    genuine = Path(tcti.partition("path=")[2])
    with swtpm.running(other):
        yield lambda commands: liar.between(
            other / "tpm.sock", genuine, tmp_path / "between.sock", commands
        )


@pytest.mark.parametrize("first", ["EK-RSA2048", "EK-HIGH-ECC384"])
def test_who_shows_the_certificate_and_the_ek_of_a_genuine_tpm_does_not_hold_it(
    first: str, pretender: Callable[[set[int]], Any], tpm: Tpm, trust: Trust
) -> None:
    if first != "EK-RSA2048":
        tpm.nv_undefine(SWTPMS[0])
    with pretender(liar.NV) as tcti, Tpm(tcti) as false, pytest.raises(EkCertificateMismatch):
        ek.verify(false, trust)
    with pretender(liar.NV | liar.KEYS) as tcti, Tpm(tcti) as false:
        assert false.public(BY[first].handle) == tpm.public(BY[first].handle)
        with pytest.raises(EkNotHeld, match="does not hold its EK"):
            ek.verify(false, trust)
        with pytest.raises(EkCertificateMismatch):
            ek.verify(false, trust, strict=True)
        assert false.loaded() == set()


# --- a whole device ---


def lab_made(device: Any, *more: Any, **how: Any) -> None:
    """The EK certificate is one of the lab's maker's, whose root alone is on the device."""
    with Tpm(device.tcti) as tpm:
        key = ek.made(tpm, BY["EK-RSA2048"]).key
    assert key is not None
    write_nv(device, "0x01C00002", pki.der(MIDDLE.ek(key, *more, **how)))
    (device.etc / "tpm-roots.d/lab.pem").write_bytes(pki.pem(ROOT.own()))


def test_a_device_fetches_an_intermediate_once_where_that_is_allowed(
    make_device: MakeDevice,
) -> None:
    device = make_device()
    with Plain({"ca.crt": whole(http(200, pki.der(middle())))}) as server:
        lab_made(device, (maker.at(f"{server.url}ca.crt"), False))
        assert server.host in refused(device, 69, "ek-issuer-missing")
        device.configure({"tpm": {"fetch_from": [server.host]}})
        dry = device.agent("provision", "--dry-run")
        assert ["ek", "would", "be", "done"] in [line.split() for line in dry.stdout.splitlines()]
        assert server.requests == []
        done = device.agent("provision")
        assert done.returncode == 0, done.stderr
        assert "LAB Lab TPM id:00010002, certified by CN=Lab TPM Root CA" in done.stderr
    assert len(server.requests) == 1
    assert device.agent("status").returncode == 0  # though nobody listens any more
    [kept] = (device.state / "tpm-makers").iterdir()
    kept.unlink()
    refused(device, 75, "unreachable")


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ({"starts": -9 * maker.DAY, "lasts": maker.DAY}, 75, "ek-cert-expired"),
        ({"starts": maker.DAY}, 75, "clock-implausible"),
    ],
)
def test_a_device_says_what_is_out_of_date(
    make_device: MakeDevice, how: Any, status: int, code: str
) -> None:
    device = make_device()
    lab_made(device, **how)
    (device.etc / "tpm-roots.d/middle.pem").write_bytes(pki.pem(middle()))
    refused(device, status, code)


def test_a_revoked_ek_stops_a_device(make_device: MakeDevice) -> None:
    device = make_device()
    lab_made(device)
    (device.etc / "tpm-roots.d/middle.pem").write_bytes(pki.pem(middle()))
    crls = device.etc / "crls"
    crls.mkdir()
    device.configure({"tpm": {"crls": [str(crls)]}})
    done = device.agent("provision")
    assert "revocation unknown (no CRL of 'CN=Lab TPM EK CA 01,C=XX')" in done.stderr
    with Tpm(device.tcti) as tpm:
        serial = ek.certificate(tpm)[1].read.serial_number
    (crls / "middle.crl").write_bytes(MIDDLE.crl(serial))
    refused(device, 69, "ek-cert-revoked")


def test_the_endorsement_password_is_asked_for_by_name(make_device: MakeDevice) -> None:
    """Without it nothing can be opened with the EK, and no EK made."""
    device = make_device()
    tools(device, "tpm2_changeauth", "-c", "endorsement", "s3cret")
    assert "tpm-endorsement-auth" in refused(device, 69, "tpm-auth")
    pki.write_private(device.credentials / "tpm-endorsement-auth", b"s3cret")
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
