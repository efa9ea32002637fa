"""TPMs that will not do, or that others have used before us: refused by name, or adopted."""

import shutil
from collections.abc import Mapping
from typing import Any

import pytest
from cryptography.x509 import load_pem_x509_certificate

from agent.tpm import Tpm
from tests.conftest import MakeDevice
from tests.lab import pki
from tests.lab.device import Device
from tests.lab.factory import Board
from tests.test_bad_input import refused, tools, untouched

# --- the TPM: genuine? ---


def test_no_ek_certificate(make_device: MakeDevice) -> None:
    device = make_device()
    for index in ("0x01C00002", "0x01C00016"):
        tools(device, "tpm2_nvundefine", "-C", "p", index)
    refused(device, 69, "ek-cert-absent")
    assert untouched(device)


def write_nv(device: Device, index: str, data: bytes) -> None:
    """Put other content into an index of the TPM maker's."""
    tools(device, "tpm2_nvundefine", "-C", "p", index)
    attributes = "ppwrite|ppread|ownerread|authread|no_da|platformcreate"
    size = str(len(data))
    tools(device, "tpm2_nvdefine", index, "-C", "p", "-s", size, "-a", attributes)
    (device.directory / "nv").write_bytes(data)
    tools(device, "tpm2_nvwrite", index, "-C", "p", "-i", "nv")


def ek_certificate(device: Device) -> bytes:
    with Tpm(device.tcti) as tpm:
        return tpm.nv_read(0x01C00002) or b""


def test_an_ek_certificate_of_another_tpm(make_device: MakeDevice) -> None:
    device, other = make_device(), make_device(board=Board(id="board-other"))
    write_nv(device, "0x01C00002", ek_certificate(other))
    refused(device, 69, "ek-cert-mismatch")
    tools(device, "tpm2_evictcontrol", "-C", "o", "-c", "0x81010001")
    refused(device, 69, "ek-cert-mismatch")
    assert untouched(device)


def test_an_ek_certificate_of_an_unknown_maker(make_device: MakeDevice) -> None:
    device = make_device()
    shutil.rmtree(device.etc / "tpm-roots.d")
    refused(device, 69, "ek-cert-untrusted")
    assert untouched(device)


def test_an_ek_certificate_that_is_none(make_device: MakeDevice) -> None:
    device = make_device()
    write_nv(device, "0x01C00002", b"\xff" * 64)
    refused(device, 69, "ek-cert-invalid")
    assert untouched(device)


def test_a_certificate_of_the_makers_that_is_not_for_an_ek(make_device: MakeDevice) -> None:
    """The maker's word for something else is none for the EK."""
    device = make_device()
    ca = pki.root("Maker")
    (device.etc / "tpm-roots.d" / "maker.pem").write_bytes(pki.pem(ca.root))
    with Tpm(device.tcti) as tpm:
        ek = tpm.public(0x81010001)
    assert ek is not None
    assert ek.key is not None
    write_nv(device, "0x01C00002", pki.der(ca.issue(ek.key, "a web server")))
    refused(device, 69, "ek-cert-purpose")
    assert untouched(device)


@pytest.mark.parametrize("padding", [b"\xff" * 100, bytes(1)])
def test_a_padded_ek_certificate_is_fine(make_device: MakeDevice, padding: bytes) -> None:
    device = make_device()
    write_nv(device, "0x01C00002", ek_certificate(device) + padding)
    assert device.agent("provision").returncode == 0


def test_an_intermediate_of_the_maker_may_be_in_the_tpm(make_device: MakeDevice) -> None:
    device = make_device()
    roots = device.etc / "tpm-roots.d"
    pem = (roots / "issuercert.pem").read_bytes()
    (roots / "issuercert.pem").unlink()
    refused(device, 69, "ek-cert-untrusted")
    attributes = "ppwrite|ppread|ownerread|authread|no_da|platformcreate"
    der = pki.der(load_pem_x509_certificate(pem))
    size = str(len(der) + 8)
    tools(device, "tpm2_nvdefine", "0x01C00100", "-C", "p", "-s", size, "-a", attributes)
    (device.directory / "nv").write_bytes(der + b"\xff" * 8)
    tools(device, "tpm2_nvwrite", "0x01C00100", "-C", "p", "-i", "nv")
    assert device.agent("provision").returncode == 0


def test_a_tpm_whose_only_ek_certificate_is_ecc(make_device: MakeDevice) -> None:
    device = make_device()
    tools(device, "tpm2_nvundefine", "-C", "p", "0x01C00002")
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
    assert "0x81010016 ECC secp384r1" in done.stderr


def test_an_ek_that_nobody_kept_is_made_from_the_template(make_device: MakeDevice) -> None:
    device = make_device()
    tools(device, "tpm2_evictcontrol", "-C", "o", "-c", "0x81010001")
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
    assert "done: 0x81010001 RSA-2048" in done.stderr


