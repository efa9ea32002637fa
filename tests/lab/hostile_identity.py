"""Server certificates that are not as they should be, or odd."""

import ipaddress
import ssl
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.lab import pki
from tests.lab.hostile_bench import Bench, Row
from tests.lab.hostile_http import How, est

DAY = timedelta(days=1)
Chain = Sequence[x509.Certificate]
HERE = x509.SubjectAlternativeName([x509.DNSName("localhost")])
Make = Callable[[Bench, Any], Chain]


def shown(make: Make, key: Callable[[], Any] = pki.new_key) -> How:
    """A server that shows these certificates, the first for its key."""

    @contextmanager
    def how(bench: Bench) -> Any:
        directory, private = bench.new(), key()
        chain, own = directory / "chain.pem", directory / "key.pem"
        chain.write_bytes(pki.pem(*make(bench, private)))
        pki.write_private(own, pki.private_pem(private))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # it may be too weak for us, too
        context.load_cert_chain(chain, own)
        with est(context=context)(bench) as port:
            yield port

    return how


def leaf(ca: pki.Authority, key: Any, **how: Any) -> x509.Certificate:
    """A good one, but for this."""
    usual: dict[str, Any] = {"usages": [pki.SERVER], "extensions": [HERE]}
    return ca.issue(key.public_key(), "localhost", **usual | how)


def one(**how: Any) -> How:
    return shown(lambda bench, key: [leaf(bench.ca, key, **how)])


def named(*names: x509.GeneralName) -> How:
    return one(extensions=[x509.SubjectAlternativeName(names)])


def below(*, sent: bool = True, more: int = 0, turned: bool = False, **how: Any) -> How:
    """By an intermediate CA."""

    def make(bench: Bench, key: Any) -> Chain:
        ca = bench.ca.below("Between", **how)
        others = [pki.root(f"Other {n}").root for n in range(more)]
        above = [*others, *ca.chain[:-1]] if sent else []
        return [leaf(ca, key), *(above[::-1] if turned else above)]

    return shown(make)


def deep(levels: int) -> Make:
    def make(bench: Bench, key: Any) -> Chain:
        ca = bench.ca
        for n in range(levels):
            ca = ca.below(f"Level {n}")
        return [leaf(ca, key), *ca.chain[:-1]]

    return make


def by(build: Callable[[x509.CertificateBuilder], x509.CertificateBuilder]) -> Make:
    """By an intermediate CA whose certificate is made so, or of no such kind at all."""

    def make(bench: Bench, key: Any) -> Chain:
        middle = pki.new_key()
        begin = bench.ca.root.not_valid_before_utc
        made = (
            x509.CertificateBuilder()
            .subject_name(pki.name("Between"))
            .issuer_name(bench.ca.root.subject)
            .public_key(middle.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + 100 * DAY)
        )
        own = build(made).sign(bench.ca.key, hashes.SHA256())
        return [leaf(pki.Authority(middle, (own, bench.ca.root)), key), own]

    return make


def own(bench: Bench, key: Any) -> Chain:
    """Signed by itself."""
    begin = bench.ca.root.not_valid_before_utc
    name = pki.name("localhost")
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + 100 * DAY)
        .add_extension(HERE, critical=False)
    )
    return [made.sign(key, hashes.SHA256())]


def critical(bench: Bench, key: Any) -> Chain:
    begin = bench.ca.root.not_valid_before_utc
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
    made = (
        x509.CertificateBuilder()
        .subject_name(pki.name("localhost"))
        .issuer_name(bench.ca.root.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + 100 * DAY)
        .add_extension(HERE, critical=False)
        .add_extension(odd, critical=True)
    )
    return [made.sign(bench.ca.key, hashes.SHA256())]


def a_ca(path: int | None = None, **more: Any) -> Any:
    def build(made: x509.CertificateBuilder) -> x509.CertificateBuilder:
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=path), critical=True)
        for extension in more.get("also", ()):
            made = made.add_extension(extension, critical=True)
        return made

    return build


def short() -> Any:
    return rsa.generate_private_key(65537, 1024)  # noqa: S505  (that it is too short is the point)


ELSEWHERE = x509.NameConstraints([x509.DNSName("example.com")], None)
NOT_CA = x509.BasicConstraints(ca=False, path_length=None)
MANY = [x509.DNSName(f"host-{n}.example.com") for n in range(2000)]

