"""A device that is tpm2-tools and a few lines of HTTP: nothing of the agent."""

import base64
import hashlib
import hmac
import json
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from cryptography import x509

from tests.lab import credential, dps_tpm, pki, swtpm
from tests.lab.provisioning import Dps
from tests.lab.tools import Tools

EK, SRK, ECC_EK = "0x81010001", "0x81000001", "0x81010002"
Sign = Callable[[bytes], bytes]


class Chip:
    """A TPM with EK and SRK in their places, and tpm2-tools as what drives it."""

    def __init__(self, tcti: str, directory: Path) -> None:
        self.tools, self._directory, self._names = Tools(tcti, directory), directory, 0
        self.tools("readpublic", "-c", EK, "-o", "ek.pub")  # from the chip's maker
        self.tools("createek", "-c", ECC_EK, "-G", "ecc", "-u", "ecc-ek.pub")
        algorithm = ["-G", "rsa2048:null:aes128cfb", "-g", "sha256"]
        self.tools("createprimary", "-C", "o", *algorithm, "-c", "srk.ctx")
        self.tools("evictcontrol", "-C", "o", "-c", "srk.ctx", SRK)
        self.tools("flushcontext", "-t")
        self.tools("readpublic", "-c", SRK, "-o", "srk.pub")

    def read(self, name: str) -> bytes:
        return (self._directory / name).read_bytes()

    def write(self, name: str, data: bytes) -> str:
        (self._directory / name).write_bytes(data)
        return name

    @property
    def parents(self) -> dps_tpm.Parents:
        return dps_tpm.Parents(self.read("ek.pub"), self.read("srk.pub"))

    def opened(self, blob: bytes, ek: str = EK) -> Sign:
        """The key in an authenticationKey; raises RuntimeError where the TPM refuses it."""
        parts = dict(zip(dps_tpm.PARTS, taken_apart(blob), strict=True))
        self.write("made", credential.HEADER + parts["credential"] + parts["secret"])
        for name in ("private", "seed", "public"):
            self.write(name, parts[name])
        self._activate(ek)
        options = ["-u", "public", "-s", "seed", "-k", "inner", "-G", "hmac"]
        self.tools("import", "-C", SRK, "-i", "private", *options, "-r", "wrapped")
        self._names += 1
        loaded = f"key-{self._names}.ctx"
        try:
            self.tools("load", "-C", SRK, "-u", "public", "-r", "wrapped", "-c", loaded)
        finally:
            self.tools("flushcontext", "-t")
        return lambda data: self._hmac(loaded, data)

    def _activate(self, ek: str) -> None:
        self.tools("startauthsession", "--policy-session", "-S", "session")
        try:
            self.tools("policysecret", "-S", "session", "-c", "e")
            keys = ["-c", SRK, "-C", ek, "-P", "session:session"]
            self.tools("activatecredential", *keys, "-i", "made", "-o", "inner")
        finally:
            self.tools("flushcontext", "session")

    def _hmac(self, loaded: str, data: bytes) -> bytes:
        try:
            said = self.tools("hmac", "-c", loaded, "--hex", self.write("data", data))
        finally:
            self.tools("flushcontext", "-t")
        return bytes.fromhex(said)


def taken_apart(blob: bytes) -> list[bytes]:
    """The 2Bs in it, sizes and all."""
    parts = []
    while blob:
        size = 2 + int.from_bytes(blob[:2], "big")
        parts.append(blob[:size])
        blob = blob[size:]
    return parts


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def state(self) -> Any:
        return self.json["registrationState"]

    @property
    def blob(self) -> bytes:
        """The authenticationKey, of a challenge or of the hub."""
        at = self.json if self.status == 401 else self.state["tpm"]
        return base64.b64decode(at["authenticationKey"])


class Client:
    """A device that may do anything wrong."""

    def __init__(
        self, dps: Dps, trust: Path, registration_id: str, parents: dps_tpm.Parents
    ) -> None:
        self.dps, self.id, self.parents = dps, registration_id, parents
        self._trust, self._context = trust, ssl.create_default_context(cafile=str(trust))
        self.kind, self.audience = (
            "application/json",
            f"{dps.scope}/registrations/{registration_id}",
        )

    def show(self, directory: Path, key: pki.PrivateKey, *chain: x509.Certificate) -> None:
        """Use this client certificate from now on."""
        file = directory / "client.pem"
        file.write_bytes(pki.private_pem(key) + pki.pem(*chain))
        self._context.load_cert_chain(file)

    def ask(self, method: str, path: str, body: Any = None, token: str | None = None) -> Answer:
        host = urlsplit(self.dps.url).netloc
        connection = HTTPSConnection(host, context=self._context, timeout=30)
        headers = {"Content-Type": self.kind} | ({"Authorization": token} if token else {})
        url = f"/{self.audience}/{path}?api-version=2021-06-01"
        try:
            connection.request(method, url, json.dumps(body), headers)
            reply = connection.getresponse()
            return Answer(reply.status, dict(reply.getheaders()), reply.read())
        finally:
            connection.close()

    def keys(self, **changed: Any) -> dict[str, Any]:
        ek, srk = (base64.b64encode(key).decode() for key in (self.parents.ek, self.parents.srk))
        return {"endorsementKey": ek, "storageRootKey": srk} | changed

    def named(self, registration_id: str) -> "Client":
        """The same device under another name."""
        return Client(self.dps, self._trust, registration_id, self.parents)

    def challenge(self, **changed: Any) -> Answer:
        body = {"registrationId": self.id, "tpm": self.keys(**changed)}
        return self.ask("PUT", "register", body)

    def token(self, sign: Sign, **changed: Any) -> str:
        wanted: dict[str, Any] = {
            "sr": self.audience,
            "se": int(time.time()) + 3600,
            "skn": "registration",
        }
        wanted |= changed
        sr = quote(wanted["sr"], safe="")
        signature = base64.b64encode(sign(f"{sr}\n{wanted['se']}".encode())).decode()
        parts = {"sr": sr, "sig": quote(signature, safe=""), "se": wanted["se"]}
        parts |= {} if wanted["skn"] is None else {"skn": wanted["skn"]}
        return "SharedAccessSignature " + "&".join(f"{n}={v}" for n, v in parts.items())

    def register(self, token: str | None, **more: Any) -> Answer:
        return self.ask("PUT", "register", {"registrationId": self.id, **more}, token)

    def poll(self, begun: Answer, token: str | None) -> Answer:
        return self.ask("GET", f"operations/{begun.json['operationId']}", token=token)

    def registered(self, chip: Chip) -> Answer:
        """The whole exchange, to its last answer."""
        token = self.token(chip.opened(self.challenge().blob))
        begun = self.register(token)
        assert begun.status == 202, begun
        while (answer := self.poll(begun, token)).status == 202:
            pass
        return answer


@contextmanager
def soldered(state: Path, directory: Path) -> Iterator[Chip]:
    """A chip whose state is a copy of the one in `state`, as its maker left it."""
    shutil.copytree(state, directory / "tpm")
    with swtpm.running(directory / "tpm") as tcti:
        yield Chip(tcti, directory)


def softly(key: bytes) -> Sign:
    """A device whose key is not in a TPM."""
    return lambda data: hmac.digest(key, data, hashlib.sha256)
