"""The root directory of a golden image, as far as `tpm2cloud lint-image` looks: our units and IoT
Edge's stand-in ones, a configuration, and for the rest empty files where packages have theirs."""

import json
import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent import config, lint
from agent.tpm.approved import State
from tests.lab import pki
from tests.lab.aziot import units as aziot
from tests.lab.process import TOP

CONFIG = """\
[dps]
id_scope = "0ne00LAB000"
[ldevid.est]
url = "https://est.contoso.test/.well-known/est"
[operational]
url = "https://ops.contoso.test/.well-known/est"
"""
INSTALLED = "Package: {}\nStatus: install ok installed\nVersion: 0.1.0\n"
PLAIN = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
SYSTEM = "usr/lib/systemd/system"
KEY = pki.private_pem(pki.new_key())
ID = "0123456789abcdef0123456789abcdef\n"
UNIT = "tpm2cloud-firstboot.service"
DROP_INS = f"etc/systemd/system/{UNIT}.d"
BASIC = 'auth = "basic"\nusername = "device"\n'
PROXY = '[proxy]\nurl = "http://proxy.contoso.test:3128"\nusername = "device"\n'
EMPTY = {
    "usr/bin/iotedge": 0o755,
    "usr/lib/udev/rules.d/60-tpm-udev.rules": 0o644,
    "usr/lib/x86_64-linux-gnu/libtss2-tcti-device.so.0": 0o644,
    "usr/lib/x86_64-linux-gnu/libtss2-tcti-tabrmd.so.0": 0o644,
    "usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so": 0o644,
    "usr/lib/clock-epoch": 0o644,
    "usr/lib/tpm2cloud/lib/python3.11/site-packages/agent/__init__.py": 0o644,
    "usr/bin/python3.11": 0o755,
}


def _public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class Root:
    """A root directory, and what a test does to it. Paths have no "/" in front."""

    path: Path
    ca: pki.Authority

    def place(self, path: str) -> Path:
        """Where nothing is any more, in a directory."""
        file = self.path / path
        for each in (file.parent, file):
            if each.is_file() or each.is_symlink():
                each.unlink()
        if file.is_dir():
            shutil.rmtree(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def write(self, path: str, data: str | bytes = "", mode: int = 0o644) -> Path:
        file = self.place(path)
        file.write_bytes(data.encode() if isinstance(data, str) else data)
        file.chmod(mode)
        return file

    def link(self, path: str, target: str) -> None:
        self.place(path).symlink_to(target)

    def configure(self, old: str, new: str) -> None:
        assert old in CONFIG
        self.write("etc/tpm2cloud/config.toml", CONFIG.replace(old, new))

    def add(self, more: str) -> Path:
        return self.write("etc/tpm2cloud/config.d/more.toml", more)

    def trust(self, *, name: str = "est-ca", lasts: int = 1000, starts: int = -999) -> None:
        """A CA's certificate, in days from today."""
        key, begin, length = self.ca.key.public_key(), timedelta(starts), timedelta(lasts)
        made = self.ca.issue(key, "CA", ca=True, usages=(), starts=begin, lasts=length)
        self.write(f"etc/tpm2cloud/{name}.pem", pki.pem(made))

    def passwords(self, name: str) -> Path:
        """The TPM is to get this one; returns the owner's public key."""
        escrow = "/etc/tpm2cloud/escrow.pem"
        self.add(f'[tpm.authorization]\n{name} = "random"\nescrow = "{escrow}"\n')
        return self.write(escrow[1:], _public(ec.generate_private_key(ec.SECP256R1())))

    def approved(self) -> str:
        """A boot state, as docs/factory.md says; returns the directory."""
        key, at = ec.generate_private_key(ec.SECP256R1()), "etc/tpm2cloud/boot-states.d"
        self.write(f"{at}/maker.pem", _public(key))
        told = json.dumps({"pcrs": "sha256:7", "values": {"7": "11" * 32}})
        state = State.of_json(told.encode())
        self.write(f"{at}/fw-1.0.json", told)
        self.write(f"{at}/fw-1.0.sig", key.sign(state.to_sign, ec.ECDSA(hashes.SHA256())))
        return at

    def remove(self, path: str) -> None:
        (self.path / path).unlink()

    def look(self) -> list[lint.Finding]:
        return lint.look(self.path, config.ETC / "config.toml")

    def codes(self) -> set[str]:
        return {found.code for found in self.look()}


def build(path: Path) -> Root:
    """An image as it should be."""
    root = Root(path, pki.root("CA"))
    root.path.mkdir()
    for name, mode in EMPTY.items():
        root.write(name, "", mode)
    root.link("lib", "usr/lib")
    root.write("etc/machine-id", "uninitialized\n")
    root.write("etc/passwd", "root:x:0:0::/root:/bin/sh\naziotks:x:101:101::/:/bin/false\n")
    root.write("etc/shadow", "root:*:19000::::::\n", 0o640)
    packages = [INSTALLED.format(name) for name in ("tpm2cloud", "aziot-edge")]
    root.write("var/lib/dpkg/status", "\n".join(packages))
    _command(root)
    _configuration(root)
    _units(root)
    return root


def _command(root: Root) -> None:
    """As the package has it."""
    root.write("usr/lib/tpm2cloud/bin/tpm2cloud", "#!/usr/lib/tpm2cloud/bin/python\n", 0o755)
    root.link("usr/bin/tpm2cloud", "../lib/tpm2cloud/bin/tpm2cloud")
    root.link("usr/lib/tpm2cloud/bin/python", "/usr/bin/python3")
    root.link("usr/bin/python3", "python3.11")


def _configuration(root: Root) -> None:
    root.write("etc/tpm2cloud/config.toml", CONFIG)
    for name in ("idevid-ca", "est-ca", "operational-ca", "tpm-roots.d/maker"):
        root.write(f"etc/tpm2cloud/{name}.pem", pki.pem(root.ca.root))
    root.write("etc/ssl/certs/ca-certificates.crt", pki.pem(root.ca.root))


def _units(root: Root) -> None:
    """Ours are the real ones."""
    for file in (TOP / "systemd").rglob("*.*"):
        if file.is_file() and "since-254" not in file.parts:
            below = file.parent.name if file.parent.suffix == ".d" else ""
            to = f"{SYSTEM}-preset" if file.suffix == ".preset" else f"{SYSTEM}/{below}"
            root.write(f"{to}/{file.name}", file.read_bytes())
    for name in aziot.USERS:
        root.write(f"{SYSTEM}/aziot-{name}.service", aziot.service(name))
        root.write(f"{SYSTEM}/aziot-{name}.socket", aziot.socket(name))
    for name, text in aziot.EDGED.items():
        root.write(f"{SYSTEM}/{name}", text)
    for name in ("tpm2-abrmd", "systemd-timesyncd", "systemd-networkd"):
        root.write(f"{SYSTEM}/{name}.service", PLAIN)