ROWS = [
    Row("Expired yesterday", "RFC 5280, 4.1.2.5", "tls-dates", one(starts=-9 * DAY, lasts=8 * DAY)),
    Row("Valid from tomorrow on", "RFC 5280, 4.1.2.5", "tls-dates", one(starts=DAY)),
    Row(
        "The CA between has expired",
        "RFC 5280, 6.1.3",
        "tls-dates",
        below(starts=-9 * DAY, lasts=8 * DAY),
    ),
    Row("For another name", "RFC 9525, 6.3", "tls-name", named(x509.DNSName("example.com"))),
    Row("The name in the CN alone", "RFC 9525, 2", "tls-name", one(extensions=[])),
    Row(
        "For an address",
        "RFC 9525, 6.3",
        "tls-name",
        named(x509.IPAddress(ipaddress.ip_address("127.0.0.1"))),
    ),
    Row("For *", "RFC 9525, 6.3", "tls-name", named(x509.DNSName("*"))),
    Row("For *.localhost", "RFC 9525, 6.3", "tls-name", named(x509.DNSName("*.localhost"))),
    Row("For l*", "RFC 9525, 6.3", "tls-name", named(x509.DNSName("l*"))),
    Row(
        "For a name with NUL behind localhost",
        "RFC 5280, 4.2.1.6",
        "tls-name",
        named(x509.DNSName("localhost\0.example.com")),
    ),
    Row(
        "For LOCALHOST",
        "RFC 4343, 3",
        "",
        named(x509.DNSName("LOCALHOST")),
        "names of hosts have no case",
    ),
    Row(
        "For 2000 other names, too",
        "RFC 9525, 6.3",
        "",
        named(*MANY, x509.DNSName("localhost")),
        "one of them is right",
    ),
    Row(
        "Of a CA that nobody here knows",
        "RFC 7030, 3.6.1",
        "tls-untrusted",
        shown(lambda bench, key: [leaf(pki.root("Stranger"), key)]),
    ),
    Row(
        "Of another CA of the same name",
        "RFC 5280, 6.1.3",
        "tls-untrusted",
        shown(lambda bench, key: [leaf(pki.root("Public CA"), key)]),
    ),
    Row("Signed by itself", "RFC 5280, 6.1.3", "tls-untrusted", shown(own)),
    Row("The CA between is not sent", "RFC 8446, 4.4.2", "tls-untrusted", below(sent=False)),
    Row(
        "Others are sent, too",
        "RFC 8446, 4.4.2",
        "",
        below(more=5),
        "what is not needed is passed over",
    ),
    Row(
        "In the wrong order",
        "RFC 8446, 4.4.2",
        "",
        below(more=3, turned=True),
        "clients should take any order",
    ),
    Row(
        "60 others are sent, too",
        "RFC 8446, 4.4.2",
        "",
        below(more=60),
        "what is not needed is passed over",
    ),
    Row("1000 others are sent, too", "RFC 8446, 4.4.2", "tls-failed", below(more=1000)),
    Row("Nine CAs between", "RFC 5280, 6.1", "", shown(deep(9)), "the chain leads to an anchor"),
    Row("150 CAs between", "RFC 5280, 6.1", "tls-untrusted", shown(deep(150))),
    Row(
        "The anchor itself is sent",
        "RFC 8446, 4.4.2",
        "",
        shown(lambda bench, key: [leaf(bench.ca, key), bench.ca.root]),
        "it may be left out, and need not",
    ),
    Row(
        "What is between is no CA",
        "RFC 5280, 4.2.1.9",
        "tls-untrusted",
        shown(by(lambda made: made.add_extension(NOT_CA, critical=True))),
    ),
    Row(
        "What is between says nothing of being a CA",
        "RFC 5280, 6.1.4",
        "tls-untrusted",
        shown(by(lambda made: made)),
    ),
    Row(
        "What is between may not sign certificates",
        "RFC 5280, 4.2.1.3",
        "tls-untrusted",
        shown(by(a_ca(also=[pki.usage(ca=False)]))),
    ),
    Row(
        "What is between is for other names",
        "RFC 5280, 4.2.1.10",
        "tls-untrusted",
        shown(by(a_ca(also=[ELSEWHERE]))),
    ),
    Row("For clients alone", "RFC 5280, 4.2.1.12", "tls-untrusted", one(usages=[pki.CLIENT])),
    Row(
        "An extension that nobody knows, critical",
        "RFC 5280, 4.2",
        "tls-untrusted",
        shown(critical),
    ),
    Row(
        "An RSA key of 1024 bits",
        "RFC 9325, 4.5",
        "tls-untrusted",
        shown(lambda bench, key: [leaf(bench.ca, key)], short),
    ),
    Row(
        "A key on P-521",
        "RFC 8446, 4.2.3",
        "",
        shown(
            lambda bench, key: [leaf(bench.ca, key)],
            lambda: ec.generate_private_key(ec.SECP521R1()),
        ),
        "it is offered",
    ),
    Row(
        "A key for Ed25519",
        "RFC 8446, 4.2.3",
        "",
        shown(lambda bench, key: [leaf(bench.ca, key)], ed25519.Ed25519PrivateKey.generate),
        "it is offered",
    ),
]
