"""The factory step: a genuine TPM, an IDevID key in it, and its certificate; the same loop and,
where there are any, the same steps as at a first boot."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate, CertificateSigningRequest

from agent import credentials, deviceid, ek, evidence, identity, store, x509, x509_idevid
from agent.clock import Times
from agent.config import Config, Dps, Idevid
from agent.config_factory import Ca, Est, Factory
from agent.errors import (
    CertificateFileUnusable,
    ConfigError,
    DeviceIdInvalid,
    IssuerMissing,
    SubjectInvalid,
)
from agent.state import State
from agent.steps import Step, enrol, idevid, idevid_cert, idevid_key, preflight
from agent.steps.ek import ek as ek_step
from agent.steps.ek import trust as ek_trust
from agent.steps.idevid import HANDLE
from agent.tpm import Tpm

if TYPE_CHECKING:
    from agent import est

log = logging.getLogger(__name__)
Answer = tuple[Sequence[Certificate], Sequence[Certificate]]


@dataclass(frozen=True)
class Line:
    """One board on the line: what is done to it, by whose configuration."""

    conf: Factory
    tpm: Tpm
    state: State
    root: Path = Path("/")

    def genuine(self) -> ek.Genuine:
        return ek.verify(self.tpm, self.trust, strict=True)

    @property
    def trust(self) -> ek.Trust:
        return ek_trust(self.conf.tpm, self.state)

    def who(self) -> x509_idevid.Who:
        texts = asdict(self.conf.idevid.subject)
        hardware = texts.pop("hardware_type")
        try:
            filled = {k: self._filled(t) for k, t in texts.items() if t is not None}
        except DeviceIdInvalid as e:
            raise SubjectInvalid(f"cannot name the board: {e}") from e
        return x509_idevid.Who(x509_idevid.subject(filled), hardware)

    def _filled(self, text: str) -> str:
        return deviceid.filled(text, self.root, partial(ek.shown, self.tpm))


def key_steps(line: Line) -> list[Step]:
    """Up to a key in a genuine TPM: all that a CSR needs."""
    conf, tpm = line.conf, line.tpm
    parent = cache(lambda: ek.certificate(tpm)[0])
    return [
        preflight.tpm_answers(tpm, conf.tpm.wait.total_seconds()),
        preflight.clock(None, trust_files(conf)),
        preflight.look("subject", lambda: x509.written(line.who().subject)),
        ek_step(tpm, line.trust, strict=True),
        *_boot_state(line),
        idevid_key.idevid_key(tpm, conf.idevid, parent),
    ]


def _boot_state(line: Line) -> Iterator[Step]:
    """A key that works in approved boot states alone is not made where it could not even ask for
    its certificate; nor one of a kind of `policy_key` that this TPM does not know."""
    maker = line.conf.idevid.policy_key
    if maker is not None:
        yield preflight.look("boot-state", lambda: line.tpm.approved(idevid_key.policy(maker)))


def steps(line: Line, *, force: bool = False, cert_in: Path | None = None) -> list[Step]:
    """All of it. `cert_in`: the file with the certificate, if a CA out of reach has issued it."""
    conf, tpm, state = line.conf.idevid, line.tpm, line.state
    issue = issuer(line, cert_in)
    last = idevid_cert.idevid_cert(tpm, conf, line.who, issue, state, force=force)
    return [*key_steps(line), last]


def trust_files(conf: Factory) -> Iterator[Path]:
    yield conf.idevid.trust
    if conf.idevid.est:
        yield conf.idevid.est.trust


# --- who issues ---


def issuer(line: Line, cert_in: Path | None) -> idevid_cert.Issue:
    est, ca = line.conf.idevid.est, line.conf.idevid.ca
    if cert_in is not None:
        return lambda csr: (_brought(cert_in), ())
    if est is not None:
        return lambda csr: _by_est(line, est, csr)
    if ca is not None:
        return lambda csr: ([_by_ca(ca, csr)], x509.anchors(ca.certificate))
    return _by_nobody


def _by_nobody(csr: CertificateSigningRequest) -> Answer:
    raise IssuerMissing("cannot get an IDevID certificate: nobody is set who issues one")


def _brought(file: Path) -> Sequence[Certificate]:
    try:
        return x509.parse(file.read_bytes())
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else f"no certificate ({e})"
        raise CertificateFileUnusable(f"cannot read '{file}': {why}", path=file) from e


def _by_ca(ca: Ca, csr: CertificateSigningRequest) -> Certificate:
    """A CA on this station; its key may be encrypted."""
    password = credentials.optional("factory-ca-password")
    try:
        key = credentials.text_of(ca.key, private=True).encode()
        return x509_idevid.issue(csr, x509.anchors(ca.certificate)[0], key, password)
    except (OSError, ValueError, TypeError) as e:
        raise ConfigError(f"cannot issue with the CA key '{ca.key}': {e}") from e


def _by_est(line: Line, conf: Est, csr: CertificateSigningRequest) -> Answer:
    credential, client = _login(conf)
    seconds, times = conf.timeout.total_seconds(), Times(line.state.clock)
    server = enrol.Server(conf.url, conf.trust, seconds, credential, client, times=times)
    by_tpm = enrol.attested(line.tpm, line.genuine, HANDLE, csr)
    return enrol.by_est(server, by_tpm if conf.enrol == "tpmenroll" else enrol.simply(csr))


def _login(conf: Est) -> tuple["est.Basic | est.Secret | None", dict[str, object]]:
    from agent.est import Basic, Secret

    match conf.auth:
        case "mtls":
            if conf.certificate is None or conf.key is None:
                raise RuntimeError("the configuration gives both, for auth = 'mtls'")
            return None, enrol.by_files(conf.certificate, conf.key)
        case "basic":
            setting = "idevid.est.password_file"
            secret = credentials.read("factory-est-password", conf.password_file, setting)
            return Basic(conf.username or "", secret), {}
        case "secret":
            setting = "idevid.est.secret_file"
            return Secret(credentials.read("factory-est-secret", conf.secret_file, setting)), {}
    return None, {}


def not_used(line: Line, cert_in: Path) -> bool:
    """Is a good certificate in place, other than what is in the file?"""
    there = idevid.certificate(line.tpm, line.conf.idevid.certificate)
    return there not in _brought(cert_in)


# --- a CA that is out of reach ---


def csr_out(line: Line, file: Path) -> None:
    """The request, for a CA that is asked by other ways: PKCS #10 as PEM, or a TCG_CSR_IDEVID."""
    if line.conf.idevid.csr == "tcg":
        data = _tcg(line)
    else:
        data = idevid_cert.request(line.tpm, line.who()).public_bytes(Encoding.PEM)
    store.write(file, data, mode=0o644)


