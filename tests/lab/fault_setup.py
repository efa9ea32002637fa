"""Faults of what an operator or an image sets up: the configuration, trust files, credentials, what
else is installed, files and disks."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

from agent import store
from tests.lab import pki
from tests.lab.apart import Apart
from tests.lab.fault import Case, Fault, Row

Steps = Generator[None, None, None]


# --- settings ---


def settings(**tables: Any) -> Fault:
    """That are wrong; a person puts right what is named."""

    def fault(case: Case) -> Steps:
        case.configure(**tables)
        yield
        case.unconfigure()

    return fault


def text(content: str) -> Fault:
    """In the place of the configuration."""

    def fault(case: Case) -> Steps:
        case.device.config.write_text(content)
        yield
        case.unconfigure()

    return fault


def no_configuration(case: Case) -> Steps:
    case.device.config.unlink()
    yield
    case.unconfigure()


# --- files that are pointed at ---


def file(name: str, content: bytes | None) -> Fault:
    """Below the device's directory: not as it was; then it is."""

    def fault(case: Case) -> Steps:
        path = case.device.directory / name
        kept = path.read_bytes()
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        yield
        path.unlink(missing_ok=True)
        pki.write_private(path, kept) if "credentials" in name else path.write_bytes(kept)

    return fault


def in_place(name: str, content: bytes) -> Fault:
    """A file that should not be there, or not so; it is moved away."""

    def fault(case: Case) -> Steps:
        path = case.device.directory / name
        path.write_bytes(content)
        path.chmod(0o600)
        yield
        path.rename(path.with_name("moved-away"))

    return fault


def mode(name: str, wrong: int, right: int) -> Fault:
    def fault(case: Case) -> Steps:
        path = case.device.directory / name
        path.chmod(wrong)
        yield
        path.chmod(right)

    return fault


def secret_for_all(case: Case) -> Steps:
    """In a file of its own, that everybody may read."""
    credential = case.device.credentials / "est-secret"
    kept = case.watched.parent / "credentials-of-est"
    kept.write_bytes(credential.read_bytes())
    kept.chmod(0o640)
    credential.unlink()
    case.configure(ldevid={"est": {"secret_file": str(kept)}})
    yield
    kept.chmod(0o600)


def no_proxy_password(case: Case) -> Steps:
    from tests.lab.proxy import Proxy

    proxy = case.stack.enter_context(Proxy(username="device", password="of the proxy"))
    case.configure(proxy={"url": proxy.url, "username": "device"})
    yield
    case.credential("proxy-password", "of the proxy")


def proxy_of_the_environment(case: Case) -> Steps:
    case.variables["HTTPS_PROXY"] = "socks5://proxy.example:1080"
    yield
    from tests.lab.proxy import Proxy

    case.variables["HTTPS_PROXY"] = case.stack.enter_context(Proxy()).url


def payload(content: str | None) -> Fault:
    def fault(case: Case) -> Steps:
        path = case.device.etc / "payload.json"
        if content is not None:
            path.write_text(content)
        case.configure(dps={"payload": str(path)})
        yield
        path.write_text('{"site": "east"}')

    return fault


# --- what is installed ---


def no_iotedge(case: Case) -> Steps:
    program = case.device.bin / "iotedge"
    target = program.readlink()
    program.unlink()
    yield
    program.symlink_to(target)


def no_aziot_directory(case: Case) -> Steps:
    case.device.aziot.rmdir()
    yield
    case.device.aziot.mkdir()


def two_of_us(case: Case) -> Steps:
    """IoT Edge has been configured on a device that is to do without."""
    config = case.device.aziot / "config.toml"
    config.write_text('[provisioning]\nsource = "dps"\n')
    yield
    config.unlink()


def iotedge(script: str, **aziot: str) -> Fault:
    """Another `iotedge`, until somebody installs it anew."""

    def fault(case: Case) -> Steps:
        program = case.device.bin / "iotedge"
        target = program.readlink()
        program.unlink()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        case.configure(aziot=aziot)
        yield
        program.unlink()
        program.symlink_to(target)
        case.unconfigure()

    return fault


# --- files and disks ---


def in_the_way(name: str) -> Fault:
    """A directory where a file should be."""

    def fault(case: Case) -> Steps:
        path = case.device.directory / name
        path.mkdir()
        yield
        path.rename(path.with_name("moved-away"))

    return fault


