"""A trial at the EST servers: everything of an enrolment but the request itself.

The login is tried with an empty request, for which no CA can issue: a server that looks at who asks
refuses a stranger (401, 403), and only then the request (400). Who does not need to log in for now
does not: some passwords are good for once. Nothing that a server answers is kept.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from cryptography.x509 import Certificate

from agent import anchors, inputs, x509
from agent.check.network import Lines, Who, known, through
from agent.check.patience import SECONDS, Patience
from agent.check.probe import Probe
from agent.check.reach import Server
from agent.clock import Times
from agent.config import Config, LdevidEst, Operational
from agent.errors import (
    EstBadRequest,
    EstPending,
    IssuedByAnother,
    Refused,
    ServerBusy,
    TlsClientRefused,
    Unreachable,
)
from agent.est import Basic, Est
from agent.http import host_of
from agent.state import State
from agent.steps import enrol, idevid, ldevid_key, registration
from agent.steps.ldevid import Ldevid, Login
from agent.steps.ldevid_enrol import credential
from agent.tpm import Tpm

OPERATION, CSR = "simpleenroll", "application/pkcs10"
# Some servers fail at an empty request, instead of refusing it: that they came so far is enough.
_ODD = {500: (EstBadRequest, "the server fails at an empty request")}
Entry = Callable[[], AbstractContextManager["In"]]


@dataclass(frozen=True)
class In:
    """How it is logged in; `asked`: whether the server wanted to see the certificate, if it is done
    by one."""

    login: Login = field(default_factory=Login)
    asked: Callable[[], bool] = lambda: True


@dataclass(frozen=True)
class Service:
    """An EST server. `issuers`: who may issue here, from the file `vouched`; None: whoever does.
    `spared`: why it is not needed to log in now, or None. `needs`: the probes that a login comes
    after."""

    name: str
    url: str
    trust: Path
    conf: Config
    times: Times
    more: Callable[[], Sequence[Certificate]]
    entry: Entry
    spared: Callable[[], str | None]
    needs: tuple[str, ...]
    issuers: Callable[[], list[Certificate]] | None = None
    vouched: Path | None = None
    timeout: float = SECONDS
    patience: Patience = field(default_factory=Patience)

    @property
    def server(self) -> Server:
        proxy, floor = partial(through, self.conf, self.url), lambda: self.times.floor
        at = f"{self.url.rstrip('/')}/cacerts"
        return Server(self.name, at, self.trust, proxy, self.more, floor)


def probes(conf: Config, tpm: Tpm, state: State, who: Who) -> Iterator[Probe]:
    """Of the LDevID's server, then of IoT Edge's."""
    if conf.dps.attestation != "x509":
        return
    ours = Ldevid(tpm, conf, state, who)
    services = list(_services(ours))
    lines = Lines(*(service.server for service in services))
    for service in services:
        yield from lines.of(service.server)
        name, after = service.name, (f"{service.name}-tls", "tpm", *service.needs)
        yield Probe(f"{name}-cacerts", partial(_cacerts, service), after)
        after = (f"{name}-cacerts",)
        yield Probe(f"{name}-csrattrs", partial(_csrattrs, service), after)
        yield Probe(f"{name}-login", partial(_login, service), after)


def _services(ours: Ldevid) -> Iterator[Service]:
    if (est := ours.conf.est) is not None:
        yield _of_ldevid(ours, est)
    if (operational := ours.whole.operational) is not None and operational.issued_by == "est":
        yield _of_iotedge(ours, operational)


def _of_ldevid(ours: Ldevid, est: LdevidEst) -> Service:
    trust = anchors.tls(est, ours.state)
    return Service(
        name="est",
        url=est.url,
        trust=est.trust,
        conf=ours.whole,
        times=known(ours.state),
        more=lambda: anchors.successors(trust, datetime.now(UTC)),
        entry=partial(_by_idevid, ours) if est.auth == "mtls" else partial(_by_secret, est),
        spared=partial(_device_need_not, ours),
        needs=("inputs", "device-id", *("idevid",) * (est.auth == "mtls")),
        issuers=lambda: ours.roots,
        vouched=est.issuer or est.trust,
        timeout=est.timeout.total_seconds(),
    )


def _of_iotedge(ours: Ldevid, conf: Operational) -> Service:
    trust = anchors.operational(conf, ours.state)
    return Service(
        name="operational",
        url=conf.url or "",
        trust=conf.trust,
        conf=ours.whole,
        times=known(ours.state),
        more=lambda: anchors.successors(trust, datetime.now(UTC)),
        entry=partial(_by_ldevid, ours) if conf.auth == "mtls" else partial(_by_password, conf),
        spared=partial(_iotedge_need_not, ours, conf),
        needs=("inputs", "device-id"),
    )


# --- who logs in ---


def _device_need_not(ours: Ldevid) -> str | None:
    if ours.works():
        return "the LDevID works"
    by_ek = ours.chain() and "login" not in ours.conf.recover
    return "the endorsement key gets the LDevID back" if by_ek else None


def _iotedge_need_not(ours: Ldevid, conf: Operational) -> str | None:
    if registration.provisioned(ours.state):
        return "IoT Edge has a certificate"
    return "there is no LDevID yet" if conf.auth == "mtls" and not ours.works() else None


def _by_secret(est: LdevidEst) -> AbstractContextManager[In]:
    return nullcontext(In(Login(credential(est))))


def _by_password(conf: Operational) -> AbstractContextManager[In]:
    basic = Basic(conf.username or "", inputs.operational_password(conf))
    return nullcontext(In(Login(basic)))


def _by_idevid(ours: Ldevid) -> AbstractContextManager[In]:
    conf = ours.whole.idevid
    chain = idevid.chain(ours.tpm, conf.trust, conf.certificate)
    return _by_key(ours.tpm, idevid.HANDLE, x509.shown(chain))


def _by_ldevid(ours: Ldevid) -> AbstractContextManager[In]:
    return _by_key(ours.tpm, ldevid_key.HANDLE, ours.chain())


@contextmanager
def _by_key(tpm: Tpm, handle: int, chain: Sequence[Certificate]) -> Iterator[In]:
    witness = enrol.Witness(tpm.signer(handle, known=True))
    with enrol.by_key(witness, chain) as client:
        yield In(Login(None, client), lambda: witness.signed)


@contextmanager
def _talk(service: Service, login: Login) -> Iterator[Est]:
    proxy, more = inputs.proxy(service.conf), service.more()
    with service.patience.spent() as left:
        server = enrol.Server(
            service.url,
            service.trust,
            min(left, service.timeout),
            login.credential,
            login.client,
            more,
            proxy,
            service.times,
        )
        with server.https() as https:
            yield Est(https, server.url, credential=server.credential)


# --- what is tried ---


def _cacerts(service: Service) -> str:
    """And whether what is issued here would be trusted."""
    try:
        found = _known(service)
    except TlsClientRefused:
        if service.spared():
            return "not told: it wants a certificate even for that"
        raise
    shown = ", ".join(f"'{x509.describe(c)}'" for c in found) or "none"
    if service.issuers is None:
        return shown
    if not any(_leads(c, service.issuers(), found) for c in found):
        host = host_of(service.url)
        why = f"what it names as its CAs ({shown}) leads to none in '{service.vouched}'"
        raise IssuedByAnother(f"cannot use what {host} issues: {why}")
    return f"{shown}, as in '{service.vouched}'"


def _known(service: Service) -> list[Certificate]:
    entry = nullcontext(In()) if service.spared() else service.entry()
    with entry as inside, _talk(service, inside.login) as est:
        return est.cacerts()


def _leads(ca: Certificate, roots: Sequence[Certificate], others: Sequence[Certificate]) -> bool:
    now = datetime.now(UTC)
    if ca in roots and ca.not_valid_before_utc <= now <= ca.not_valid_after_utc:
        return True
    try:
        return bool(x509.chain(ca, roots, others, now))
    except x509.Untrusted:
        return False


def _csrattrs(service: Service) -> str:
    """A server need not have any; a refusal is no reason not to enrol."""
    if why := service.spared():
        return f"not needed: {why}"
    with service.entry() as inside, _talk(service, inside.login) as est:
        try:
            wanted = sorted(est.csrattrs().oids)
        except (Refused, ServerBusy) as e:
            return f"not told, which is no matter: {e}"
    return f"wants to see: {', '.join(enrol.UNMET.get(oid, oid) for oid in wanted) or 'nothing'}"


def _login(service: Service) -> str:
    if why := service.spared():
        return f"not needed: {why}"
    with service.entry() as inside:
        with _talk(service, inside.login) as est:
            said = _asked_for_nothing(est)
        if not inside.asked():
            return f"{said}; it asks for no certificate"
    with _talk(service, Login()) as est:
        try:
            _asked_for_nothing(est)
        except (Refused, ServerBusy, Unreachable):
            return f"{said}; a stranger is not let in"
    return f"{said}, but as it does a stranger: of the login, it has told nothing"


def _asked_for_nothing(est: Est) -> str:
    """Raises what it refuses the login for."""
    try:
        reply = est.post(f"log in to {est.url}", OPERATION, CSR, b"", _ODD)
    except EstBadRequest:
        return "lets us in, and wants more than an empty request"
    except EstPending:
        return "lets us in (202)"
    return f"lets us in ({reply.status})"
