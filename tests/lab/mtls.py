"""Mutual TLS with keys in a TPM: the keys, a certificate for each, and a server that wants one."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tpm2_pytss.constants import TPMA_OBJECT
from tpm2_pytss.types import TPM2B_PUBLIC, TPM2B_SENSITIVE_CREATE

from agent.tpm import TlsKey, Tpm
from tests.lab import pki

SRK = 0x81000001
KEYS = {
    "ecc256": 0x81000010,
    "ecc384": 0x81000011,
    "rsa2048": 0x81000012,
    "rsa2048 that only signs": 0x81000013,
    "ecc256 by the TCG": 0x81020000,
    "rsa2048 by the TCG": 0x81020001,
}
TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@dataclass
class Lab:
    """A TPM with keys, and a certificate for each."""

    tpm: Tpm
    ca: pki.Authority
    directory: Path
    tls: pki.Tls = field(init=False)

    def __post_init__(self) -> None:
        self.tls = self.ca.server(self.directory)
        for name, handle in KEYS.items():
            certificate = self.ca.issue(self.tpm.signer(handle).public_key, name)
            self.chain(name).write_bytes(pki.pem(certificate))

    def chain(self, name: str) -> Path:
        return self.directory / f"{name}.pem"

    def key(self, name: str) -> TlsKey:
        return TlsKey(self.tpm.signer(KEYS[name]))

    def trusting(self, version: ssl.TLSVersion = TLS_1_3) -> ssl.SSLContext:
        """A client that knows the server's CA, and has no certificate yet."""
        context = ssl.create_default_context(cafile=self.tls.trust)
        context.minimum_version = context.maximum_version = version
        return context

    def client(self, name: str, version: ssl.TLSVersion = TLS_1_3) -> ssl.SSLContext:
        context = self.trusting(version)
        self.key(name).load_into(context, self.chain(name))
        return context


def fill(tpm: Tpm) -> None:
    """The SRK, and the keys below it."""
    with tpm.srk("ecc256") as srk:
        tpm.persist(srk, SRK)
    for name, handle in KEYS.items():
        kind, _, only_signs = name.partition(" ")
        if name.endswith("TCG"):
            with tpm.idevid(kind) as key:  # type: ignore[arg-type]
                tpm.persist(key, handle)
            continue
        use = TPMA_OBJECT.SIGN_ENCRYPT
        if kind == "rsa2048" and not only_signs:
            use |= TPMA_OBJECT.DECRYPT
        bound = TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT | TPMA_OBJECT.SENSITIVEDATAORIGIN
        mine = TPMA_OBJECT.USERWITHAUTH | TPMA_OBJECT.NODA
        template = TPM2B_PUBLIC.parse(f"{kind}:null:null", objectAttributes=bound | mine | use)
        blobs = tpm._create(SRK, TPM2B_SENSITIVE_CREATE(), template, f"a key of {kind}")
        with tpm.load(SRK, *blobs) as key:
            tpm.persist(key, handle)


@contextlib.contextmanager
def server(lab: Lab, before: Callable[[], None] = lambda: None) -> Iterator[int]:
    """The port of an HTTPS server that wants a certificate of the CA, and answers with the name
    in it and the protocol. `before`: what happens between TCP's handshake and TLS's."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=lab.tls.trust)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(lab.tls.chain, lab.tls.key)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        pool = ThreadPoolExecutor()
        thread = threading.Thread(target=serve, args=(listening, context, before, pool))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            pool.shutdown()


def serve(
    listening: socket.socket,
    context: ssl.SSLContext,
    before: Callable[[], None],
    pool: ThreadPoolExecutor,
) -> None:
    with contextlib.suppress(OSError):
        while True:
            pool.submit(answer, listening.accept()[0], context, before)


def answer(plain: socket.socket, context: ssl.SSLContext, before: Callable[[], None]) -> None:
    before()
    plain.settimeout(10)
    with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as secure:
        secure.recv(4096)
        subject: Any = (secure.getpeercert() or {})["subject"]
        body = f"{subject[-1][0][1]} by {secure.version()}".encode()
        secure.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ")
        secure.sendall(b"%d\r\n\r\n%b" % (len(body), body))
        secure.unwrap()


def ask(context: ssl.SSLContext, port: int) -> str:
    """What the server says to this client."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    with context.wrap_socket(plain, server_hostname="localhost") as secure:
        secure.sendall(b"GET / HTTP/1.0\r\n\r\n")
        reply = b"".join(iter(lambda: secure.recv(4096), b""))
    return reply.rpartition(b"\r\n")[2].decode()
