"""A golden image before it is flashed: everything that can be wrong with it, and that the remedies
help. The image is a directory tree with what a builder has in it; nothing of it is run."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from agent import config, lint
from agent.lint import unitfiles, units
from agent.lint.image import Image
from agent.lint.rules import Rule
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

    def remove(self, path: str) -> None:
        (self.path / path).unlink()

    def look(self) -> list[lint.Finding]:
        return lint.look(self.path, config.ETC / "config.toml")

    def codes(self) -> set[str]:
        return {found.code for found in self.look()}


@pytest.fixture(scope="module")
def ca() -> pki.Authority:
    return pki.root("CA")


@pytest.fixture(scope="module")
def built(ca: pki.Authority, tmp_path_factory: pytest.TempPathFactory) -> Root:
    """An image as it should be; a test gets a copy."""
    root = Root(tmp_path_factory.mktemp("image") / "root", ca)
    root.path.mkdir()
    for path, mode in EMPTY.items():
        root.write(path, "", mode)
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


@pytest.fixture
def root(built: Root, tmp_path: Path) -> Root:
    shutil.copytree(built.path, tmp_path / "root", symlinks=True)
    return Root(tmp_path / "root", built.ca)


def test_an_image_as_it_should_be_has_no_findings(root: Root) -> None:
    assert root.look() == []


def test_a_look_changes_nothing(root: Root) -> None:
    def state() -> list[tuple[Path, float]]:
        return sorted((path, path.lstat().st_mtime) for path in root.path.rglob("*"))

    before = state()
    root.look()
    assert state() == before


# --- each code, by what provokes it --------------------------------------------------------------

KEY = pki.private_pem(pki.new_key())
ID = "0123456789abcdef0123456789abcdef\n"
UNIT = "tpm2cloud-firstboot.service"
DROP_INS = f"etc/systemd/system/{UNIT}.d"
BASIC = 'auth = "basic"\nusername = "device"\n'


def _half_installed(root: Root) -> None:
    text = INSTALLED.format("aziot-edge").replace("ok installed", "ok half-configured")
    root.write("var/lib/dpkg/status", text)


def _basic(root: Root, more: str = "") -> Path:
    return root.add(f"[ldevid.est]\n{BASIC}{more}")


def _no_ca(root: Root) -> None:
    leaf = root.ca.issue(pki.new_key().public_key(), "server")
    root.write("etc/tpm2cloud/est-ca.pem", pki.pem(leaf))


def _loop(root: Root) -> None:
    root.link("etc/hostname", "/etc/hostname")


def _lab_ca(root: Root) -> None:
    text = re.sub(r"\[ldevid.est\]\nurl.*", '[ldevid.ca]\ncertificate="/c.pem"\nkey="/k"', CONFIG)
    root.write("etc/tpm2cloud/config.toml", text)
    root.write("c.pem", pki.pem(root.ca.root))
    root.write("k", KEY, 0o600)


def _old(root: Root) -> None:
    os.utime(root.path / "usr/lib/clock-epoch", (1_600_000_000, 1_600_000_000))


def _in_2100(root: Root) -> None:
    os.utime(root.path / "usr/lib/clock-epoch", (4_102_444_800, 4_102_444_800))


PROVOKED: dict[str, Callable[[Root], object]] = {
    "unseen": _loop,
    "machine-id-set": lambda r: r.write("etc/machine-id", ID),
    "machine-id-odd": lambda r: r.write("etc/machine-id", "unset\n"),
    "machine-id-absent": lambda r: r.remove("etc/machine-id"),
    "machine-id-fixed": lambda r: r.write("boot/cmdline.txt", f"quiet systemd.machine_id={ID}"),
    "dbus-machine-id": lambda r: r.write("var/lib/dbus/machine-id", ID),
    "ssh-host-key": lambda r: r.write("etc/ssh/ssh_host_ed25519_key", KEY, 0o600),
    "ssh-host-keys-unmade": lambda r: r.write(f"{SYSTEM}/ssh.service", PLAIN),
    "random-seed": lambda r: r.write("var/lib/systemd/random-seed", "seed", 0o600),
    "host-secret": lambda r: r.write("var/lib/systemd/credential.secret", "secret", 0o400),
    "hostname-fixed": lambda r: r.write("etc/hostname", "build-host-7\n"),
    "network-left": lambda r: r.write("etc/resolv.conf", "nameserver 192.168.1.1\n"),
    "state-left": lambda r: r.write("var/lib/tpm2cloud/pkcs11/tpm2_pkcs11.sqlite3", "rows"),
    "aziot-state-left": lambda r: r.write("var/lib/aziot/certd/certs/deviceid.cer", "cert"),
    "aziot-configured": lambda r: r.write("etc/aziot/keyd/config.d/00-super.toml", "", 0o600),
    "run-left": lambda r: r.write("run/aziot/keyd.sock"),
    "log-left": lambda r: r.write(f"var/log/journal/{ID.strip()}/system.journal", "journal"),
    "history-left": lambda r: r.write("root/.bash_history", "curl -u me:secret https://x\n"),
    "build-left": lambda r: r.write("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755),
    "secret-readable": lambda r: r.write("etc/credstore/est-password", "secret", 0o640),
    "secret-unusable": lambda r: (_basic(r), r.write("etc/credstore/est-password", "\n", 0o600)),
    "secret-absent": _basic,
    "secret-in-unit": lambda r: r.write(
        f"{DROP_INS}/x.conf", "[Service]\nSetCredential=est-password:x\n"
    ),
    "secret-sealed": lambda r: r.write("etc/credstore.encrypted/est-password", "c2VhbGVk"),
    "private-key": lambda r: r.write("root/ops.key", KEY, 0o600),
    "others-may-write": lambda r: (r.path / "etc/tpm2cloud/est-ca.pem").chmod(0o666),
    "password-empty": lambda r: r.write("etc/shadow", "root::19000::::::\n"),
    "unit-absent": lambda r: r.remove(f"{SYSTEM}/{UNIT}"),
    "unit-masked": lambda r: r.link(f"etc/systemd/system/{UNIT}", "/dev/null"),
    "unit-not-enabled": lambda r: r.write("etc/machine-id", ""),
    "preset-disables": lambda r: r.write("etc/systemd/system-preset/00-x.preset", "disable tpm2*"),
    "aziot-not-enabled": lambda r: r.write(
        "etc/systemd/system-preset/00-x.preset", "disable aziot-certd.socket"
    ),
    "aziot-service-enabled": lambda r: r.link(
        "etc/systemd/system/multi-user.target.wants/aziot-keyd.service", "/nowhere"
    ),
    "drop-in-absent": lambda r: r.link(
        "etc/systemd/system/aziot-keyd.service.d/10-tpm2cloud.conf", "/dev/null"
    ),
    "package-absent": lambda r: r.remove("usr/bin/iotedge"),
    "package-unfinished": _half_installed,
    "agent-broken": lambda r: r.link("usr/bin/python3", "python3.12"),
    "agent-other-version": lambda r: r.write(
        "var/lib/dpkg/status", INSTALLED.format("tpm2cloud").replace("0.1.0", "0.0.9")
    ),
    "time-sync-absent": lambda r: r.remove(f"{SYSTEM}/systemd-timesyncd.service"),
    "network-absent": lambda r: r.remove(f"{SYSTEM}/systemd-networkd.service"),
    "config-absent": lambda r: r.remove("etc/tpm2cloud/config.toml"),
    "config-invalid": lambda r: r.add("[tpm]\nkye = 1"),
    "config-example": lambda r: r.configure("est.contoso.test", "est.example.com"),
    "device-id-fixed": lambda r: r.add('[device]\nid = "gateway-1"'),
    "device-id-invalid": lambda r: r.add('[device]\nid = "{serail}"'),
    "tpm-simulated": lambda r: r.add('[tpm]\ntcti = "swtpm:path=/x"'),
    "lab-ca": _lab_ca,
    "pkcs11-store-differs": lambda r: r.add('[pkcs11]\nstore = "/data/pkcs11"'),
    "user-absent": lambda r: r.write("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
    "trust-unreadable": lambda r: r.remove("etc/tpm2cloud/est-ca.pem"),
    "trust-not-ca": _no_ca,
    "trust-expired": lambda r: r.trust(lasts=500),
    "trust-ends-soon": lambda r: r.trust(lasts=999 + 30),
    "trust-too-new": lambda r: r.trust(starts=10),
    "trust-unshared": lambda r: (r.path / "etc/tpm2cloud/operational-ca.pem").chmod(0o600),
    "roots-absent": lambda r: r.remove("etc/tpm2cloud/tpm-roots.d/maker.pem"),
    "clock-floor-future": _in_2100,
    "clock-floor-old": _old,
}
IN_A_SHELL = re.compile(r"(echo|ln|rm|touch|chmod|chown)( [^(,]*)$")


@pytest.mark.parametrize("rule", list(lint.every_code()), ids=lambda rule: str(rule.code))
def test_what_is_wrong_is_found_and_its_remedy_helps(rule: Rule, root: Root) -> None:
    PROVOKED[rule.code](root)
    found = [each for each in root.look() if each.code == rule.code]
    assert found, root.look()
    for each in found:
        assert each.severity == rule.severity
        assert each.path.startswith("/")
        assert not re.search("{(root|at|unit|name|package|user|store)}", each.remedy)
    if IN_A_SHELL.match(found[0].remedy) and not ("chown" in found[0].remedy and os.geteuid()):
        subprocess.run(["sh", "-ec", found[0].remedy], check=True)
        assert rule.code not in root.codes()


NO_PRESETS = {"unit-not-enabled", "aziot-not-enabled", "network-absent", "time-sync-absent"}
FOLLOWS = dict.fromkeys(("machine-id-set", "machine-id-odd", "unit-not-enabled"), NO_PRESETS)
FOLLOWS["trust-too-new"] = {"clock-floor-old"}


@pytest.mark.parametrize("code", PROVOKED)
def test_what_is_wrong_alone_is_found_alone(code: str, root: Root) -> None:
    """And what follows from it: without a first boot nobody applies presets."""
    PROVOKED[code](root)
    assert root.codes() - {code} <= FOLLOWS.get(code, set())


def test_every_code_is_unique_and_told_in_one_style() -> None:
    rules = list(lint.every_code())
    assert len({rule.code for rule in rules}) == len(rules)
    for rule in rules:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.code)
        assert rule.meaning.endswith(".")
        assert rule.remedy
        assert not rule.remedy.endswith(".")


# --- nothing beyond the image --------------------------------------------------------------------


def test_links_mean_places_in_the_image(root: Root) -> None:
    """An absolute one, one that climbs, and one through a linked directory."""
    root.write("data/cfg/config.toml", CONFIG.replace("0ne00LAB000", "0ne00000000"))
    root.link("etc/tpm2cloud/config.toml", "/data/cfg/config.toml")
    assert root.codes() == {"config-example"}
    root.link("here", "/data")
    root.link("etc/tpm2cloud/config.toml", "../../../../../../../here/cfg/config.toml")
    assert root.codes() == {"config-example"}


def test_what_only_the_builder_has_is_not_in_the_image(root: Root, tmp_path: Path) -> None:
    outside = tmp_path / "est-ca.pem"
    outside.write_bytes(pki.pem(root.ca.root))
    root.link("etc/tpm2cloud/est-ca.pem", str(outside))
    root.link("usr/bin/python3", "/usr/bin/env")
    assert root.codes() == {"trust-unreadable", "agent-broken"}


def test_a_secret_behind_a_link_is_judged_where_it_is(root: Root) -> None:
    root.write("data/password", "secret", 0o644)
    root.link("data/link", "/data/password")
    root.add(f'[ldevid.est]\n{BASIC}password_file = "/data/link"\n')
    assert root.codes() == {"secret-readable"}
    (root.path / "data/password").chmod(0o600)
    assert root.codes() == set()


# --- where it cannot look ------------------------------------------------------------------------


def _pipe(path: str) -> Callable[[Root], object]:
    def make(root: Root) -> None:
        os.mkfifo(root.place(path))

    return make


ODD: dict[str, Callable[[Root], object]] = {
    "a pipe as configuration": _pipe("etc/tpm2cloud/config.toml"),
    "a pipe as trust file": _pipe("etc/tpm2cloud/est-ca.pem"),
    "a pipe as drop-in": _pipe("etc/tpm2cloud/config.d.toml"),
    "a directory as configuration": lambda r: r.write("etc/tpm2cloud/config.toml/x"),
    "a loop above the configuration": lambda r: r.link("etc/tpm2cloud", "tpm2cloud"),
    "a loop as machine-id": lambda r: r.link("etc/machine-id", "machine-id"),
    "a file as directory": lambda r: r.write("etc/tpm2cloud"),
    "no units at all": lambda r: shutil.rmtree(r.path / "usr/lib/systemd"),
    "a huge configuration": lambda r: r.write("etc/tpm2cloud/config.toml", "#" * 2_000_000),
    "a unit of bytes": lambda r: r.write(f"{SYSTEM}/{UNIT}", bytes(range(256))),
    "certificates of bytes": lambda r: r.write("etc/tpm2cloud/est-ca.pem", bytes(range(256))),
    "a clock of nonsense": lambda r: r.write("etc/fake-hwclock.data", "soon"),
    "IoT Edge's file is no TOML": lambda r: r.write("etc/aziot/config.toml", "[", 0o600),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_tree_is_told_of_and_never_a_crash(odd: str, root: Root) -> None:
    ODD[odd](root)
    found = root.look()
    if odd != "a pipe as drop-in":  # one with another name is nothing to us
        assert lint.errors(found)
    json.loads(lint.as_json(root.path, found))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_an_ordinary_user_is_told_what_was_not_seen(root: Root) -> None:
    (root.path / "etc/credstore").mkdir(mode=0)
    found = [each for each in root.look() if each.code == "unseen"]
    assert [each.path for each in found] == ["/etc/credstore"]
    assert "sudo tpm2cloud lint-image" in found[0].remedy


def test_names_that_a_terminal_would_obey_are_shown_as_text(root: Root) -> None:
    name = os.fsdecode(b"\x1b[2J\xff.key")
    root.write(f"etc/{name}", KEY)
    (found,) = root.look()
    assert found.path == r"/etc/\x1b[2J\xff.key"
    assert "\n".join(lint.as_text([found])).replace("\n", "").isprintable()


# --- units ---------------------------------------------------------------------------------------


def test_without_a_first_boot_units_enabled_in_the_image_are_good_enough(root: Root) -> None:
    """As `systemctl --root=ROOT preset-all` leaves it: for a read-only root, or an empty
    machine-id."""
    root.write("etc/machine-id", "")
    wants = "etc/systemd/system/multi-user.target.wants"
    for unit in ("tpm2cloud.target", "systemd-timesyncd.service", "systemd-networkd.service"):
        root.link(f"{wants}/{unit}", f"/{SYSTEM}/{unit}")
    for socket in (*units.SOCKETS, "aziot-edged.service"):
        root.link(f"etc/systemd/system/sockets.target.wants/{socket}", f"/{SYSTEM}/{socket}")
    assert root.codes() == {"unit-not-enabled"}
    root.link(f"etc/systemd/system/tpm2cloud.target.wants/{UNIT}", f"/{SYSTEM}/{UNIT}")
    assert root.codes() == set()


def test_an_administrators_preset_hides_a_vendors_of_the_same_name(root: Root) -> None:
    root.link("etc/systemd/system-preset/80-tpm2cloud.preset", "/dev/null")
    assert root.codes() == {"aziot-service-enabled"}
    root.write("etc/systemd/system-preset/99-all.preset", "disable *\n")
    assert {"preset-disables", "aziot-not-enabled"} <= root.codes()


def test_the_drop_ins_that_are_looked_for_are_those_of_the_package() -> None:
    assert {path.name.removesuffix(".d") for path in (TOP / "systemd").glob("*.d")} == set(
        units.ADDED
    )


def test_the_presets_of_systemctl_agree(root: Root) -> None:
    """What systemd's own tool makes of these files."""
    root.write("etc/systemd/system-preset/10-x.preset", "disable aziot-cert*\nenable aziot-*\n")
    names = [name for name in (*units.ADDED, *units.OURS) if not name.endswith(".device")]
    done = subprocess.run(
        ["systemctl", f"--root={root.path}", "preset", *names], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in names:
        assert (
            unitfiles.enabled(image := Image(root.path), name) == unitfiles.preset(image, name)[0]
        )


def test_the_proxy_of_the_builders_apt_is_left_over(root: Root) -> None:
    root.write("etc/apt/apt.conf.d/01-x", '# A proxy?\nAcquire::Retries "3";\n')
    assert root.codes() == set()
    root.write("etc/apt/apt.conf.d/02-x", 'Acquire::http::Proxy "http://cache:3142";\n')
    assert root.codes() == {"build-left"}


# --- secrets and settings ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auth", "name"),
    [
        (f"[ldevid.est]\n{BASIC}", "est-password"),
        ('[ldevid.est]\nauth = "secret"', "est-secret"),
        (f"[operational]\n{BASIC}", "operational-password"),
    ],
)
def test_a_secret_that_is_needed_may_be_in_the_credential_store(
    root: Root, auth: str, name: str
) -> None:
    root.add(auth)
    assert root.codes() == {"secret-absent"}
    root.write(f"etc/credstore/{name}", "secret", 0o600)
    assert root.codes() == set()


