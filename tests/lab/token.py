"""A device with a TPM, a storage key and a token; and the programs that look at the token."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from agent import pkcs11
from agent.tpm import Tpm
from agent.tpm.templates import KeyType
from tests.lab import cryptoki

SRK, TOKEN, PINS = 0x81000001, "lab token", pkcs11.Pins("user's 1234", "so's 5678")
ME = (os.geteuid(), os.getegid())


@dataclass
class Device:
    """A TPM with a storage key, and the directory of a store."""

    tpm: Tpm
    directory: Path

    @property
    def env(self) -> dict[str, str]:
        """What tpm2-tools and the module need."""
        through = dict.fromkeys(("TPM2_PKCS11_TCTI", "TPM2TOOLS_TCTI"), self.tpm.tcti)
        quiet = {"TPM2_PKCS11_LOG_LEVEL": "0", "TSS2_LOG": "all+none"}
        return through | quiet | {"TPM2_PKCS11_STORE": str(self.directory)}

    def key(self, kind: KeyType, label: str = "ldevid") -> pkcs11.Key:
        public, private = self.tpm.create_key(SRK, kind)
        with self.tpm.load(SRK, public, private) as loaded:
            area = loaded.public
        assert area.key is not None
        return pkcs11.Key(label, public, private, area.key, area.signs, area.decrypts)

    def create(self, *keys: pkcs11.Key) -> None:
        pkcs11.create(
            self.directory, self.tpm, SRK, label=TOKEN, pins=PINS, owner=ME, keys=list(keys)
        )

    def put(self, key: pkcs11.Key) -> None:
        pkcs11.put(self.directory, TOKEN, key, below=self.tpm.serialized(SRK))

    def look(self) -> pkcs11.Token:
        found = pkcs11.look(self.directory, TOKEN, below=self.tpm.serialized(SRK))
        assert found is not None
        return found

    def tool(self, *arguments: str | Path, pin: str = PINS.user) -> str:
        """pkcs11-tool of OpenSC; raises CalledProcessError."""
        login = ["--token-label", TOKEN, "--login", "--pin", pin]
        return self.run("pkcs11-tool", "--module", cryptoki.module(), *login, *arguments)

    def run(self, *command: str | Path) -> str:
        done = subprocess.run(
            command, env=os.environ | self.env, capture_output=True, text=True, check=True
        )
        return done.stdout

    @property
    def database(self) -> Path:
        return self.directory / pkcs11.DATABASE


def device(tpm: Tpm, directory: Path, kind: KeyType) -> Device:
    """With a storage key of this kind."""
    with tpm.srk(kind) as srk:
        tpm.persist(srk, SRK)
    return Device(tpm, directory)
