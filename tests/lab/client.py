"""A client that connects all along, as IoT Edge does: by the certificates where they are, and by
keys that it reaches through the PKCS#11 module.

    with Client(device) as client:
        ...  # months pass
        client.connects()  # it does, with each certificate, as of now
    assert client.longest_interruption() < timedelta(minutes=1), client.failed()

With `device-id` it connects to a server that trusts the operations CA alone, as a hub does; with
`ldevid` to the owner's EST server. Both know the time of the lab, and so does the client. This file
is also the program that connects.
"""

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from agent import pkcs11
from agent import pkcs11_rows as rows
from tests.lab import cryptoki, pki

if TYPE_CHECKING:
    from tests.lab.device import Device

PAUSE = 0.2  # seconds between two connections
PATIENCE = 60.0
CERTS = ("device-id", "ldevid")


@dataclass(frozen=True)
class Probe:
    """A connection: when it began and ended, in seconds since 1970 of the lab's time; by which
    certificate; why it failed, or empty."""

    began: float
    ended: float
    cert: str
    serial: int
    error: str


class Client:
    """It connects for the length of the `with`, by both certificates in turn."""

    def __init__(self, device: "Device") -> None:
        self._device, self._directory = device, device.directory / "client"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        device, world = self._device, self._device.world
        self._directory.mkdir()
        trust = self._directory / "operations.pem"
        trust.write_bytes(pki.pem(world.operations.root))
        tls, est = world.tls, f"{world.owner_est.url('mtls')}/cacerts"
        places = (device.state, device.edge, device.pkcs11, tls.chain, tls.key, tls.trust, trust)
        wish = [*map(str, places), est]
        module = {"TPM2_PKCS11_TCTI": device.tcti, "TPM2_PKCS11_STORE": str(self._directory)}
        quiet = {"TPM2_PKCS11_LOG_LEVEL": "0", "TSS2_LOG": "all+none"}
        with self._log.open("wb") as log, self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, json.dumps(wish)],
                env={**os.environ, **device.environment(), **module, **quiet},
                stdout=log,
                stderr=said,
                stdin=subprocess.PIPE,  # closed when we end, however we do
            )
        return self

    def __exit__(self, *exc: object) -> None:
        """The connection that it is at comes to its end first, for the TPM's sake."""
        if self._process:
            self._process.communicate(timeout=PATIENCE)
            self._process = None

    @property
    def _log(self) -> Path:
        return self._directory / "log.jsonl"

    @property
    def _said(self) -> Path:
        return self._directory / "out"

    def probes(self, cert: str = "") -> list[Probe]:
        """All so far, or those by one certificate."""
        lines = self._log.read_text().rpartition("\n")[0].splitlines()
        found = [Probe(**json.loads(line)) for line in lines]
        return [each for each in found if cert in ("", each.cert)]

    def connects(self) -> None:
        """Waits until it has, by each certificate, and had begun after this was called."""
        seen, end = len(self.probes()) + 1, time.monotonic() + PATIENCE  # one was under way
        while True:
            new = self.probes()[seen:]
            if {each.cert for each in new if not each.error} == set(CERTS):
                return
            why = [each.error for each in new if each.error][-1:] or self._said.read_text()[-2000:]
            assert self._process is not None
            assert self._process.poll() is None, why
            assert time.monotonic() < end, why
            time.sleep(0.02)

    def failed(self) -> list[Probe]:
        return [each for each in self.probes() if each.error]

    def longest_interruption(self) -> timedelta:
        """For how long it could not connect by a certificate: from when it had failed until it had
        succeeded again."""
        gaps = [gap for cert in CERTS for gap in _gaps(self.probes(cert))]
        return max(gaps, default=timedelta())


def _gaps(probes: list[Probe]) -> Iterator[timedelta]:
    since: float | None = None
    for each in probes:
        if each.error:
            since = each.ended if since is None else since
        elif since is not None:
            yield timedelta(seconds=each.ended - since)
            since = None


# --- the program ---


@dataclass(frozen=True)
class Wish:
    """Paths, and the URL of the EST server; `server`, `key` and `trust` are the servers' own."""

    state: str
    edge: str
    store: str
    server: str
    key: str
    trust: str
    clients: str
    est: str


