"""Faults of servers: those that are not as they should be, and certificates that are wrong."""

from collections.abc import Callable, Generator, Sequence
from datetime import timedelta
from typing import Any

from cryptography import x509

from tests.lab import hostile, pki
from tests.lab.fault import Case, Fault, Server
from tests.lab.fault_net import impatient, patient
from tests.lab.fault_relay import Relay
from tests.lab.hostile import Hostile, Talk, Way, certs, http, issue, whole

Steps = Generator[None, None, None]
Make = Callable[[Case, x509.CertificateSigningRequest], Sequence[x509.Certificate]]
DAY = timedelta(days=1)
PAGE = b"<html><title>Hotel</title>Please log in</html>"
PORTAL = http(200, PAGE, Content_Type="text/html")


# --- servers that are not as they should be ---


def good(case: Case) -> dict[str, Way]:
    """An EST server that issues to everybody."""
    owner = case.world.owner
    enrol = enrols(lambda csr: [owner.issue(csr.public_key(), csr.subject)])
    return {"cacerts": whole(certs(*owner.chain)), "csrattrs": whole(http(204)),
            "simpleenroll": enrol}  # fmt: skip


def enrols(make: Callable[[x509.CertificateSigningRequest], Sequence[x509.Certificate]]) -> Way:
    """What is no request is none to it, as to any EST server."""
    good = issue(make)

    def way(talk: Talk) -> None:
        if talk.request.body:
            good(talk)
        else:
            talk.line.sendall(http(400))

    return way


def put(case: Case, server: Server, there: Hostile) -> Relay:
    """In the place of the server, at its address."""
    relay = case.relay(server)
    impatient(case, server)
    relay.behind = case.stack.enter_context(there).port
    return relay


def says(way: Way, at: str = "simpleenroll") -> Fault:
    """An EST server that answers in this way, until whoever runs it has mended it."""

    def fault(case: Case) -> Steps:
        relay = put(case, "est", Hostile(case.world.tls, {**good(case), at: way}))
        yield
        relay.well()
        patient(case)

    return fault


def issuing(make: Make) -> Fault:
    """Something else than was asked for."""

    def fault(case: Case) -> Steps:
        enrol = enrols(lambda csr: make(case, csr))
        relay = put(case, "est", Hostile(case.world.tls, {**good(case), "simpleenroll": enrol}))
        yield
        relay.well()
        patient(case)

    return fault


def instead(server: Server, way: Way, path: str) -> Fault:
    """Somebody who answers to all in this way."""

    def fault(case: Case) -> Steps:
        relay = put(case, server, Hostile(case.world.tls, {path: way, "cacerts": way}))
        yield
        relay.well()
        patient(case)

    return fault


def bare(server: Server, **how: Any) -> Fault:
    """A server that does not even come to speak HTTP."""

    def fault(case: Case) -> Steps:
        relay = put(case, server, Hostile(case.world.tls, {}, **how))
        yield
        relay.well()
        patient(case)

    return fault


def not_our_maker(case: Case) -> Steps:
    """The EST server knows another OEM alone."""
    relay = put(case, "est", Hostile(case.world.tls, {}, clients=pki.root("Another OEM")))
    yield
    relay.well()
    patient(case)


def trusted(case: Case, server: Server, ca: x509.Certificate) -> None:
    """By the device, besides."""
    path = case.device.etc / "est-ca.pem" if server == "est" else case.watched / "tmp/dps-ca.pem"
    if server == "dps":
        path.write_bytes(case.world.tls.trust.read_bytes())
        case.configure(dps={"trust": str(path)})
    path.write_bytes(path.read_bytes() + pki.pem(ca))


def showing(server: Server, **how: Any) -> Fault:
    """A certificate of a CA that is trusted, but not for this name, or time."""

    def fault(case: Case) -> Steps:
        ca = pki.root("Server CA")
        trusted(case, server, ca.root)
        relay = put(case, server, Hostile(hostile.identity(ca, case.watched / "tls", **how), {}))
        yield
        relay.well()
        patient(case)

    return fault


def chain_gap(server: Server) -> Fault:
    """The server leaves out the CA between its certificate and the root."""

    def fault(case: Case) -> Steps:
        ca = pki.authority("Server CA")
        trusted(case, server, ca.root)
        tls = ca.server(case.watched / "tls")
        [own, *_] = x509.load_pem_x509_certificates(tls.chain.read_bytes())
        tls.chain.write_bytes(pki.pem(own))
        relay = put(case, server, Hostile(tls, {}))
        yield
        relay.well()
        patient(case)

    return fault


def another_ca(case: Case) -> Steps:
    """The server has moved to a CA that the device does not know yet."""
    ca = pki.root("The CA of this year")
    put(case, "est", Hostile(ca.server(case.watched / "tls"), good(case)))
    yield
    trusted(case, "est", ca.root)
    patient(case)


def expired_anchor(case: Case) -> Steps:
    """The root that the device trusts is no longer valid; the CA has a newer one."""
    old = pki.root("The CA", starts=-9 * DAY, lasts=DAY)
    (case.device.etc / "est-ca.pem").write_bytes(pki.pem(old.root))
    now = pki.Authority(old.key, (old.issue(old.key.public_key(), "The CA", ca=True, usages=()),))
    put(case, "est", Hostile(old.server(case.watched / "tls"), good(case)))
    yield
    (case.device.etc / "est-ca.pem").write_bytes(pki.pem(now.root))
    patient(case)


def intercepted(case: Case) -> Steps:
    """Something between here and DPS shows its own certificate, until it lets this device pass."""
    stranger = pki.root("Inspection Inc.").server(case.watched / "tls")
    relay = put(case, "dps", Hostile(stranger, {}))
    yield
    relay.well()


def wrong_login(name: str) -> Fault:
    def fault(case: Case) -> Steps:
        path = case.device.credentials / name
        kept = path.read_text()
        case.credential(name, "wr0ng-canary")
        impatient(case, "operational")
        yield
        case.credential(name, kept)
        patient(case)

    return fault


def wrong_path(case: Case) -> Steps:
    port = case.world.owner_est.port
    case.configure(ldevid={"est": {"url": f"https://localhost:{port}/.well-known/est/lable"}})
    yield
    case.unconfigure()


# --- what is issued ---


def for_another_key(case: Case, csr: x509.CertificateSigningRequest) -> list[x509.Certificate]:
    return [case.world.owner.issue(pki.new_key().public_key(), csr.subject)]


def for_another_name(case: Case, csr: x509.CertificateSigningRequest) -> list[x509.Certificate]:
    return [case.world.owner.issue(csr.public_key(), "somebody-else")]


def by_another_ca(_: Case, csr: x509.CertificateSigningRequest) -> list[x509.Certificate]:
    return [pki.root("Owner CA").issue(csr.public_key(), csr.subject)]


def of_yesterday(case: Case, csr: x509.CertificateSigningRequest) -> list[x509.Certificate]:
    return [case.world.owner.issue(csr.public_key(), csr.subject, starts=-9 * DAY, lasts=DAY)]


def as_ca(case: Case, csr: x509.CertificateSigningRequest) -> list[x509.Certificate]:
    return [case.world.owner.issue(csr.public_key(), csr.subject, ca=True)]


def for_servers(case: Case, csr: x509.CertificateSigningRequest) -> list[x509.Certificate]:
    return [case.world.owner.issue(csr.public_key(), csr.subject, usages=[pki.SERVER])]