def _tcg(line: Line) -> bytes:
    genuine, who = line.genuine(), line.who()
    return evidence.tcg_csr(
        line.tpm,
        line.conf.idevid.key,
        model=line.conf.idevid.model or "",
        serial=who.serial_number,
        ek_certificate=genuine.encoded[0],
        idevid_handle=HANDLE,
    )


def answer(line: Line, challenge: Path, out: Path) -> None:
    """What only this TPM can read of a challenge by a CA that was sent a TCG_CSR_IDEVID."""
    try:
        data = challenge.read_bytes()
    except OSError as e:
        why = f"cannot read '{challenge}': {e.strerror}"
        raise CertificateFileUnusable(why, path=challenge) from e
    template = ek.certificate(line.tpm)[0].template
    store.write(out, evidence.answer(line.tpm, line.conf.idevid.key, data, template))


# --- what the back office gets ---


def export(line: Line) -> dict[str, Any]:
    """As `tpm2cloud identity` tells it; the registration id is the default's, until a device is
    configured."""
    conf = Config(dps=Dps(id_scope=""))
    if (file := line.conf.idevid.certificate) is not None:
        conf = replace(conf, idevid=Idevid(certificate=file))
    return identity.gather(line.tpm, conf, log.debug, configured=False, root=line.root)
