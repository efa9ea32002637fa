"""A factory line: a station that runs `tpm2cloud manufacture` on boards, and whoever issues."""

import json
import subprocess
from collections.abc import Mapping
from typing import Any, Literal

import tomlkit

from tests.lab import pki
from tests.lab.device import Device, merged
from tests.lab.world import USER, World

Method = Literal["ca", "est-secret", "est-basic", "est-mtls", "est-tpm"]
METHODS: tuple[Method, ...] = ("ca", "est-secret", "est-basic", "est-mtls", "est-tpm")


class Line:
    """One board at a station; `board` is a device whose TPM the factory has not seen yet."""

    def __init__(self, board: Device, method: Method = "ca", **idevid: Any) -> None:
        """`idevid`: profile, key and so on, as in [idevid]."""
        self.board, self.method, self._idevid = board, method, idevid
        self.directory = board.directory / "station"
        self.directory.mkdir(exist_ok=True)
        self.config = self.directory / "manufacture.toml"
        self._files(board.world)
        self.configure({})

    def _files(self, world: World) -> None:
        key = pki.new_key()
        own = world.stations.issue(key.public_key(), "station-7")
        (self.directory / "station.pem").write_bytes(pki.pem(own, *world.stations.chain[:-1]))
        pki.write_private(self.directory / "station.key", pki.private_pem(key))
        self.oem = world.oem.save(self.directory / "oem")
        secrets = {"factory-est-password": world.factory_password}
        secrets["factory-est-secret"] = world.factory_secret
        for name, text in secrets.items():
            pki.write_private(self.board.credentials / name, text.encode())

    def settings(self) -> dict[str, Any]:
        board = self.board
        subject = {"serial_number": board.wish.id, "common_name": board.wish.id}
        idevid = {
            "trust": str(board.etc / "idevid-ca.pem"),
            "subject": subject,
            **self._idevid,
            **self._issuer(),
        }
        roots = [str(board.etc / "tpm-roots.d")]
        return {"tpm": {"tcti": board.tcti, "manufacturer_roots": roots}, "idevid": idevid}

    def _issuer(self) -> dict[str, Any]:
        world, trust = self.board.world, str(self.board.etc / "est-ca.pem")
        if self.method == "ca":
            return {"ca": {"certificate": str(self.oem.chain), "key": str(self.oem.key)}}
        if self.method == "est-tpm":
            tpm = {"url": world.oem_est.url, "enrol": "tpmenroll", "auth": "none"}
            return {"est": {**tpm, "trust": trust}}
        auth = self.method.removeprefix("est-")
        est = {"url": world.factory_est.url(auth), "trust": trust, "auth": auth}
        if auth == "basic":
            est["username"] = USER
        if auth == "mtls":
            names = {"certificate": "station.pem", "key": "station.key"}
            est |= {name: str(self.directory / file) for name, file in names.items()}
        return {"est": est}

    def configure(self, changes: Mapping[str, Any]) -> None:
        self.config.write_text(tomlkit.dumps(merged(self.settings(), changes)))

    def command(self, *arguments: str) -> list[str]:
        command = self.board.agent_command("manufacture", *arguments)
        command[command.index("--config") + 1] = str(self.config)
        return command

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`tpm2cloud manufacture`; its exit status is the caller's to judge."""
        return self.board.run(self.command(*arguments))

    def made(self, *arguments: str) -> dict[str, Any]:
        """What the back office gets of a board that went well."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found
