"""Enrolment at an EST server, for whatever key: who logs in how, and what comes back."""

import logging
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509 import Certificate, CertificateSigningRequest

from agent import credentials, network, x509
from agent.clock import Times
from agent.errors import EstNoReenroll, Later, Refused, ServerBusy, TlsCertificateUnusable
from agent.network.login import TlsLogin
from agent.steps import idevid
from agent.tpm import Public, Tpm

if TYPE_CHECKING:
    from agent.ek import Genuine
    from agent.est import Basic, Est, Secret
    from agent.http import Https, Proxy
    from agent.tpm.operations import Signer

log = logging.getLogger(__name__)
Answer = Callable[["Est"], list[Certificate]]


@dataclass(frozen=True)
class Server:
    """An EST server, and how to log in there: `client` is what `Https` takes for a certificate,
    `more` what vouches for the server besides `trust`; `proxy`: how it is reached; `times`: what is
    known of the time."""

    url: str
    trust: Path
    seconds: float
    credential: "Basic | Secret | None" = None
    client: dict[str, Any] = field(default_factory=dict)
    more: Sequence[Certificate] = ()
    proxy: "Proxy | None" = None
    times: Times | None = None

    def https(self) -> "Https":
        more: Any = {"more": self.more, "proxy": self.proxy, "times": self.times}
        return network.https(self.trust, timeout=self.seconds, **more, **self.client)


def load() -> None:
    """What talks to an EST server; most runs need none of it."""
    import agent.est
    import agent.http
    import agent.tpm.provider  # noqa: F401  (to be loaded is all)


def by_est(server: Server, ask: Answer) -> tuple[Sequence[Certificate], Sequence[Certificate]]:
    """What `ask` got, and the CA's own certificates, which may help to build its chain."""
    from agent.est import Est

    with server.https() as https:
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


def again(csr: CertificateSigningRequest) -> Answer:
    """simplereenroll (RFC 7030, 4.2.2); where a server has none, simpleenroll by the same login.
    What the CA would have liked to see, it is asked for only if it refuses."""

    def ask(est: "Est") -> list[Certificate]:
        try:
            return _again(est, csr)
        except Refused:
            wanted: frozenset[str] = frozenset()
            with suppress(Later):
                wanted = _wanted(est)
            with _hint(wanted, csr):
                raise

    return ask


def _again(est: "Est", csr: CertificateSigningRequest) -> list[Certificate]:
    try:
        return est.simplereenroll(csr)
    except EstNoReenroll as e:
        log.debug("%s: by simpleenroll", e)
        return est.simpleenroll(csr)


def attested(
    tpm: Tpm, genuine: Callable[[], "Genuine"], handle: int, csr: CertificateSigningRequest
) -> Answer:
    """GlobalSign's tpmenroll: the certificate comes encrypted, for the TPM that has both keys: the
    EK, which its maker has certified, and the one at `handle`."""

    def ask(est: "Est") -> list[Certificate]:
        from agent.est_tpm import tpmenroll

        found = genuine()
        ek, key = _kept(tpm, found.kind.handle), _kept(tpm, handle)
        chain = found.encoded[:-1]  # all but the root
        locked = tpmenroll(est, csr, chain, ek.tpmt, key.tpmt)
        secret = tpm.activate(handle, found.kind.handle, locked.credential, locked.secret)
        return [locked.unlock(secret)]

    return ask


def _kept(tpm: Tpm, handle: int) -> Public:
    found = tpm.public(handle)
    if found is None:
        raise RuntimeError(f"{handle:#x} is made by an earlier step")
    return found


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
    chain = idevid.chain(tpm, trust, file)
    key = tpm.signer(idevid.HANDLE, known=True)  # its maker's certificate vouches for it
    with by_key(key, x509.shown(chain)) as client:
        yield client


class Witness:
    """A key in the TPM that remembers whether it signed: a server that asks for no certificate sees
    none, and its reply says nothing about ours."""

    def __init__(self, signer: "Signer") -> None:
        self._signer, self.signed = signer, False

    @property
    def public_key(self) -> RSAPublicKey | EllipticCurvePublicKey:
        return self._signer.public_key

    def sign(self, digest: bytes, hash_name: str, *, pss: bool = False) -> bytes:
        self.signed = True
        return self._signer.sign(digest, hash_name, pss=pss)


@contextmanager
def by_key(signer: "Signer", chain: Sequence[Certificate]) -> Iterator[dict[str, Any]]:
    """A TLS client certificate, leaf first, whose key is in the TPM."""
    login = TlsLogin(signer, x509.pem(chain))
    yield {"identify": login, "explain": login.explain}


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
