"""Stand-ins for Microsoft's Debian packages aziot-identity-service and aziot-edge, to be installed
in images: the program of tests/lab/iotedge with the real packages' paths, users, groups, owners,
modes, units and enablement. They show what a single process for everything hides: who may read
what, what systemd starts when, and what is missing at that moment.

    identity_service, edge = aziot.build(directory)

Install both, in this order (`apt-get install ./*.deb`, or dpkg). Beside them an image needs:

- psmisc, ca-certificates, adduser, hostname and sed, which the packages depend on as the real do;
- the lab's TLS root as /usr/local/share/ca-certificates/NAME.crt and `update-ca-certificates`: the
  provisioning service is judged by /etc/ssl/certs/ca-certificates.crt;
- for aziot-keyd what the tpm2cloud package and its drop-in ask for: libtpm2-pkcs11-1, tpm2-abrmd,
  libtss2-tcti-tabrmd0. Of the unit's environment keyd changes nothing.

The services' words are in the journal, as ever. Their evidence is /var/lib/aziot/SERVICE/log.jsonl,
one JSON object a line: `time`, `event`, and more. Every service writes `started` (uid, gid,
groups, sockets), `serving` or, before it exits with 1, `failed` (error). keyd: `key-created`,
`signed`, `sign-failed`, `refused`; certd: `issued`, `enrol-failed`, `renewal-failed`, `refused`;
identityd: `provisioning`, `provisioned`, `provisioning-failed`, `assigned`, `dps`, `api`; edged:
`identity`, `stopped`.

As on a real device: services without configuration, or without what they need at start, exit with 1
and systemd starts them again after 5 seconds; identityd provisions before it serves; `iotedge
config apply` stops and starts units by `systemctl`, and does not mind if that fails. There is no
container engine: its group `docker` is made by the package.

Nothing of Microsoft's packages is in them; versions end in ~lab.
"""

import os
import shutil
import subprocess
from pathlib import Path

from tests.lab.aziot import units
from tests.lab.process import TOP

VERSION = "1.6.0-1~lab"
HERE = Path(__file__).parent
SERVICES = ("certd", "identityd", "keyd", "tpmd")
PROGRAM = "usr/libexec/aziot-identity-service/aziotd"

CONTROL = """\
Package: {name}
Version: {version}
Architecture: {architecture}
Maintainer: tpm2cloud's tests <nobody@localhost>
Section: admin
Priority: optional
Depends: {depends}
Description: stand-in for {name}, for tests only
 It has the users, files and units of the real package, and does what the
 tests of tpm2cloud need of it.
"""


def build(directory: Path) -> tuple[Path, Path]:
    """The two packages, as files in `directory`, for this machine's architecture. Needs the program
    that ./tests/setup builds; takes a second, no root and no network."""
    directory.mkdir(parents=True, exist_ok=True)
    return _identity_service(directory), _edge(directory)


def _identity_service(directory: Path) -> Path:
    root = directory / "identity-service"
    _file(root / PROGRAM, (TOP / ".lab/bin/iotedge").read_bytes(), 0o755)
    for name in SERVICES:
        _link(root, f"usr/libexec/aziot-identity-service/aziot-{name}", PROGRAM)
        _configuration(root, name)
        _directory(root / "var/lib/aziot" / name)
        _unit(root, f"aziot-{name}.service", units.service(name))
        _unit(root, f"aziot-{name}.socket", units.socket(name))
    _link(root, "usr/bin/aziotctl", PROGRAM)
    _file(root / "etc/aziot/config.toml.template", b"# See the real package's.\n")
    depends = "libc6, psmisc"
    return _package(root, "aziot-identity-service", HERE / "identity-service", depends)


def _edge(directory: Path) -> Path:
    root = directory / "edge"
    _link(root, "usr/libexec/aziot/aziot-edged", PROGRAM)
    _link(root, "usr/bin/iotedge", PROGRAM)
    _configuration(root, "edged")
    for name, text in units.EDGED.items():
        _unit(root, name, text)
    _file(root / "etc/aziot/config.toml.edge.template", b"# See the real package's.\n")
    needs = "adduser, ca-certificates, hostname, psmisc, sed"
    depends = f"{needs}, aziot-identity-service (= {VERSION})"
    return _package(root, "aziot-edge", HERE / "edge", depends)


def _configuration(root: Path, service: str) -> None:
    """An example that nobody reads, and the directory that `config apply` writes to."""
    _file(root / "etc/aziot" / service / "config.toml.default", b"# See the real package's.\n")
    _directory(root / "etc/aziot" / service / "config.d")


def _unit(root: Path, name: str, text: str) -> None:
    _file(root / "lib/systemd/system" / name, text.encode())


# --- packages ------------------------------------------------------------------------------------


def _package(root: Path, name: str, scripts: Path, depends: str) -> Path:
    done = subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
    )
    architecture = done.stdout.strip()
    control = CONTROL.format(name=name, version=VERSION, architecture=architecture, depends=depends)
    _file(root / "DEBIAN/control", control.encode())
    etc = sorted(f"/{file.relative_to(root)}\n" for file in root.glob("etc/**/*") if file.is_file())
    _file(root / "DEBIAN/conffiles", "".join(etc).encode())
    for script in scripts.iterdir():
        _file(root / "DEBIAN" / script.name, script.read_bytes(), 0o755)
    package = root.parent / f"{name}_{VERSION}_{architecture}.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(root)]
    subprocess.run([*command, str(package)], capture_output=True, check=True)
    shutil.rmtree(root)
    return package


def _directory(path: Path) -> None:
    """With the mode that a package has it by, whatever the umask."""
    for directory in (*reversed(path.parents), path):
        if not directory.exists():
            directory.mkdir()
            directory.chmod(0o755)


def _file(path: Path, content: bytes, mode: int = 0o644) -> None:
    _directory(path.parent)
    path.write_bytes(content)
    path.chmod(mode)


def _link(root: Path, path: str, target: str) -> None:
    """Relative, so that the program may be looked at wherever the package is unpacked."""
    _directory((root / path).parent)
    (root / path).symlink_to(os.path.relpath(target, Path(path).parent))
