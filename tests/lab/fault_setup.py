"""Faults of what an operator or an image sets up: the configuration, trust files, credentials, what
else is installed, files and disks."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

from agent import store
from tests.lab import pki
from tests.lab.apart import Apart
from tests.lab.fault import Case, Fault
from tests.lab.proxy import Proxy

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
    proxy = case.stack.enter_context(Proxy(username="device", password="of-the-proxy"))  # noqa: S106
    case.configure(proxy={"url": proxy.url, "username": "device"})
    yield
    case.credential("proxy-password", proxy.password)


def proxy_of_the_environment(case: Case) -> Steps:
    case.variables["HTTPS_PROXY"] = "socks5://proxy.example:1080"
    yield
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
