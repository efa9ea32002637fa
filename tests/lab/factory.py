"""The factory: what the shell scripts of Azure-Samples/iotedge-tpm2cloud leave in a TPM, made with
the same commands of tpm2-tools, but on a TPM without resource manager: whatever a tool leaves in
one of the three slots is flushed."""

import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from tests.lab import pki

EK, IDEVID, CERTIFICATE = "0x81010001", "0x81020000", "0x01C90000"
EK_CERTIFICATE = "0x01C00002"
ATTRIBUTES = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign|decrypt"
NV_ATTRIBUTES = "ppread|ppwrite|platformcreate|write_stclear"
OPEN_NV_ATTRIBUTES = f"{NV_ATTRIBUTES}|ownerread|authread|no_da"
DAY = timedelta(days=1)
Certificate = Literal["good", "none", "other-key", "expired", "not-yet", "foreign"]


@dataclass(frozen=True, kw_only=True)
class Board:
    """What the factory makes of a TPM; the defaults are what the scripts do."""

    virgin: bool = False  # as the chip's maker ships it: the factory has not seen it yet
    id: str = "board-0001"
    key: pki.Kind = "rsa2048"
    certificate: Certificate = "good"
    padding: int = 0  # bytes 0xff behind the certificate, in an index larger by as much
    # The certificate can be read by others than the platform too: beyond the scripts, but needed
    # where the firmware locks the platform hierarchy before the system boots.
    readable: bool = False

    @property
    def subject(self) -> x509.Name:
        above = {"C": "US", "ST": "Washington", "L": "Redmond"}
        return pki.name(self.id, **above, O="Contoso", OU="iotedge-tpm2cloud")


class Tools:
    """tpm2-tools on one TPM; a tool that fails is an error, quoted."""

    def __init__(self, tcti: str, directory: str) -> None:
        self._directory = directory
        self._env = {**os.environ, "TPM2TOOLS_TCTI": tcti}

    def __call__(self, tool: str, *arguments: str) -> str:
        done = subprocess.run(
            [f"tpm2_{tool}", *arguments],
            cwd=self._directory,
            env=self._env,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"tpm2_{tool} {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def flush(self) -> None:
        """Throw out the transient objects the tools left."""
        self("flushcontext", "--transient-object")

    def policy(self) -> str:
        """A session that satisfies the EK's policy, for one command."""
        self("startauthsession", "-S", "session.ctx", "--policy-session")
        self("policysecret", "-S", "session.ctx", "-c", "0x4000000B")
        return "session:session.ctx"


def make(tcti: str, oem: pki.Authority, board: Board) -> None:
    """Everything the factory leaves in the TPM: EK, IDevID key, IDevID certificate."""
    with tempfile.TemporaryDirectory() as directory:
        tools = Tools(tcti, directory)
        ensure_ek(tools)
        create_idevid(tools, board)
        if board.certificate != "none":
            certificate = pki.der(idevid_certificate(oem, read_public(tools, directory), board))
            attributes = OPEN_NV_ATTRIBUTES if board.readable else NV_ATTRIBUTES
            write_nv(tools, directory, certificate + b"\xff" * board.padding, attributes=attributes)


def ensure_ek(tools: Tools) -> None:
    """ek-key-create.sh; on a TPM whose maker left the EK there, that one stays."""
    if EK not in tools("getcap", "handles-persistent"):
        tools("createek", "-c", EK, "-G", "rsa", "-u", "ek.pub")
        tools.flush()


def create_idevid(tools: Tools, board: Board) -> None:
    """idevid-key-create.sh: a child of the EK."""
    files = ["-u", "idevid.pub", "-r", "idevid.priv", "-c", "idevid.ctx"]
    template = ["-G", board.key, "-g", "sha256", "-a", ATTRIBUTES]
    tools("create", "-C", EK, *template, *files, "-P", tools.policy())
    tools("flushcontext", "session.ctx")
    tools.flush()
    tools("load", "-C", EK, *files, "-P", tools.policy())
    tools("flushcontext", "session.ctx")
    tools("evictcontrol", "-c", "idevid.ctx", IDEVID)
    tools.flush()


def read_public(tools: Tools, directory: str) -> CertificatePublicKeyTypes:
    tools("readpublic", "-c", IDEVID, "-f", "pem", "-o", "idevid.pem")
    pem = (Path(directory) / "idevid.pem").read_bytes()
    return serialization.load_pem_public_key(pem)  # type: ignore[return-value]


def idevid_certificate(
    oem: pki.Authority, key: CertificatePublicKeyTypes, board: Board
) -> x509.Certificate:
    """cert-create.sh, method `ca`, with the subject of idevid.cnf.template."""
    issue: dict[Certificate, Callable[[], x509.Certificate]] = {
        "good": lambda: oem.issue(key, board.subject, lasts=20 * pki.YEAR),
        "other-key": lambda: oem.issue(pki.new_key(board.key).public_key(), board.subject),
        "expired": lambda: oem.issue(key, board.subject, starts=-3 * DAY, lasts=DAY),
        "not-yet": lambda: oem.issue(key, board.subject, starts=2 * DAY),
        "foreign": lambda: pki.authority("Somebody else").issue(key, board.subject),
    }
    return issue[board.certificate]()


def write_nv(
    tools: Tools,
    directory: str,
    data: bytes,
    index: str = CERTIFICATE,
    attributes: str = NV_ATTRIBUTES,
) -> None:
    """cert-create.sh, write_nv: readable and writable with platform authorization only."""
    (Path(directory) / "nv.bin").write_bytes(data)
    tools("nvdefine", index, "-C", "p", "-s", str(len(data)), "-a", attributes)
    tools("nvwrite", index, "-C", "p", "-i", "nv.bin")
