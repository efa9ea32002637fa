"""The maker of a device, who approves boot states: with `openssl`, as docs/factory.md says."""

import subprocess
from pathlib import Path
from typing import Literal

from agent.tpm import Tpm, pcr
from agent.tpm.approved import State
from tests.lab import pki
from tests.lab.tools import Tools

Kind = Literal["ecc256", "ecc384", "rsa2048", "rsa3072"]
ALGORITHMS = {
    "ecc256": ("EC", "ec_paramgen_curve:P-256"),
    "ecc384": ("EC", "ec_paramgen_curve:P-384"),
    "rsa2048": ("RSA", "rsa_keygen_bits:2048"),
    "rsa3072": ("RSA", "rsa_keygen_bits:3072"),
}
PCRS = "sha256:0,2,7"


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Maker:
    """Its key is in `directory`, and what it releases in `directory`/released."""

    def __init__(self, directory: Path, kind: Kind = "ecc256") -> None:
        self.released = directory / "released"
        self.released.mkdir(parents=True)
        self._key, self.public = directory / "maker.key", self.released / "maker.pem"
        algorithm, option = ALGORITHMS[kind]
        openssl("genpkey", "-algorithm", algorithm, "-pkeyopt", option, "-out", self._key)
        openssl("pkey", "-in", self._key, "-pubout", "-out", self.public)

    def have(self, key: pki.PrivateKey) -> None:
        """Instead of the one that was made for it."""
        pki.write_private(self._key, pki.private_pem(key))
        openssl("pkey", "-in", self._key, "-pubout", "-out", self.public)

    def sign(self, tbs: Path, signature: Path) -> None:
        openssl("dgst", "-sha256", "-sign", self._key, "-out", signature, tbs)

    def approve(self, tpm: Tpm, name: str = "v1", pcrs: str = PCRS) -> None:
        """The state that this TPM is in."""
        selection = pcr.Selection.parse(pcrs)
        state = State(selection, pcr.read(tpm, selection))
        (self.released / f"{name}.json").write_text(state.as_json())
        tbs = self.released.parent / f"{name}.tbs"
        tbs.write_bytes(state.to_sign)
        self.sign(tbs, self.released / f"{name}.sig")


def boot_otherwise(tools: Tools, register: int = 7, what: str = "ab") -> None:
    """Something else is measured."""
    tools("pcrextend", f"{register}:sha256={what * 32}")