# --- who is this device? ---


@pytest.mark.parametrize(
    ("board", "code"),
    [
        ({"certificate": "none"}, "idevid-absent"),
        ({"certificate": "other-key"}, "idevid-mismatch"),
        ({"certificate": "foreign"}, "idevid-untrusted"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_an_idevid_that_will_not_do(
    make_device: MakeDevice, board: Mapping[str, Any], code: str
) -> None:
    device = make_device(board=Board(**board))
    refused(device, 69, code)
    assert untouched(device)


def test_an_idevid_that_has_expired_may_mean_a_clock_of_the_future(
    make_device: MakeDevice,
) -> None:
    device = make_device(board=Board(certificate="expired"))
    refused(device, 75, "idevid-expired")
    assert untouched(device)


def test_an_idevid_of_the_future_means_a_clock_of_the_past(make_device: MakeDevice) -> None:
    """Before the network sets it, a clock may be wrong by any amount: that heals by itself."""
    device = make_device(board=Board(certificate="not-yet"))
    refused(device, 75, "clock-implausible")
    assert untouched(device)


def test_a_certificate_without_its_key(make_device: MakeDevice) -> None:
    device = make_device()
    tools(device, "tpm2_evictcontrol", "-C", "o", "-c", "0x81020000")
    refused(device, 69, "idevid-absent")


def test_a_padded_or_ecc_idevid_is_fine(make_device: MakeDevice) -> None:
    for board in (Board(padding=100), Board(key="ecc256")):
        device = make_device(board=board)
        done = device.agent("provision")
        assert done.returncode == 0, done.stderr


def test_a_device_without_idevid_goes_on_where_none_is_required(make_device: MakeDevice) -> None:
    device = make_device(board=Board(certificate="none"), auth="basic")
    tools(device, "tpm2_evictcontrol", "-C", "o", "-c", "0x81020000")
    device.configure({"idevid": {"require": False}})
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr


# --- what is at our handles already ---


@pytest.mark.parametrize("handle", ["0x81000001", "0x81000002"])
def test_a_foreign_object_is_refused_by_name_and_never_evicted(
    make_device: MakeDevice, handle: str
) -> None:
    device = make_device()
    attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"
    create = ["tpm2_createprimary", "-C", "o", "-G", "ecc", "-a", attributes, "-c", "foreign.ctx"]
    tools(device, *create)
    tools(device, "tpm2_evictcontrol", "-C", "o", "-c", "foreign.ctx", handle)
    tools(device, "tpm2_flushcontext", "-t")
    with Tpm(device.tcti) as tpm:
        before = tpm.public(int(handle, 16))
    code = "handle-occupied" if handle.endswith("1") else "ldevid-key-lost"
    assert handle in refused(device, 69, code)
    with Tpm(device.tcti) as tpm:
        assert tpm.public(int(handle, 16)) == before


@pytest.mark.parametrize("algorithm", ["rsa", "ecc"])
def test_an_srk_that_others_made_is_adopted(make_device: MakeDevice, algorithm: str) -> None:
    """As the shell scripts leave it (no noDA), or systemd (ECC)."""
    device = make_device()
    create = ["tpm2_createprimary", "-C", "o", "-g", "sha256", "-G", algorithm, "-c", "srk.ctx"]
    tools(device, *create)
    tools(device, "tpm2_evictcontrol", "-C", "o", "-c", "srk.ctx", "0x81000001")
    tools(device, "tpm2_flushcontext", "-t")
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
    assert "already done: 0x81000001" in done.stderr


def test_a_tpm_with_a_password_on_the_owner_hierarchy(make_device: MakeDevice) -> None:
    device = make_device()
    tools(device, "tpm2_changeauth", "-c", "owner", "s3cret")
    said = refused(device, 69, "tpm-auth")
    assert "tpm-owner-auth" in said
    pki.write_private(device.credentials / "tpm-owner-auth", b"x" * 65)
    refused(device, 78, "secret-unreadable")
    pki.write_private(device.credentials / "tpm-owner-auth", b"s3cret")
    done = device.agent("provision")
    assert done.returncode == 0, done.stderr


def test_status_needs_no_password_of_the_owner_hierarchy(make_device: MakeDevice) -> None:
    device = make_device()
    assert device.agent("provision").returncode == 0
    tools(device, "tpm2_changeauth", "-c", "owner", "s3cret")
    status = device.agent("status")
    assert status.returncode == 0, status.stdout


def test_an_idevid_behind_a_locked_platform_hierarchy(make_device: MakeDevice) -> None:
    """As the shell scripts define the index, on a PC whose firmware gives nobody its password."""
    device = make_device()
    tools(device, "tpm2_changeauth", "-c", "platform", "s3cret")
    refused(device, 69, "nv-locked")
    assert untouched(device)
