"""A TPM 2.0 as the chip's maker ships it: swtpm, with an EK certificate from a CA of its own."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.lab import process

LOCALCA = """\
statedir = {ca}
signingkey = {ca}/signkey.pem
issuercert = {ca}/issuercert.pem
certserial = {ca}/certserial
"""
OPTIONS = """\
--tpm-manufacturer id:00001014
--tpm-model swtpm-libtpms
--tpm-version 2
--platform-manufacturer Lab
--platform-version 2.1
--platform-model Lab
"""
SETUP = """\
create_certs_tool = {tool}
create_certs_tool_config = {ca}/localca.conf
create_certs_tool_options = {ca}/localca.options
active_pcr_banks = sha256
"""


def make(state: Path, ca: Path) -> None:
    """A new TPM in the directory `state`; `ca` holds (or gets) its maker's CA."""
    for directory in (state, ca):
        directory.mkdir(parents=True, exist_ok=True)
    tool = shutil.which("swtpm_localca")
    (ca / "localca.conf").write_text(LOCALCA.format(ca=ca))
    (ca / "localca.options").write_text(OPTIONS)
    (ca / "setup.conf").write_text(SETUP.format(ca=ca, tool=tool))
    setup = ["swtpm_setup", "--tpm2", "--tpmstate", str(state), "--config", str(ca / "setup.conf")]
    options = ["--create-ek-cert", "--create-platform-cert", "--overwrite"]
    log = ["--logfile", str(state / "setup.log")]
    done = subprocess.run([*setup, *options, *log], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def roots(ca: Path) -> Path:
    """The maker's root certificate, PEM; its intermediate is `ca/issuercert.pem`."""
    return ca / "swtpm-localca-rootca-cert.pem"


def start(state: Path) -> subprocess.Popen[bytes]:
    """Power on; the TCTI is `tcti(state)`. The caller ends the process (that is a power cut)."""
    data, control = state / "tpm.sock", state / "tpm.sock.ctrl"
    server = ["--server", f"type=unixio,path={data}", "--ctrl", f"type=unixio,path={control}"]
    flags = ["--flags", "not-need-init,startup-clear"]
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", *server, *flags]
    log = state / "swtpm.log"
    started = process.start(command, log)
    process.wait(started, lambda: process.listens(data) and process.listens(control), log)
    return started


def tcti(state: Path) -> str:
    return f"swtpm:path={state}/tpm.sock"


@contextlib.contextmanager
def running(state: Path) -> Iterator[str]:
    """The TCTI of a TPM that runs for the length of the `with`."""
    started = start(state)
    try:
        yield tcti(state)
    finally:
        process.stop(started)