def state_is_a_file(case: Case) -> Steps:
    state = case.device.state
    state.rmdir()
    state.touch()
    yield
    state.rename(state.with_name("moved-away"))
    state.mkdir(mode=0o755)


def store_of_somebody(content: bytes) -> Fault:
    def fault(case: Case) -> Steps:
        database = case.device.pkcs11 / "tpm2_pkcs11.sqlite3"
        case.device.pkcs11.mkdir(mode=0o700)
        database.write_bytes(content)
        yield
        database.rename(database.with_name("moved-away"))

    return fault


def read_only(name: str) -> Fault:
    def fault(case: Case) -> Steps:
        path = directory(case, name)
        case.apart.read_only(path)
        yield
        case.apart.unmount(path)

    return fault


def directory(case: Case, name: str) -> Path:
    path = case.device.directory / name
    path.mkdir(exist_ok=True)
    return path


def full(name: str, options: str = "size=64k") -> Fault:
    """A small disk, and somebody who filled it; then there is room."""

    def fault(case: Case) -> Steps:
        path = directory(case, name)
        case.apart.mount("tmpfs", path, "tmpfs", options=f"{options},mode=755")
        there = inside(case.apart, path)
        if "nr_inodes" not in options:
            fill(there / "filler")
        yield
        case.apart.mount("none", path, flags=32, options="size=16m,nr_inodes=1000")

    return fault


def inside(apart: Apart, path: Path) -> Path:
    return apart.root / path.relative_to("/")


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(bytes(4096))
        except OSError:
            return


def locked(case: Case) -> Steps:
    """By another run, that is not at its end."""
    with store.lock(case.device.state):
        yield