def test_a_drop_in_may_load_a_secret_from_elsewhere(root: Root) -> None:
    _basic(root)
    root.write(
        f"{DROP_INS}/site.conf",
        "[Service]\nLoadCredential=\nLoadCredential=est-password:/data/password\n",
    )
    assert root.codes() == {"secret-absent"}
    root.write("data/password", "secret", 0o644)
    assert root.codes() == {"secret-readable"}


def test_no_secret_is_ever_shown(root: Root) -> None:
    _basic(root, 'password_file = "/data/password"\n')
    root.write("data/password", "hunter2 \xff", 0o644)
    root.write("etc/credstore/tpm-owner-auth", "hunter2", 0o644)
    root.write(f"{DROP_INS}/x.conf", "[Service]\nSetCredential=est-secret:hunter2\n")
    told = lint.as_json(root.path, root.look())
    assert "secret-readable" in told
    assert "hunter2" not in told


@pytest.mark.parametrize("id", ["dev {serial}", "{serial}/x", "x" * 65, ""])
def test_a_device_id_that_no_device_could_have_is_told(root: Root, id: str) -> None:
    root.add(f'[device]\nid = "{id}"')
    assert root.codes() == {"device-id-invalid"}


def test_what_the_fleet_shares_may_be_in_the_file_of_iot_edge(root: Root) -> None:
    root.write("etc/aziot/config.toml", '[agent]\nname = "edgeAgent"\n', 0o600)
    assert root.codes() == set()
    root.write("etc/aziot/config.toml", 'hostname = "x"\n[provisioning]\nsource = "dps"\n', 0o600)
    assert root.codes() == {"aziot-configured", "hostname-fixed"}


