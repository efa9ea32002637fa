"""Enrolment at an EST server, for whatever key: who logs in how, and what comes back."""

import os
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509 import Certificate, CertificateSigningRequest

from agent import credentials, x509
from agent.errors import Refused, ServerBusy, TlsCertificateUnusable
from agent.steps import idevid
from agent.tpm import Tpm

if TYPE_CHECKING:
    from agent.est import Basic, Est, Secret

Answer = Callable[["Est"], list[Certificate]]


@dataclass(frozen=True)
class Server:
    """An EST server, and how to log in there: `client` is what `Https` takes for a certificate,
    `more` what vouches for the server besides `trust`."""

    url: str
    trust: Path
    seconds: float
    credential: "Basic | Secret | None" = None
    client: dict[str, Any] = field(default_factory=dict)
    more: Sequence[Certificate] = ()


def load() -> None:
    """What talks to an EST server; most runs need none of it."""
    import agent.est
    import agent.http
    import agent.tpm.provider  # noqa: F401  (to be loaded is all)


def by_est(server: Server, ask: Answer) -> tuple[Sequence[Certificate], Sequence[Certificate]]:
    """What `ask` got, and the CA's own certificates, which may help to build its chain."""
    from agent.est import Est
    from agent.http import Https

    with Https(server.trust, more=server.more, timeout=server.seconds, **server.client) as https:
        est = Est(https, server.url, credential=server.credential)
        others = est.cacerts()
        return ask(est), others


def simply(csr: CertificateSigningRequest) -> Answer:
    """simpleenroll (RFC 7030, 4.2.1); a refusal says what the CA would have liked to see."""

    def ask(est: "Est") -> list[Certificate]:
        wanted = _wanted(est)
        with _hint(wanted, csr):
            return est.simpleenroll(csr)

    return ask


def _wanted(est: "Est") -> frozenset[str]:
    """The OIDs the CA would like to see (RFC 7030, 4.5.2); a server need not offer any."""
    try:
        return est.csrattrs().oids
    except (Refused, ServerBusy):
        return frozenset()


RSA, ECC = "1.2.840.113549.1.1.1", "1.2.840.10045.2.1"
UNMET = {
    "1.2.840.113549.1.9.7": "a proof of possession bound to the TLS session",
    RSA: "an RSA key",
    ECC: "an ECC key",
    "1.3.132.0.34": "a key on P-384",
}


@contextmanager
def _hint(wanted: frozenset[str], csr: CertificateSigningRequest) -> Iterator[None]:
    """A refusal tells what the CA asked for and did not get: most likely, why it refuses."""
    met = RSA if isinstance(csr.public_key(), RSAPublicKey) else ECC
    try:
        yield
    except Refused as e:
        if unmet := [UNMET[oid] for oid in sorted(wanted & UNMET.keys() - {met})]:
            e.args = (f"{e}; it asks for {' and '.join(unmet)} (csrattrs)",)
        raise


# --- who logs in ---


@contextmanager
def by_idevid(tpm: Tpm, trust: Path, file: Path) -> Iterator[dict[str, Any]]:
    """The IDevID as TLS client certificate, its key in the TPM (RFC 7030, 3.3.2)."""
    from agent.tpm.provider import TlsKey

    chain = idevid.chain(tpm, trust, file)
    key = TlsKey(tpm.signer(idevid.HANDLE, known=True))  # its maker's certificate vouches for it
    with _memory(x509.pem(x509.shown(chain))) as path:
        yield {
            "identify": lambda context: key.load_into(context, path),
            "explain": key.raise_if_failed,
        }


def by_files(chain: Path, key: Path) -> dict[str, Any]:
    """A certificate and its key in files, PEM: this station's, not a device's."""

    def identify(context: ssl.SSLContext) -> None:
        try:
            credentials.text_of(key, private=True)
            context.load_cert_chain(chain, key, password="")
        except (OSError, ValueError) as e:  # ssl.SSLError is an OSError, too
            said = getattr(e, "strerror", None) or e
            why = f"cannot log in with '{chain}' and '{key}': {said}"
            raise TlsCertificateUnusable(why, path=chain) from e

    return {"identify": identify}


@contextmanager
def _memory(data: bytes) -> Iterator[Path]:
    """A file that no disk sees and no kill leaves behind."""
    fd = os.memfd_create("certificates")
    with os.fdopen(fd, "wb") as f:
        f.write(data)
        f.flush()
        yield Path(f"/proc/self/fd/{fd}")
