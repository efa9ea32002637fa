"""A golden image before it is flashed: everything that can be wrong with it, and that the remedies
help. The image is a directory tree with what a builder has in it; nothing of it is run."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import lint
from agent.lint.rules import Rule
from tests.lab import pki, tree
from tests.lab.process import TOP
from tests.lab.tree import (
    BASIC,
    CONFIG,
    DROP_INS,
    ID,
    INSTALLED,
    KEY,
    PLAIN,
    PROXY,
    SYSTEM,
    UNIT,
    Root,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Root:
    return tree.build(tmp_path_factory.mktemp("image") / "root")


@pytest.fixture
def root(built: Root, tmp_path: Path) -> Root:
    shutil.copytree(built.path, tmp_path / "root", symlinks=True)
    return Root(tmp_path / "root", built.ca)


def test_an_image_as_it_should_be_has_no_findings(root: Root) -> None:
    assert root.look() == []


def _for_device(root: Root, attestation: str, more: str = "", *, dps: str = "") -> None:
    """The configuration is for a device without IoT Edge; nothing of that is in the image."""
    for file in ("usr/bin/iotedge", f"{SYSTEM}/tpm2-abrmd.service"):
        (root.path / file).unlink(missing_ok=True)
    told = CONFIG.partition("[operational]")[0] + '[device]\ntarget = "device"\n' + more
    told = told.replace("[dps]\n", f'[dps]\nattestation = "{attestation}"\n{dps}\n')
    root.write("etc/tpm2cloud/config.toml", told)


ATTESTATIONS = pytest.mark.parametrize("attestation", ["tpm", "x509"])


@ATTESTATIONS
def test_an_image_without_iot_edge_is_as_it_should_be_if_it_is_for_a_device_without(
    attestation: str, root: Root
) -> None:
    root.remove("usr/bin/iotedge")
    for unit in ("tpm2-abrmd.service", "aziot-certd.socket"):
        root.link(f"etc/systemd/system/{unit}", "/dev/null")
    root.link("etc/systemd/system/aziot-keyd.service.d/10-tpm2cloud.conf", "/dev/null")
    assert root.codes() == {"package-absent", "unit-masked", "drop-in-absent"}
    root.remove("usr/lib/x86_64-linux-gnu/libtss2-tcti-tabrmd.so.0")
    root.add('[pkcs11]\nstore = "/data/pkcs11"')  # not that of a key service which is not used
    _for_device(root, attestation)
    assert root.look() == []


@ATTESTATIONS
def test_what_a_device_without_iot_edge_needs_of_its_image_is_looked_for(
    attestation: str, root: Root
) -> None:
    _for_device(root, attestation, PROXY, dps='payload = "/etc/tpm2cloud/site.json"')
    assert root.codes() == {"secret-absent", "payload-unusable"}
    root.write("etc/tpm2cloud/site.json", '{"site": NaN}')
    root.write("etc/credstore/proxy-password", "secret", 0o600)
    assert root.codes() == {"payload-unusable"}
    root.write("etc/tpm2cloud/site.json", '{"site": 7}')
    assert root.codes() == set()

    bundle = "etc/ssl/certs/ca-certificates.crt"
    root.write(bundle, "none")
    assert root.codes() == {"trust-unreadable"}
    root.remove(bundle)
    assert root.codes() == {"package-absent"}
    _for_device(root, attestation, dps='trust = "/etc/tpm2cloud/azure.pem"')
    assert root.codes() == {"trust-unreadable"}
    root.trust(name="azure", lasts=2000)
    assert root.codes() == set()
    _for_device(root, attestation, "[hub]\ntransport = 'carrier pigeon'\n")
    assert "config-invalid" in root.codes()


@ATTESTATIONS
def test_the_password_of_a_proxy_is_roots_alone(attestation: str, root: Root) -> None:
    file = "etc/tpm2cloud/proxy-password"
    _for_device(root, attestation, f'{PROXY}password_file = "/{file}"\n')
    root.write(file, "secret", 0o644)
    assert root.codes() == {"secret-readable"}
    (root.path / file).chmod(0o600)
    assert root.codes() == set()
    root.write("etc/tpm2cloud/config.toml", CONFIG + PROXY)  # with IoT Edge just as well
    assert root.codes() == {"package-absent", "secret-absent"}


def test_a_look_changes_nothing(root: Root) -> None:
    def state() -> list[tuple[Path, float]]:
        return sorted((path, path.lstat().st_mtime) for path in root.path.rglob("*"))

    before = state()
    root.look()
    assert state() == before


# --- each code, by what provokes it --------------------------------------------------------------


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
    "factory-left": lambda r: r.write("etc/tpm2cloud/manufacture.toml", "[idevid]\n"),
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
    "health-not-enabled": lambda r: r.link(f"{SYSTEM}/tpm2cloud-health.timer", "/dev/null"),
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
    "payload-unusable": lambda r: _for_device(r, "tpm", dps='payload = "/x.json"'),
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
    "escrow-unusable": lambda r: r.passwords("lockout").unlink(),
    "owner-hierarchy-needed": lambda r: (
        r.passwords("owner"),
        r.write("etc/crypttab", "root UUID=4711 none tpm2-device=auto\n"),
    ),
    "clevis-in-image": lambda r: (
        r.passwords("owner"),
        r.write("usr/bin/clevis-decrypt-tpm2", "", 0o755),
    ),
    "approvals-absent": lambda r: (r.path / r.approved() / "fw-1.0.json").unlink(),
    "approval-unusable": lambda r: (r.path / r.approved() / "fw-1.0.sig").write_bytes(b"other"),
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


NO_PRESETS = {
    *("unit-not-enabled", "health-not-enabled", "aziot-not-enabled"),
    *("network-absent", "time-sync-absent"),
}
FOLLOWS = dict.fromkeys(("machine-id-set", "machine-id-odd", "unit-not-enabled"), NO_PRESETS)
FOLLOWS["preset-disables"] = {"health-not-enabled"}
FOLLOWS["trust-too-new"] = {"clock-floor-old"}


@pytest.mark.parametrize("code", PROVOKED)
def test_what_is_wrong_alone_is_found_alone(code: str, root: Root) -> None:
    """And what follows from it: without a first boot nobody applies presets."""
    PROVOKED[code](root)
    assert root.codes() - {code} <= FOLLOWS.get(code, set())


def test_passwords_and_approvals_as_the_manual_has_them_are_no_findings(root: Root) -> None:
    root.passwords("owner")
    root.write("etc/crypttab", "# root UUID=4711 none tpm2-device=auto\n")
    at = root.approved()
    assert root.codes() == set()
    os.mkfifo(root.path / at / "fw-0.9.json")
    assert root.codes() == {"unseen"}  # and nobody waits


def test_every_code_is_unique_and_told_in_one_style() -> None:
    rules = list(lint.every_code())
    written = sum(
        file.read_text().count(" = Rule(\n") for file in (TOP / "agent/lint").glob("*.py")
    )
    assert len({rule.code for rule in rules}) == len(rules) == written
    for rule in rules:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.code)
        assert rule.meaning.endswith(".")
        assert rule.remedy
        assert not rule.remedy.endswith(".")
