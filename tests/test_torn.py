"""A power cut that left IoT Edge's certificate service with an empty file: nobody else gets over
that."""

from pathlib import Path

import pytest

from agent import x509
from agent.steps import torn
from tests.conftest import MakeDevice
from tests.lab import pki
from tests.test_provision import provisioned


@pytest.mark.parametrize("cut", [0, 300])
def test_a_device_gets_over_a_certificate_that_was_cut_off(
    make_device: MakeDevice, cut: int
) -> None:
    device = provisioned(make_device())
    [certificate] = (device.edge / "certd/certs").glob("deviceid-*.cer")
    device.run(["iotedge", "system", "stop"])
    certificate.write_bytes(certificate.read_bytes()[:cut])
    device.run(["iotedge", "system", "restart"])
    assert device.agent("status").returncode == 3

    done = device.agent("provision")
    assert done.returncode == 0, done.stderr
    assert f"'{certificate}' holds no certificate: removed" in done.stderr
    assert x509.parse(certificate.read_bytes())
    again = device.agent("provision")
    assert "removed" not in again.stderr


def test_only_what_holds_no_certificate_goes(tmp_path: Path, ca: pki.Authority) -> None:
    (tmp_path / "keep.cer").write_bytes(x509.pem(ca.chain))
    (tmp_path / "notes.txt").touch()
    (tmp_path / "torn.cer").touch()
    torn.remove(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"keep.cer", "notes.txt"}
    torn.remove(tmp_path / "never-made")
