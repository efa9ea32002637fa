"""The LDevID certificate: issued by the owner's CA for the key in the TPM."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from cryptography.x509 import Certificate, CertificateSigningRequest

from agent import config, inputs, store, x509, x509_issued
from agent.errors import ConfigError, IssuedWrong
from agent.state import State
from agent.steps import Step, enrol, ldevid_key, pending
from agent.tpm import Tpm


def ldevid_cert(
    tpm: Tpm, conf: config.Ldevid, factory: config.Idevid, state: State, who: Callable[[], str]
) -> Step:
    """`factory`: where the IDevID is, and who must have issued it, where it logs in."""

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
        key, url = tpm.public(ldevid_key.HANDLE), conf.est.url if conf.est else ""
        csr = pending.request(state.pending, key, url, lambda: _request(tpm, who()))
        if conf.est is not None:
            with pending.held(state.pending, csr, conf.est.url):
                issued = _by_est(tpm, conf.est, factory, csr)
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


# --- who issues ---


def _request(tpm: Tpm, cn: str) -> CertificateSigningRequest:
    with tpm.private_key(ldevid_key.HANDLE, known=True) as private:  # its blobs are here
        return x509_issued.request(private, cn)


def _by_est(
    tpm: Tpm, conf: config.LdevidEst, factory: config.Idevid, csr: CertificateSigningRequest
) -> list[Certificate]:
    with _logged_in(tpm, conf, factory) as (credential, client):
        seconds = conf.timeout.total_seconds()
        server = enrol.Server(conf.url, conf.trust, seconds, credential, client)
        answer, others = enrol.by_est(server, enrol.simply(csr))
    anchors = x509.anchors(conf.issuer or conf.trust)
    return x509_issued.issued(answer, csr, anchors, others, datetime.now(UTC))


@contextmanager
def _logged_in(
    tpm: Tpm, conf: config.LdevidEst, factory: config.Idevid
) -> Iterator[tuple[Any, dict[str, Any]]]:
    from agent.est import Basic, Secret

    if conf.auth == "mtls":
        with enrol.by_idevid(tpm, factory.trust, factory.certificate) as client:
            yield None, client
    elif conf.auth == "basic":
        yield Basic(conf.username or "", inputs.est_secret(conf)), {}
    else:
        yield Secret(inputs.est_secret(conf)), {}


def _by_ca(conf: config.Ldevid, csr: CertificateSigningRequest) -> list[Certificate]:
    """A CA on this very device: for a lab."""
    ca = _ca(conf)
    try:
        key = ca.key.read_bytes()
        issuer = x509.anchors(ca.certificate)[0]
        until = min(datetime.now(UTC) + ca.valid, issuer.not_valid_after_utc)
        made = x509_issued.issue(csr, issuer, key, until)
    except (OSError, ValueError, TypeError) as e:
        raise ConfigError(f"cannot issue with the local CA key '{ca.key}': {e}") from e
    return [made]