PASSWORDS = "edge, password"
SHORT = {"timeout": "3s"}
ROWS = [
    Row("A setting that is misspelt", "edge", "config-invalid", settings(tpm={"kye": 1}),
        "Edit the file", "the line is taken out"),
    Row("A setting with a value that cannot be", "edge", "config-invalid",
        settings(tpm={"key": "rsa1024"}), "Edit the file", "it is set to a legal value"),
    Row("No ID scope", "edge", "config-invalid", settings(dps={"id_scope": None}),
        "Edit the file", "it is set"),
    Row("A configuration that is no TOML", "edge", "config-invalid", text("[[["),
        "Edit the file", "a whole one is put there"),
    Row("No configuration at all", "edge", "config-invalid", no_configuration,
        "Edit the file", "one is put there"),
    Row("An operational certificate from nowhere", "edge", "config-invalid",
        settings(operational={"url": None}), "Edit the file", "the URL is set"),
    Row("A proxy that is no URL", "device", "config-invalid",
        settings(proxy={"url": "proxy.example:3128"}), "Edit the file", "it is taken out"),
    Row("An id with blanks", "edge", "device-id-invalid", settings(device={"id": "no spaces"}),
        r"Set device\.id", "a legal one is set"),
    Row("An id that is too long", "edge", "device-id-invalid", settings(device={"id": "x" * 65}),
        r"Set device\.id", "a shorter one is set"),
    Row("No password for the EST server", PASSWORDS, "secret-unreadable",
        file("credentials/est-password", None), "/etc/credstore/est-password", "it is put there"),
    Row("No password for IoT Edge's EST server", PASSWORDS, "secret-unreadable",
        file("credentials/operational-password", None), "/etc/credstore/operational-password",
        "it is put there"),
    Row("A secret that others may read", "edge, secret", "secret-unreadable", secret_for_all,
        "only its owner can read", "the file is made its owner's alone"),
    Row("An empty password", PASSWORDS, "secret-unreadable", file("credentials/est-password", b""),
        "/etc/credstore/est-password", "it is put there"),
    Row("No password for the proxy", "device", "secret-unreadable", no_proxy_password,
        "/etc/credstore/proxy-password", "it is put there"),
    Row("HTTPS_PROXY names a SOCKS proxy", "device", "proxy-unusable", proxy_of_the_environment,
        "HTTPS_PROXY to http://HOST:PORT", "it names an HTTP proxy"),
    Row("No CA file for the EST server", "edge", "trust-unreadable",
        file("etc/tpm2cloud/est-ca.pem", None), "Put the CA certificates", "it is put there"),
    Row("A CA file without certificates", "edge", "trust-unreadable",
        file("etc/tpm2cloud/owner-ca.pem", b"no certificate"), "Put the CA certificates",
        "the right one is put there"),
    Row("No CA file for the IDevID", "edge", "trust-unreadable",
        file("etc/tpm2cloud/idevid-ca.pem", None), "Put the CA certificates", "it is put there"),
    Row("A CA file that IoT Edge may not read", "edge", "trust-unreadable",
        mode("etc/tpm2cloud/operational-ca.pem", 0o600, 0o644), "CA certificates",
        "its mode is 0644"),
    Row("No CA file for DPS", "device", "trust-unreadable",
        settings(dps={"trust": "/etc/ssl/nowhere.pem"}), "Put the CA certificates",
        "the setting names the right one"),
    Row("No payload where one is named", "device", "payload-unusable", payload(None),
        "Put the JSON", "it is put there"),
    Row("A payload that is no JSON", "device, TPM", "payload-unusable", payload("{site: east}"),
        "Put the JSON", "JSON is put there"),
    Row("IoT Edge is configured besides", "device", "edge-configured", two_of_us, "rm ",
        "its configuration is removed"),
    Row("IoT Edge is not installed", "edge", "iotedge-missing", no_iotedge, "Install IoT Edge",
        "it is installed"),
    Row("IoT Edge has no directory", "edge", "iotedge-missing", no_aziot_directory,
        "Install IoT Edge", "it is there"),
    Row("IoT Edge's own file is no TOML", "edge", "aziot-config-invalid",
        in_place("etc/aziot/config.toml", b"[[["), "Repair|move it away", "it is moved away"),
    Row("No PKCS#11 module", "edge", "pkcs11-module-missing",
        settings(pkcs11={"library": "/usr/lib/nowhere.so"}), "Install it", "its name is set right"),
    Row("No user for the PKCS#11 store", "edge", "user-missing",
        settings(pkcs11={"owner": "aziotks-of-old"}), "set pkcs11.owner to an existing user",
        "it is set to one that exists"),
    Row("A PKCS#11 store that is garbage", "edge", "token-unreadable",
        store_of_somebody(b"not a database at all"), "move .* away", "it is moved away"),
    Row("The state directory is a file", "edge", "path-unusable", state_is_a_file,
        "move it away", "it is moved away"),
    Row("A directory where the PINs should be", "edge", "path-unusable",
        in_the_way("state/pins.json"), "move it away", "it is moved away"),
    Row("A directory where the certificate should be", "device", "path-unusable",
        in_the_way("state/ldevid.pem"), "move it away", "it is moved away"),
    Row("A directory where the assignment should be", "device, TPM", "path-unusable",
        in_the_way("state/assignment.json"), "move it away", "it is moved away"),
    Row("The state directory is read-only", "edge", "read-only", read_only("state"),
        "Make the file system .* writable", "it is mounted to be written"),
    Row("IoT Edge's directory is read-only", "edge", "read-only", read_only("etc/aziot"),
        "Make the file system .* writable", "it is mounted to be written"),
    Row("The PKCS#11 store is read-only", "device", "read-only", read_only("pkcs11"),
        "Make the file system .* writable", "it is mounted to be written"),
    Row("The disk of the state is full", "edge", "disk-full", full("state"), "Make room",
        "there is room"),
    Row("The disk of the state has no inodes left", "device, TPM", "disk-full",
        full("state", "size=64k,nr_inodes=1"), "Make room", "there are inodes"),
    Row("The disk of IoT Edge's directory is full", "edge", "disk-full", full("etc/aziot"),
        "Make room", "there is room"),
    Row("The disk of the PKCS#11 store is full", "device", "disk-full", full("pkcs11"),
        "Make room", "there is room"),
    Row("Another run holds the lock", "edge", "busy", locked, "wait for it", "it ends"),
    Row("`iotedge config apply` fails", "edge", "iotedge-failed",
        iotedge("echo Ouch >&2; exit 3"), "iotedge check", "IoT Edge is installed anew"),
    Row("`iotedge config apply` hangs", "edge", "iotedge-failed",
        iotedge("exec sleep 60", timeout="1s"), "iotedge check", "IoT Edge is installed anew"),
    Row("`iotedge config apply` lies", "edge", "not-provisioned", iotedge("exit 0", timeout="1s"),
        "journalctl -u aziot-identityd", "IoT Edge is installed anew"),
]  # fmt: skip
