"""What the sandboxes of our units let through, tried from within: the very settings that are
installed, with a program of ours in the place of the real one."""

import json
from typing import Any

PROBE = "/etc/sandbox-probe.py"  # where each of them can read it
TPM_SIDE, NETWORK_SIDE = "/run/tpm-side.json", "/run/network-side.json"
PYTHON = "/usr/lib/tpm2cloud/bin/python"

UNITS = (
    "tpm2cloud-firstboot.service",
    "tpm2cloud-health.service",
    "tpm2cloud-telemetry.service",
    "tpm2cloud_network@1.service",
)
EXPOSURE = f"for unit in {' '.join(UNITS)}; do systemd-analyze security --no-pager $unit; done"

# For each thing tried, "yes" or what the kernel said; and the network cards that are seen.
PROGRAM = """\
import json, os, socket, sys
host, port = sys.argv[1].split(":")
def tried(act):
    try:
        act()
    except OSError as e:
        return os.strerror(e.errno) if e.errno else str(e)
    return "yes"
files = ["/dev/tpmrm0", "/dev/tpm0", "/var/lib/tpm2cloud/ldevid.pem", "/etc/tpm2cloud/config.toml",
         "/etc/aziot/config.toml", "/run/tpm2cloud/health.json", "/etc/credstore/est-password"]
found = {each: tried(lambda: os.close(os.open(each, os.O_RDONLY))) for each in files}
for each in ("/run/credentials", "/run/dbus", "/var/lib"):
    found[each] = tried(lambda: os.listdir(each))
found["socket"] = tried(lambda: socket.socket(socket.AF_INET).close())
found["packet"] = tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close())
found["connect"] = tried(lambda: socket.create_connection((host, int(port)), 10).close())
found["bus"] = tried(lambda: socket.socket(socket.AF_UNIX).connect("/run/dbus/system_bus_socket"))
found["write"] = tried(lambda: os.close(os.open("/etc/x", os.O_CREAT | os.O_WRONLY)))
found["uid"], found["secrets"] = os.getuid(), os.environ.get("CREDENTIALS_DIRECTORY")
with open("/proc/self/net/dev") as f:
    found["cards"] = [line.split(":")[0].strip() for line in f if ":" in line]
json.dump(found, sys.stdout)
"""

# `tpm2cloud-probe` has the prefix, and so all that our services have in common; the other is made
# of the unit itself.
ASK = f"""\
cat >{PROBE} <<'END'
{PROGRAM}END
at=$(grep -rho 'https://[^/"]*:[0-9]*' /etc/tpm2cloud/ | head -n 1 | cut -c 9-)
cat >/run/systemd/system/tpm2cloud-tried.service <<END
[Service]
Type=oneshot
ExecStart={PYTHON} {PROBE} $at
StandardOutput=truncate:{TPM_SIDE}
END
sed -e "s|^ExecStart=.*|Type=oneshot\\nExecStart={PYTHON} {PROBE} $at|" -e /^StandardInput/d \\
    -e 's|^StandardOutput=.*|StandardOutput=truncate:{NETWORK_SIDE}|' \\
    /lib/systemd/system/tpm2cloud_network@.service >/run/systemd/system/tpm2cloud_tried@.service
systemctl start tpm2cloud-tried.service tpm2cloud_tried@1.service
echo; cat {TPM_SIDE}; echo; cat {NETWORK_SIDE}"""


def tried(output: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ASK has printed: of the side with the TPM, and of the side with the network."""
    tpm, network = (json.loads(line) for line in output.splitlines() if line.startswith("{"))
    return tpm, network
