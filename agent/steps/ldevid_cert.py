"""The LDevID certificate: issued by the owner's CA for the key in the TPM."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate, CertificateSigningRequest, load_pem_x509_csr

from agent import config, inputs, store, x509, x509_issued
from agent.errors import ConfigError, EstPending, IssuedWrong, Later, Refused, ServerBusy
from agent.state import State, read_json, write_json
from agent.steps import Step, idevid, ldevid_key
from agent.tpm import Tpm

if TYPE_CHECKING:
    from agent.est import Est


def ldevid_cert(
    tpm: Tpm, conf: config.Ldevid, idevid_trust: Path, state: State, who: Callable[[], str]
) -> Step:
    def done() -> str | None:
        found = x509.kept(store.read(state.ldevid_cert))
        key = tpm.public(ldevid_key.HANDLE)
        if not found or key is None or found[0].public_key() != key.key:
            return None
        if not _good(found, _anchors(conf), who()):
            return None
        until = found[0].not_valid_after_utc
        issuer = found[0].issuer.rfc4514_string()
        return f"{x509.describe(found[0])}, issued by {issuer}, until {until:%Y-%m-%d %H:%M}Z"

    def apply() -> None:
        csr = _request(tpm, state.pending, who(), conf.est.url if conf.est else "")
        if conf.est is not None:
            with _held(state.pending, csr, conf.est.url):
                issued = _by_est(tpm, conf.est, idevid_trust, csr)
        else:
            issued = _by_ca(conf, csr)
        store.write(state.ldevid_cert, x509.pem(issued), mode=0o644)
        if state.pending.exists():
            store.remove(state.pending)

    return Step("ldevid-cert", done, apply)


def _good(found: list[Certificate], roots: list[Certificate], cn: str) -> bool:
    now = datetime.now(UTC)
    try:
        x509_issued.check(found[0], cn, now)
        x509.chain(found[0], roots, found[1:], max(now, found[0].not_valid_before_utc))
    except (IssuedWrong, x509.Untrusted):
        return False
    return True


def _anchors(conf: config.Ldevid) -> list[Certificate]:
    """The CAs that may have issued the certificate."""
    if conf.est is not None:
        return x509.anchors(conf.est.issuer or conf.est.trust)
    return x509.anchors(_ca(conf).certificate)


def _ca(conf: config.Ldevid) -> config.LdevidCa:
    if conf.ca is None:
        raise RuntimeError("the configuration has either [ldevid.est] or [ldevid.ca]")
    return conf.ca


# --- the request, and coming back with it ---


def _request(tpm: Tpm, pending: Path, cn: str, url: str) -> CertificateSigningRequest:
    """The CSR that this CA told us to come back with, else a new one. Raises EstPending before the
    time it told us."""
    key, kept = tpm.public(ldevid_key.HANDLE), _told(pending)
    if kept and key and (kept.csr.public_key(), kept.cn, kept.url) == (key.key, cn, url):
        _wait(kept)
        return kept.csr
    with tpm.private_key(ldevid_key.HANDLE) as private:
        return x509_issued.request(private, cn)


@dataclass(frozen=True)
class Told:
    """ "Come back later", by whom and with what; `since` and `until` in seconds since 1970."""

    csr: CertificateSigningRequest
    url: str
    since: float
    until: float
    why: str

    @property
    def cn(self) -> str:
        return x509.common_name(self.csr)


def _told(pending: Path) -> Told | None:
    """None also for a damaged file: the CA is asked again then."""
    kept = read_json(pending) or {}
    try:
        csr = load_pem_x509_csr(str(kept["csr"]).encode())
        since, until = float(kept["since"]), float(kept["until"])
        return Told(csr, str(kept["url"]), since, until, str(kept["why"]))
    except (KeyError, TypeError, ValueError):
        return None


def _wait(kept: Told) -> None:
    """A clock that was turned back since then does not make us wait longer."""
    now = time.time()
    if kept.since <= now < kept.until:
        left = round(kept.until - now)
        raise EstPending(f"cannot enroll yet: {kept.why}; {left} s to go", seconds=left)


@contextmanager
def _held(pending: Path, csr: CertificateSigningRequest, url: str) -> Iterator[None]:
    """ "Come back later" (202, or Retry-After of a busy server) is kept over restarts."""
    try:
        yield
    except Later as e:
        if e.seconds is not None:
            since = time.time()
            pem = csr.public_bytes(Encoding.PEM).decode()
            told = {"since": since, "until": since + e.seconds, "why": str(e)}
            write_json(pending, {"csr": pem, "url": url, **told})
        raise


# --- who issues ---


def load() -> None:
    """What talks to an EST server; most runs need none of it."""
    import agent.est
    import agent.http
    import agent.tpm.provider  # noqa: F401  (to be loaded is all)


def _by_est(
    tpm: Tpm, conf: config.LdevidEst, idevid_trust: Path, csr: CertificateSigningRequest
) -> list[Certificate]:
    from agent.est import Basic, Est, Secret
    from agent.http import Https

    credential: Basic | Secret | None = None
    if conf.auth == "basic":
        credential = Basic(conf.username or "", inputs.est_secret(conf))
    elif conf.auth == "secret":
        credential = Secret(inputs.est_secret(conf))
    identity: AbstractContextManager[dict[str, Any]] = nullcontext({})
    if conf.auth == "mtls":
        identity = _by_idevid(tpm, idevid_trust)
    seconds = conf.timeout.total_seconds()
    with identity as client, Https(conf.trust, timeout=seconds, **client) as https:
        est = Est(https, conf.url, credential=credential)
        others = est.cacerts()
        wanted = _wanted(est)
        with _hint(wanted, csr):
            answer = est.simpleenroll(csr)
    return x509_issued.issued(
        answer, csr, x509.anchors(conf.issuer or conf.trust), others, datetime.now(UTC)
    )


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


@contextmanager
def _by_idevid(tpm: Tpm, trust: Path) -> Iterator[dict[str, Any]]:
    """The IDevID as TLS client certificate, its key in the TPM (RFC 7030, 3.3.2)."""
    from agent.tpm.provider import TlsKey

    chain = idevid.chain(tpm, trust)
    key = TlsKey(tpm.signer(idevid.HANDLE))
    with _memory(x509.pem(x509.shown(chain))) as path:
        yield {
            "identify": lambda context: key.load_into(context, path),
            "explain": key.raise_if_failed,
        }


@contextmanager
def _memory(data: bytes) -> Iterator[Path]:
    """A file that no disk sees and no kill leaves behind."""
    fd = os.memfd_create("certificates")
    with os.fdopen(fd, "wb") as f:
        f.write(data)
        f.flush()
        yield Path(f"/proc/self/fd/{fd}")


def _by_ca(conf: config.Ldevid, csr: CertificateSigningRequest) -> list[Certificate]:
    """A CA on this very device: for a lab."""
    ca = _ca(conf)
    try:
        key = ca.key.read_bytes()
        made = x509_issued.issue(csr, x509.anchors(ca.certificate)[0], key, ca.valid)
    except (OSError, ValueError, TypeError) as e:
        raise ConfigError(f"cannot issue with the local CA key '{ca.key}': {e}") from e
    return [made]
