"""Who issues an LDevID, and by what he knows that it is for this device.

By a login as at the first boot, by the TPM's endorsement key, or, to renew it, by the LDevID
itself. What comes back is a chain, leaf first, that has been checked and can be used as it is.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from cryptography.x509 import Certificate, CertificateSigningRequest

from agent import anchors, config, inputs, x509, x509_issued
from agent import ek as endorsement
from agent.errors import (
    ClockImplausible,
    ConfigError,
    IssuedWithWrongDates,
    SecretUnreadable,
    TpmError,
)
from agent.steps import enrol, ldevid_dates, ldevid_key, ldevid_pauses, pending
from agent.steps.ek import trust
from agent.steps.ldevid import Ldevid, Login, local_ca, server
from agent.tpm import Tpm, Transient

if TYPE_CHECKING:
    from agent.est import Basic, Est, Secret

log = logging.getLogger(__name__)
Chain = Sequence[Certificate]
Csr = CertificateSigningRequest
Answer = tuple[Chain, Chain, datetime | None]  # the last: what time it is there


def by_login(ours: Ldevid) -> Chain:
    """As at the first boot: by the IDevID, a password or a secret, as ldevid.est.auth says."""
    conf = ours.conf.est
    if conf is None:
        return _asked(ours, pending.ENROLMENT, _by_local_ca(ours))

    def ask(csr: Csr) -> Answer:
        with _logged_in(ours.tpm, conf, ours.whole.idevid) as login:
            return _by_est(ours, login, csr, enrol.simply(csr))

    return _asked(ours, pending.ENROLMENT, ask)


def by_ek(ours: Ldevid) -> Chain:
    """By GlobalSign's tpmenroll: to the TPM with this EK, which its maker has certified, and only
    if it holds the LDevID key. A login is shown if there is one; the CA may do without."""
    conf = ours.conf.est
    if conf is None:
        return _asked(ours, pending.BY_EK, _by_local_ca(ours))

    def genuine() -> endorsement.Genuine:
        proxy = partial(inputs.proxy, ours.whole)
        return endorsement.verify(ours.tpm, trust(ours.whole.tpm, ours.state, proxy))

    def ask(csr: Csr) -> Answer:
        with _logged_in_if_possible(ours.tpm, conf, ours.whole.idevid) as login:
            attested = enrol.attested(ours.tpm, genuine, ldevid_key.HANDLE, csr)
            return _by_est(ours, login, csr, attested)

    return _asked(ours, pending.BY_EK, ask)


def by_itself(ours: Ldevid, key: int | Transient) -> Chain:
    """A certificate like the one in use, for its own key or for a new one: TLS logs in with the one
    in use, and HTTP with a password or a secret where ldevid.est.auth asks for one."""
    conf, tpm = ours.conf.est, ours.tpm
    before = ours.chain()

    def make() -> Csr:
        with tpm.private_key(key, known=True) as private:
            return x509_issued.renewal(private, before[0])

    def ask(csr: Csr) -> Answer:
        signer = tpm.signer(ldevid_key.HANDLE, known=True)
        with enrol.by_key(signer, before) as client:
            login = Login(credential(conf), client)
            return _by_est(ours, login, csr, enrol.again(csr))

    public = key.public if isinstance(key, Transient) else tpm.public(key)
    csr = pending.request(ours.state.pending, public, ours.url, make, pending.RENEWAL)
    return _issued(ours, csr, pending.RENEWAL, ask if conf else _by_local_ca(ours))


def _asked(ours: Ldevid, purpose: str, ask: Callable[[Csr], Answer]) -> Chain:
    def make() -> Csr:
        with ours.tpm.private_key(ldevid_key.HANDLE, known=True) as private:  # its blobs are here
            return x509_issued.request(private, ours.who())

    csr = pending.request(ours.state.pending, ours.key(), ours.url, make, purpose)
    return _issued(ours, csr, purpose, ask)


def _by_est(ours: Ldevid, login: Login, csr: Csr, answer: enrol.Answer) -> Answer:
    there = server(ours, login)
    times = there.times

    def ask(est: "Est") -> list[Certificate]:
        ldevid_dates.see_that_it_is_needed(ours, csr, times.said if times else None)
        return answer(est)

    found, others = enrol.by_est(there, ask)
    return found, others, times.said if times else None


def _issued(ours: Ldevid, csr: Csr, purpose: str, ask: Callable[[Csr], Answer]) -> Chain:
    _ = ours.roots  # readable? Else a certificate would be issued for nothing
    if before := ldevid_dates.issued_before(ours, csr):
        return before
    longest = ldevid_pauses.longest(ours, datetime.now(UTC))
    with pending.held(ours.state.pending, csr, ours.url, purpose, longest):
        answer, others, said = ask(csr)
    anchors.learn(ours.whole, ours.state, others, datetime.now(UTC))
    try:
        return x509_issued.issued(answer, csr, ours.roots, others, datetime.now(UTC))
    except IssuedWithWrongDates:
        ldevid_dates.keep(ours, csr, [*answer, *others], said)
        raise


# --- who logs in ---


def credential(conf: config.LdevidEst | None) -> "Basic | Secret | None":
    """What HTTP logs in with; None where TLS alone does."""
    from agent.est import Basic, Secret

    if conf is None or conf.auth == "mtls":
        return None
    secret = inputs.est_secret(conf)
    return Basic(conf.username or "", secret) if conf.auth == "basic" else Secret(secret)


@contextmanager
def _logged_in(tpm: Tpm, conf: config.LdevidEst, factory: config.Idevid) -> Iterator[Login]:
    if conf.auth == "mtls":
        with enrol.by_idevid(tpm, factory.trust, factory.certificate) as client:
            yield Login(None, client)
    else:
        yield Login(credential(conf))


@contextmanager
def _logged_in_if_possible(
    tpm: Tpm, conf: config.LdevidEst, factory: config.Idevid
) -> Iterator[Login]:
    """What keeps the IDevID or the password from being used is why the EK is asked for help."""
    with ExitStack() as stack:
        try:
            login = stack.enter_context(_logged_in(tpm, conf, factory))
        except (TpmError, ClockImplausible, SecretUnreadable) as e:
            log.debug("no login but by the EK: %s", e)
            login = Login()
        yield login


# --- a CA on this very device: for a lab ---


def _by_local_ca(ours: Ldevid) -> Callable[[Csr], Answer]:
    ca = local_ca(ours.conf)

    def ask(csr: Csr) -> Answer:
        try:
            key = ca.key.read_bytes()
            issuer = x509.anchors(ca.certificate)[0]
            until = min(datetime.now(UTC) + ca.valid, issuer.not_valid_after_utc)
            return [x509_issued.issue(csr, issuer, key, until)], [], None
        except (OSError, ValueError, TypeError) as e:
            raise ConfigError(f"cannot issue with the local CA key '{ca.key}': {e}") from e

    return ask
