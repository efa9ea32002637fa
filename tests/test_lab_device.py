"""The lab's devices are what factory and golden image make, and the lab leaves nothing behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from cryptography import x509

from agent.tpm import Tpm
from tests.lab import process, swtpm
from tests.lab.device import Device, Wish
from tests.lab.factory import Board, Tools
from tests.lab.world import World

IDEVID, IDEVID_CERTIFICATE = 0x81020000, 0x01C90000


# --- the factory ---


def test_the_factory_leaves_what_the_scripts_leave(world: World, tmp_path: Path) -> None:
    with Device(world, tmp_path / "d") as device, Tpm(device.tcti) as tpm:
        assert tpm.loaded() == set()
        key = tpm.public(IDEVID)
        assert key is not None
        tools = Tools(device.tcti, str(tmp_path))
        shown = tools("readpublic", "-c", hex(IDEVID))
        index = tools("nvreadpublic", hex(IDEVID_CERTIFICATE))
        stored = tpm.nv_read(IDEVID_CERTIFICATE)
    assert stored is not None
    certificate = x509.load_der_x509_certificate(stored)  # it fails if the size is not exact
    certificate.verify_directly_issued_by(world.oem.certificate)
    assert certificate.public_key() == key.key
    subject = "CN=board-0001,OU=iotedge-tpm2cloud,O=Contoso,L=Redmond,ST=Washington,C=US"
    assert certificate.subject.rfc4514_string() == subject
    attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|decrypt|sign"
    assert f"value: {attributes}\n" in shown
    assert "bits: 2048\n" in shown
    assert f"size: {len(stored)}" in index
    for flag in ("ppwrite", "write_stclear", "ppread", "platformcreate"):
        assert flag in index
    assert "ownerread" not in index


def test_the_ek_is_certified_by_its_maker(world: World, tmp_path: Path) -> None:
    with Device(world, tmp_path / "d") as device, Tpm(device.tcti) as tpm:
        key, stored = tpm.public(0x81010001), tpm.nv_read(0x01C00002)
    assert key is not None
    assert stored is not None
    certificate = x509.load_der_x509_certificate(stored)
    assert certificate.public_key() == key.key
    [root] = x509.load_pem_x509_certificates(swtpm.roots(world.maker).read_bytes())
    between = x509.load_pem_x509_certificate((world.maker / "issuercert.pem").read_bytes())
    certificate.verify_directly_issued_by(between)
    between.verify_directly_issued_by(root)


def test_a_factory_can_do_it_wrong(world: World, tmp_path: Path) -> None:
    padded = Board(key="ecc256", padding=100)
    with Device(world, tmp_path / "padded", Wish(board=padded)) as device, Tpm(device.tcti) as tpm:
        stored = tpm.nv_read(IDEVID_CERTIFICATE)
        assert stored is not None
        assert stored.endswith(b"\xff" * 100)
    without = Board(certificate="none")
    with (
        Device(world, tmp_path / "without", Wish(board=without)) as device,
        Tpm(device.tcti) as tpm,
    ):
        assert tpm.nv_read(IDEVID_CERTIFICATE) is None
        assert tpm.public(IDEVID) is not None
    other = Board(certificate="other-key")
    with Device(world, tmp_path / "other", Wish(board=other)) as device, Tpm(device.tcti) as tpm:
        stored, key = tpm.nv_read(IDEVID_CERTIFICATE), tpm.public(IDEVID)
        assert stored is not None
        assert key is not None
        assert x509.load_der_x509_certificate(stored).public_key() != key.key


# --- devices and processes ---


def test_devices_of_one_board_do_not_share_a_tpm(world: World, tmp_path: Path) -> None:
    with Device(world, tmp_path / "a") as a, Device(world, tmp_path / "b", Wish(id="b")) as b:
        with Tpm(a.tcti) as tpm, tpm.srk("ecc256") as srk:
            tpm.persist(srk, 0x81000001)
        with Tpm(b.tcti) as tpm:
            assert tpm.public(0x81000001) is None


def test_a_power_cut_keeps_what_was_made_persistent(world: World, tmp_path: Path) -> None:
    with Device(world, tmp_path / "d") as device:
        with Tpm(device.tcti) as tpm, tpm.srk("ecc256") as srk:
            tpm.persist(srk, 0x81000001)
        device.power_cut()
        device.power_on()
        with Tpm(device.tcti) as tpm:
            assert tpm.public(0x81000001) is not None


def test_only_its_owner_can_read_a_credential_and_none_is_in_the_configuration(
    world: World, tmp_path: Path
) -> None:
    device = Device(world, tmp_path / "d", Wish(auth="basic", operational_auth="basic"))
    for name in ("est-password", "est-secret", "operational-password"):
        file = device.credentials / name
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.read_text() not in device.config.read_text()
        assert file.read_text() not in str(device.environment())


def test_settings_can_be_changed_and_taken_out(world: World, tmp_path: Path) -> None:
    device = Device(world, tmp_path / "d")
    device.configure({"dps": {"id_scope": "0ne99999999"}, "ldevid": {"est": {"issuer": None}}})
    text = device.config.read_text()
    assert 'id_scope = "0ne99999999"' in text
    assert f'endpoint = "{world.dps.url}"' in text
    assert "issuer =" not in text


def test_nothing_is_left_when_whoever_made_the_lab_is_killed(tmp_path: Path) -> None:
    script = f"""
        import os, pathlib, signal
        from tests.lab.lab import Lab
        with Lab(pathlib.Path({str(tmp_path / "lab")!r})):
            print("up", flush=True)
            signal.pause()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=process.TOP) as maker:
        try:
            assert maker.stdout is not None
            assert maker.stdout.readline() == "up\n"
            started = children_of(maker.pid)
        finally:
            os.kill(maker.pid, signal.SIGKILL)
    assert len(started) == 6  # three EST servers, nginx, provisioning service, TPM
    until = time.monotonic() + 10
    while any(alive(pid) for pid in started):
        assert time.monotonic() < until
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    shown = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True
    )
    return [int(child) for child in shown.stdout.split()]


def alive(pid: int) -> bool:
    """Whether it runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
