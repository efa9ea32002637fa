"""Our units as systemd sees them: on a machine with IoT Edge's units, without that machine."""

import os
import shutil
import subprocess
from pathlib import Path

TOP = Path(__file__).parents[2]
OURS = TOP / "systemd"
SYSTEM = Path("/lib/systemd/system")
FIRSTBOOT = "tpm2cloud-firstboot.service"
HEALTH = "tpm2cloud-health.service"
TIMERS = (
    "tpm2cloud-health.timer",
    "tpm2cloud-health-boot.timer",
    "tpm2cloud-health-clock.timer",
)
NETWORK, WORKER = "tpm2cloud_network.socket", "tpm2cloud_network@.service"
COMMON = OURS / "tpm2cloud-.service.d/00-tpm2cloud.conf"  # of all our services
DAEMONS = ("keyd", "certd", "identityd", "tpmd")
SOCKETS = (*(f"aziot-{name}.socket" for name in DAEMONS), "aziot-edged.mgmt.socket",
           "aziot-edged.workload.socket")  # fmt: skip

SERVICE = """\
[Unit]
Requires={sockets}
After={sockets}

[Service]
ExecStart=/usr/bin/aziotd

[Install]
WantedBy=multi-user.target
"""
SOCKET = """\
[Unit]
PartOf={service}

[Socket]
ListenStream=/run/aziot/{name}
Service={service}

[Install]
WantedBy=sockets.target
"""
PROGRAMS = tuple(f"usr/bin/{name}" for name in ("tpm2cloud", "journalctl", "aziotd", "sh"))
PYTHON = "usr/lib/tpm2cloud/bin/python"

Settings = dict[str, list[str]]


def read(*paths: Path) -> Settings:
    """`Section.Key` and its values, in order; an empty one resets, as systemd.syntax(7) says."""
    found: Settings = {}
    section = ""
    for line in "".join(path.read_text() for path in paths).splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            values = found.setdefault(f"{section}.{key}", [])
            values.append(value) if value else values.clear()
    return found


def ours(service: str) -> Settings:
    """A service of ours, with what it has in common with the others."""
    return read(OURS / service, COMMON)


def words(settings: Settings, key: str) -> list[str]:
    """All words of a key that may be given several times."""
    return " ".join(settings.get(key, [])).split()


def drop_in(unit: str) -> Settings:
    return read(OURS / f"{unit}.d" / "10-tpm2cloud.conf")


def service_of(socket: str) -> str:
    return f"{socket.split('.')[0]}.service"


def tree(root: Path, *, also: Path | None = None) -> Path:
    """A root directory with systemd's targets, IoT Edge's units (stand-ins) and ours, enabled.

    `also`: a directory of further drop-ins.
    """
    units = root / SYSTEM.relative_to("/")
    units.mkdir(parents=True)
    for target in SYSTEM.glob("*.target"):
        shutil.copy(target, units, follow_symlinks=False)
    for each in OURS.glob("tpm2cloud*.[st]*"):
        if each.is_file():
            shutil.copy(each, units)
    for each in (*OURS.glob("*.d"), *(also.iterdir() if also else ())):
        shutil.copytree(each, units / each.name, dirs_exist_ok=True)
    _aziot(units)
    for program in (root / name for name in (*PROGRAMS, PYTHON)):
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    enable = ["systemctl", f"--root={root}", "--quiet", "enable"]
    subprocess.run([*enable, FIRSTBOOT, "aziot-edged.service", *SOCKETS], check=True)
    return root


def _aziot(units: Path) -> None:
    for socket in SOCKETS:
        service = service_of(socket)
        sockets = " ".join(each for each in SOCKETS if service_of(each) == service)
        (units / socket).write_text(SOCKET.format(service=service, name=socket))
        (units / service).write_text(SERVICE.format(sockets=sockets))


def verify(root: Path, *units: str) -> subprocess.CompletedProcess[str]:
    """`systemd-analyze verify`, which says nothing about units that are in order. (The manuals are
    made when the package is built.)"""
    return _run(["systemd-analyze", "verify", f"--root={root}", "--man=no", *units])


def transaction(root: Path) -> dict[str, Settings]:
    """What PID 1 would do to reach multi-user.target, of every unit: `After`, `Wants`, ..."""
    at = [str(root / "etc/systemd/system"), str(root / SYSTEM.relative_to("/"))]
    command = ["/lib/systemd/systemd", "--test", "--system", "--unit=multi-user.target"]
    # Not as root, it insists; in a user namespace of its own nobody need be anybody.
    nobody = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]
    done = _run([*nobody, *command, "--no-pager"], SYSTEMD_UNIT_PATH=":".join(at))
    assert done.returncode == 0, done.stderr
    assert "cycle" not in done.stderr
    return _dump(done.stdout)


def _dump(text: str) -> dict[str, Settings]:
    found: dict[str, Settings] = {}
    unit: Settings = {}
    for line in text.splitlines():
        key, _, value = line.strip().partition(": ")
        if key.startswith("-> Unit "):
            unit = found.setdefault(key.removeprefix("-> Unit ").rstrip(":"), {})
        elif value:
            unit.setdefault(key, []).append(value.partition(" (")[0])
    return found


def exposure(root: Path, unit: str, *, at_most: int) -> subprocess.CompletedProcess[str]:
    """`systemd-analyze security`; `at_most` in tenths."""
    options = ["--offline=true", f"--root={root}", f"--threshold={at_most}", "--no-pager"]
    return _run(["systemd-analyze", "security", *options, unit])


def version() -> int:
    """systemd's, such as 252."""
    return int(_run(["systemd-analyze", "--version"]).stdout.split()[1])


def _run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0", **environment}
    return subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, check=False)