@dataclass(frozen=True)
class InToken:
    """A key that the module signs with, as agent/tpm/operations.py wants it."""

    service: cryptoki.Service
    label: str

    @property
    def public_key(self) -> RSAPublicKey | EllipticCurvePublicKey:
        """By the token's word, not by the certificate's."""
        if self.service.key_type(self.label) == cryptoki.RSA:
            n, e = map(self._number, (cryptoki.MODULUS, cryptoki.PUBLIC_EXPONENT))
            return RSAPublicNumbers(e, n).public_key()
        point = self.service.get(cryptoki.PUBLIC_KEY, self.label, cryptoki.EC_POINT)
        return EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point[2:])  # DER

    def _number(self, attribute: int) -> int:
        found = self.service.get(cryptoki.PUBLIC_KEY, self.label, attribute)
        return int.from_bytes(found, "big")

    def sign(self, digest: bytes, hash_name: str, *, pss: bool = False) -> bytes:
        if isinstance(self.public_key, RSAPublicKey):
            assert pss  # TLS 1.3 has no other
            return self.service.sign_pss(self.label, digest, hash_name)
        made = self.service.sign(self.label, cryptoki.ECDSA, digest)
        half = len(made) // 2
        return encode_dss_signature(*(int.from_bytes(n, "big") for n in (made[:half], made[half:])))


def connect(cert: str, wish: Wish, port: int) -> int:
    """The serial number of the certificate. Raises whatever went wrong."""
    from agent import x509
    from agent.state import State
    from agent.tpm import TlsKey

    state = State(Path(wish.state))
    if cert == "ldevid":
        path, label = state.ldevid_cert, state.slot
    else:
        [path] = (Path(wish.edge) / "certd/certs").glob(f"{cert.replace('-', '')}-*.cer")
        label = cert
    pin = json.loads(state.pins.read_text())["user"]
    with _opened(wish, pin) as service:
        context = ssl.create_default_context(cafile=wish.trust)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        TlsKey(InToken(service, label)).load_into(context, path)
        url = urlsplit(wish.est if cert == "ldevid" else f"https://localhost:{port}/")
        _ask(context, url.port or 443, url.path)
    return x509.parse(path.read_bytes())[0].serial_number


@contextmanager
def _opened(wish: Wish, pin: str) -> Iterator[cryptoki.Service]:
    """The module, on a copy of the store. On a device one process alone has the module open; a
    second one would lock the store while the first wants to write, and that has no patience."""
    with rows.read(Path(wish.store) / pkcs11.DATABASE, "ro") as db:
        (Path(os.environ["TPM2_PKCS11_STORE"]) / pkcs11.DATABASE).write_bytes(db.serialize())
    with cryptoki.service("edge", pin) as service:
        yield service


def _ask(context: ssl.SSLContext, port: int, path: str) -> None:
    plain = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    with context.wrap_socket(plain, server_hostname="localhost") as secure:
        secure.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        answer = secure.recv(64)
        assert answer.split()[1:2] == [b"200"], answer


def hub(wish: Wish) -> socket.socket:
    """A server that lets in whom the operations CA has certified; listens until we end."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=wish.clients)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(wish.server, wish.key)
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(listening, context), daemon=True).start()
    return listening


def _serve(listening: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        plain, _ = listening.accept()
        with suppress(OSError), context.wrap_socket(plain, server_side=True) as secure:
            secure.recv(4096)
            secure.sendall(b"HTTP/1.0 200 OK\r\n\r\n")


def main(wish: Sequence[str]) -> None:
    ours = Wish(*wish)
    port = hub(ours).getsockname()[1]
    over = threading.Event()

    def until_nobody_listens() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=until_nobody_listens, daemon=True).start()
    while not over.wait(PAUSE):
        for cert in CERTS:
            began, serial, error = time.time(), 0, ""
            try:
                serial = connect(cert, ours, port)
            except Exception as e:  # whatever it is: nobody could connect
                error = f"{type(e).__name__}: {e}"
            probe = Probe(began, time.time(), cert, serial, error)
            sys.stdout.write(json.dumps(asdict(probe)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
