"""A device as the golden image and the factory leave it, in one directory instead of /."""

import base64
import hashlib
import os
import pwd
import subprocess
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import tomlkit

from tests.lab import pki, swtpm
from tests.lab.est import BINARIES
from tests.lab.factory import EK, Board, Tools
from tests.lab.proxy import Proxy
from tests.lab.world import USER, World

AGENT = Path(__file__).parents[2] / ".venv" / "bin" / "tpm2cloud"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What kind of device, and how it is to get its certificates."""

    id: str = "device-0001"
    key: pki.Kind = "ecc256"
    auth: Literal["mtls", "basic", "secret"] = "mtls"
    issued_by: Literal["est", "static"] = "est"
    operational_auth: Literal["mtls", "basic"] = "mtls"
    attestation: Literal["x509", "tpm"] = "x509"
    target: Literal["edge", "device"] = "edge"
    enrolled: bool = True  # its TPM at DPS, if target and attestation are "device" and "tpm"
    transport: Literal["mqtt", "websockets"] = "mqtt"  # to the hub, if the target is "device"
    proxy: Proxy | None = None  # that the configuration names
    board: Board = field(default_factory=Board)


class Device:
    """Powered on for the length of the `with`; afterwards its files remain.

    etc/tpm2cloud, etc/aziot, credentials (as systemd gives them), state, pkcs11, bin (first in
    $PATH, with `iotedge`), edge (IoT Edge's own state), run, tpm.
    """

    def __init__(self, world: World, directory: Path, wish: Wish | None = None) -> None:
        self.world, self.directory, self.wish = world, directory, wish or Wish()
        self.for_edge = self.wish.target == "edge"
        self.etc, self.aziot = directory / "etc/tpm2cloud", directory / "etc/aziot"
        self.state, self.credentials = directory / "state", directory / "credentials"
        self.bin, self.edge, self.pkcs11 = (
            directory / "bin",
            directory / "edge",
            directory / "pkcs11",
        )
        self.socket, self.tpm = directory / "run/identityd.sock", directory / "tpm"
        self._swtpm: subprocess.Popen[bytes] | None = None
        world.solder(self.wish.board, self.tpm)
        self._directories()
        self._trust()
        self._credentials()
        self._iotedge()
        self.configure({})

    @property
    def tcti(self) -> str:
        return swtpm.tcti(self.tpm)

    # --- files ---

    def _directories(self) -> None:
        for directory in (self.etc, self.aziot, self.bin, self.socket.parent):
            directory.mkdir(parents=True)
        for private in (self.state, self.credentials, self.edge):
            private.mkdir(mode=0o700)

    def _trust(self) -> None:
        world = self.world
        world.maker_roots(self.etc / "tpm-roots.d")
        (self.etc / "idevid-ca.pem").write_bytes(pki.pem(*world.oem.chain))
        (self.etc / "owner-ca.pem").write_bytes(pki.pem(world.owner.root))
        for name in ("est-ca.pem", "operational-ca.pem"):
            (self.etc / name).write_bytes(world.tls.trust.read_bytes())

    def _credentials(self) -> None:
        world = self.world
        wanted = {"est-password": world.est_password, "est-secret": world.est_secret}
        wanted["operational-password"] = world.operational_password
        if self.wish.proxy and self.wish.proxy.username:
            wanted["proxy-password"] = self.wish.proxy.password
        for name, text in wanted.items():
            pki.write_private(self.credentials / name, text.encode())

    def _iotedge(self) -> None:
        """The stand-in finds its settings beside the link through which it is called."""
        for name in ("iotedge", "systemctl", "journalctl")[0 if self.for_edge else 1 :]:
            (self.bin / name).symlink_to(BINARIES / "iotedge")
        settings = {
            "aziot_dir": str(self.aziot),
            "state_dir": str(self.edge),
            "socket": str(self.socket),
            "pkcs11_store": str(self.pkcs11),
            "pkcs11_tcti": self.tcti,
            "system_store": str(self.world.tls.trust),
            "poll_interval": "100ms",
            "restart_interval": "1s",
            "die_with_pid": os.getpid(),
        }
        if self.world.clock:
            settings["clock_file"] = str(self.world.clock.file)
        (self.bin / "iotedge-lab.toml").write_text(tomlkit.dumps(settings))

    # --- configuration ---

    @property
    def config(self) -> Path:
        return self.etc / "config.toml"

    def settings(self) -> dict[str, Any]:
        """What config.toml says for this device."""
        wish, world = self.wish, self.world
        settings: dict[str, Any] = {
            "device": {"id": wish.id, "target": wish.target},
            "tpm": {
                "tcti": self.tcti,
                "key": wish.key,
                "manufacturer_roots": [str(self.etc / "tpm-roots.d")],
            },
            "idevid": {
                "trust": str(self.etc / "idevid-ca.pem"),
                "certificate": str(self.state / "idevid.pem"),
            },
            "dps": {
                "id_scope": world.dps.scope,
                "endpoint": world.dps.url,
                "attestation": wish.attestation,
            },
        }
        if self.for_edge or wish.attestation == "x509":
            settings |= self._ldevid()
        if wish.proxy:
            settings["proxy"] = self._proxy(wish.proxy)
        return merged(settings, self._of_edge() if self.for_edge else self._of_device())

    def _ldevid(self) -> dict[str, Any]:
        owner = pwd.getpwuid(os.getuid()).pw_name
        return {
            "ldevid": {"est": self._est(self.world.owner_est.url(self.wish.auth))},
            "pkcs11": {"store": str(self.pkcs11), "owner": owner},
        }

    def _proxy(self, proxy: Proxy) -> dict[str, str]:
        return {"url": proxy.url} | ({"username": proxy.username} if proxy.username else {})

    def _of_edge(self) -> dict[str, Any]:
        url = self.world.operations_est.url(self.wish.operational_auth)
        return {
            "operational": self._operational(url),
            "aziot": {
                "directory": str(self.aziot),
                "state": str(self.edge),
                "identity_socket": str(self.socket),
            },
        }

    def _of_device(self) -> dict[str, Any]:
        """It believes the world's servers, and need not wait for others at DPS."""
        return {
            "dps": {"trust": str(self.world.tls.trust), "fleet": 1},
            "hub": {"transport": self.wish.transport},
            "aziot": {"directory": str(self.aziot)},
        }

    def _est(self, url: str) -> dict[str, str]:
        est = {"url": url, "trust": str(self.etc / "est-ca.pem"), "auth": self.wish.auth}
        est["issuer"] = str(self.etc / "owner-ca.pem")
        return est | ({"username": USER} if self.wish.auth == "basic" else {})

    def _operational(self, url: str) -> dict[str, str]:
        if self.wish.issued_by == "static":
            return {"issued_by": "static"}
        auth = self.wish.operational_auth
        est = {"issued_by": "est", "url": url, "auth": auth}
        est["trust"] = str(self.etc / "operational-ca.pem")
        return est | ({"username": USER} if auth == "basic" else {})

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Write config.toml: `settings()` with these changes, tables merged, None taken out."""
        self.config.write_text(tomlkit.dumps(merged(self.settings(), changes)))

    # --- at the provisioning service ---

    def endorsement_key(self) -> bytes:
        """Its TPM2B_PUBLIC, with the size, as operators read it; the TPM must be on."""
        with tempfile.TemporaryDirectory() as directory:
            Tools(self.tcti, directory)("readpublic", "-c", EK, "-o", "ek.pub")
            return Path(directory, "ek.pub").read_bytes()

    @property
    def registration_id(self) -> str:
        """What `wish.id` stands for, if that is "{ek}" or "{ek-sha256}"."""
        if "{" not in self.wish.id:
            return self.wish.id
        name = hashlib.sha256(self.endorsement_key()).digest()
        base32 = base64.b32encode(name).decode().lower().rstrip("=")
        return self.wish.id.format_map({"ek": base32, "ek-sha256": name.hex()})

    def enrol(self) -> None:
        """The operator makes an individual enrolment of its TPM."""
        self.world.dps.enrol_tpm(self.registration_id, self.endorsement_key())

    # --- life ---

    def __enter__(self) -> Self:
        self.power_on()
        if self.wish.enrolled and self.wish.attestation == "tpm" and not self.for_edge:
            self.enrol()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.edge.joinpath("service.lock").exists():
            self.run(["iotedge", "system", "stop"])
        self.power_cut()

    def power_on(self) -> None:
        if self._swtpm is None:
            self._swtpm = swtpm.start(self.tpm)

    def power_cut(self) -> None:
        """The TPM loses its power, without TPM2_Shutdown."""
        if self._swtpm is not None:
            self._swtpm.kill()
            self._swtpm.wait()
            self._swtpm = None

    def environment(self) -> dict[str, str]:
        """What systemd would give the agent, and `bin` first in $PATH; the time of the world."""
        clock = self.world.clock
        return {
            "PATH": f"{self.bin}:{SYSTEM_PATH}",
            "LANG": "C.UTF-8",
            "STATE_DIRECTORY": str(self.state),
            "RUNTIME_DIRECTORY": str(self.socket.parent),
            "CREDENTIALS_DIRECTORY": str(self.credentials),
            "SSL_CERT_FILE": str(self.world.tls.trust),  # the CAs of the system
            **(clock.environment() if clock else {}),
        }

    def run(self, command: list[str], timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a program on the device; its exit status is the caller's to judge."""
        return subprocess.run(
            command,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def agent_command(self, verb: str, *arguments: str) -> list[str]:
        return [str(AGENT), "--config", str(self.config), verb, *arguments]

    def agent(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`tpm2cloud VERB` on the device."""
        return self.run(self.agent_command(verb, *arguments))


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with `changes` laid over: tables are merged, a None takes the setting out."""
    result = deepcopy(dict(settings))
    for key, new in changes.items():
        if isinstance(new, Mapping):
            result[key] = merged(result.get(key, {}), new)
        elif new is None:
            result.pop(key, None)
        else:
            result[key] = new
    return result