def test_all_problems_of_the_configuration_are_told(root: Root) -> None:
    root.add("[tpm]\nkye = 1\n[dps]\nid_scope = 1")
    told = [found.message for found in root.look()]
    assert len(told) == 2
    assert "did you mean key?" in "".join(told)


# --- the command ---------------------------------------------------------------------------------


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-m", "agent.cli", *arguments]
    return subprocess.run(run, cwd=TOP, capture_output=True, text=True, check=False)


def test_the_command_tells_a_builder_and_a_script(root: Root) -> None:
    done = command("lint-image", str(root.path))
    assert (done.returncode, done.stdout) == (0, "ready to be flashed: 0 errors, 0 warnings\n")
    root.write("etc/hostname", "x")
    assert command("lint-image", str(root.path)).returncode == 0
    root.write("etc/machine-id", ID)
    done = command("lint-image", str(root.path))
    assert done.returncode == 1
    assert f"Remedy: echo uninitialized >{root.path}/etc/machine-id" in done.stdout
    done = command("lint-image", "--json", str(root.path))
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["errors"] + told["warnings"] == len(told["findings"])
    assert told["findings"][0].keys() == {"code", "severity", "path", "message", "remedy"}


def test_what_is_no_root_directory_is_a_usage_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        done = command("lint-image", str(path))
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1


def test_this_machine_is_no_golden_image() -> None:
    """Its root is looked at as any other."""
    done = command("lint-image", "--json", "/")
    assert done.returncode == 1
    assert {"config-absent", "unit-absent"} & {
        f["code"] for f in json.loads(done.stdout)["findings"]
    }
