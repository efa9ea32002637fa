"""The TPM resource manager that tpm2_ptool cannot do without: tpm2-abrmd on a bus of its own. On a
device the kernel's /dev/tpmrm0 plays this part."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab import process

TCTI = "tabrmd:bus_type=session"
BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


@contextmanager
def running(directory: Path, tcti: str) -> Iterator[dict[str, str]]:
    """In front of the TPM at `tcti`; gives what programs that use it need in their environment."""
    directory.mkdir()
    socket, config = directory / "bus.sock", directory / "bus.conf"
    config.write_text(BUS.format(socket=socket))
    tools = ("TPM2TOOLS_TCTI", "TPM2_PKCS11_TCTI", "TPM2OPENSSL_TCTI")
    env = {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={socket}"} | dict.fromkeys(tools, TCTI)
    bus = ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile"]
    with process.running(bus, directory / "bus.log", socket.exists):
        abrmd = ["/usr/sbin/tpm2-abrmd", "--session", "--allow-root", f"--tcti={tcti}"]
        log = directory / "abrmd.log"
        manager = process.start(abrmd, log, env={**os.environ, **env})
        try:
            process.wait(manager, lambda: _answers(env), log)
            yield env
        finally:
            process.stop(manager)


def _answers(env: dict[str, str]) -> bool:
    asked = ["tpm2_getcap", "handles-transient"]
    done = subprocess.run(asked, env={**os.environ, **env}, capture_output=True, check=False)
    return done.returncode == 0
