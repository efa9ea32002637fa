"""Certificates that nobody asked for: what an EST server answers to a request to enroll."""

import base64
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.lab import maker, pki
from tests.lab.hostile import Talk, http, issue, whole
from tests.lab.hostile_bench import Bench, Row
from tests.lab.hostile_est_bags import P7, bag
from tests.lab.hostile_http import How, est, good
from tests.lab.maker import Change, Value

DAY = timedelta(days=1)
Csr = x509.CertificateSigningRequest
Leaf = Callable[[Bench, Csr], x509.Certificate]
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
SERVER = pki.SERVER
UTC_TIME, GENERALIZED, SHORT = 0x17, 0x18, 13  # SHORT: octets of UTCTime


def enrolled(make: Callable[[Bench, Csr], Sequence[x509.Certificate]]) -> How:
    return est(lambda bench: {"simpleenroll": issue(lambda csr: make(bench, csr))})


def leaf(make: Leaf) -> How:
    return enrolled(lambda bench, csr: [make(bench, csr)])


def issued(name: str | x509.Name | None = None, **how: Any) -> How:
    """By the right CA, for the right key."""

    def make(bench: Bench, csr: Csr) -> x509.Certificate:
        return bench.issuer.issue(csr.public_key(), csr.subject if name is None else name, **how)

    return leaf(make)


def by(ca: Callable[[Bench], pki.Authority], *, sent: int = 0) -> How:
    """By this CA; of its chain, so many are sent."""

    def make(bench: Bench, csr: Csr) -> list[x509.Certificate]:
        found = ca(bench)
        own = found.issue(csr.public_key(), csr.subject)
        return [own, *found.chain[:sent]]

    return enrolled(make)


def built(*extensions: tuple[x509.ExtensionType, bool]) -> How:
    """With these extensions alone; and whether they are critical."""

    def make(bench: Bench, csr: Csr) -> x509.Certificate:
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(csr.subject)
            .issuer_name(bench.issuer.certificate.subject)
            .public_key(csr.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + 100 * DAY)
        )
        for extension, critical in extensions:
            made = made.add_extension(extension, critical)
        return made.sign(bench.issuer.key, hashes.SHA256())

    return leaf(make)


def encoded(*changes: Change) -> How:
    """The good one in other DER, signed anew."""
    return raw(lambda bench, csr: maker.changed(good(bench, csr), bench.issuer.key, *changes))


def raw(make: Callable[[Bench, Csr], bytes]) -> How:
    def ways(bench: Bench) -> Any:
        def way(talk: Talk) -> None:
            csr = x509.load_der_x509_csr(base64.b64decode(talk.request.body))
            body = base64.encodebytes(bag(make(bench, csr)))
            whole(http(200, body, Content_Type=P7))(talk)

        return {"simpleenroll": way}

    return est(ways)


def at(index: int, change: Callable[[Value], None]) -> Change:
    """Of what is signed, this part."""
    return lambda value: change(value.values[0].values[index])


def serial(octets: bytes) -> Change:
    return at(1, lambda value: setattr(value, "octets", octets))


def first_version(value: Value) -> None:
    del value.values[0].values[0]


def doubled(value: Value) -> None:
    """An extension is there twice."""
    extensions = value.values[0].values[-1].values[0]
    extensions.values.append(extensions.values[0])


def dates(begin: bytes, end: bytes) -> Change:
    def change(value: Value) -> None:
        kinds = (UTC_TIME if len(each) == SHORT else GENERALIZED for each in (begin, end))
        value.values = [Value(kind, each) for kind, each in zip(kinds, (begin, end), strict=True)]

    return at(4, change)


def spoilt(bench: Bench, csr: Csr) -> bytes:
    """A bit of the signature."""
    der = pki.der(good(bench, csr))
    return der[:-1] + bytes([der[-1] ^ 1])


def other_key(bench: Bench, csr: Csr) -> x509.Certificate:
    return bench.issuer.issue(pki.new_key().public_key(), csr.subject)


def twin(bench: Bench) -> pki.Authority:
    """Another CA, of the same name."""
    return pki.root("Owner CA root").below("Owner CA")


def among(bench: Bench, csr: Csr) -> list[x509.Certificate]:
    strangers = [pki.root(f"Stranger {n}").root for n in range(50)]
    return [*bench.issuer.chain, *strangers, good(bench, csr)]


def two(bench: Bench, csr: Csr) -> list[x509.Certificate]:
    return [bench.issuer.issue(csr.public_key(), "another"), good(bench, csr)]


def names(*common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text) for text in common])


def adorned(bench: Bench, csr: Csr) -> x509.Certificate:
    above = [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Somebody"), *csr.subject]
    return bench.issuer.issue(csr.public_key(), x509.Name(above))


def louder(bench: Bench, csr: Csr) -> x509.Certificate:
    [name] = csr.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return bench.issuer.issue(csr.public_key(), str(name.value).upper())


CLIENT = (x509.ExtendedKeyUsage([pki.CLIENT]), False)
NOT_CA = (x509.BasicConstraints(ca=False, path_length=None), True)
AGREES = x509.KeyUsage(False, False, True, False, True, False, False, False, False)
HUGE = x509.UnrecognizedExtension(
    x509.ObjectIdentifier("1.2.3.4"), b"\4\x83\3\0\0" + bytes(3 << 16)
)

WHOSE = [
    Row("For another key", "RFC 7030, 4.2.3", "issued-for-another-key", leaf(other_key)),
    Row(
        "Nothing but the CA's own",
        "RFC 7030, 4.2.3",
        "issued-for-another-key",
        enrolled(lambda bench, _: bench.issuer.chain),
    ),
    Row("For another name", "RFC 7030, 4.2.3", "issued-with-wrong-name", issued("another")),
    Row("For no name", "RFC 5280, 4.1.2.6", "issued-with-wrong-name", issued(x509.Name([]))),
    Row("For the name in capitals", "RFC 5280, 7.1", "issued-with-wrong-name", leaf(louder)),
    Row(
        "For a name of terminal escapes",
        "RFC 5280, 4.1.2.6",
        "issued-with-wrong-name",
        issued("\x1b[2Jdevice"),
    ),
    Row(
        "For a name with more in it",
        "RFC 5280, 4.1.2.6",
        "",
        leaf(adorned),
        "the CA may add to a subject; DPS looks at the CN",
    ),
    Row(
        "For the name, and another after it",
        "RFC 5280, 4.1.2.6",
        "issued-with-wrong-name",
        leaf(
            lambda b, c: b.issuer.issue(c.public_key(), x509.Name([*c.subject, *names("another")]))
        ),
    ),
    Row(
        "Another name for the same key comes first",
        "RFC 7030, 4.2.3",
        "issued-with-wrong-name",
        enrolled(two),
    ),
    Row(
        "Last of fifty others",
        "RFC 7030, 4.2.3",
        "",
        enrolled(among),
        "the one for the key is taken",
    ),
    Row(
        "It makes the device a CA", "RFC 5280, 4.2.1.9", "issued-as-ca", issued(ca=True, usages=())
    ),
    Row("For servers alone", "RFC 5280, 4.2.1.12", "issued-wrong", issued(usages=[SERVER])),
    Row(
        "For key agreement alone",
        "RFC 5280, 4.2.1.3",
        "issued-wrong",
        built(NOT_CA, (AGREES, True)),
    ),
    Row(
        "No extension at all",
        "RFC 5280, 4.2",
        "dps-unauthorized",
        built(),
        "no use is forbidden; DPS of the lab asks for one",
    ),
    Row(
        "For any purpose",
        "RFC 5280, 4.2.1.12",
        "dps-unauthorized",
        issued(usages=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),
        "TLS clients are among them; DPS of the lab asks for them by name",
    ),
]

WHEN = [
    Row(
        "Expired",
        "RFC 5280, 4.1.2.5",
        "issued-with-wrong-dates",
        issued(starts=-9 * DAY, lasts=8 * DAY),
    ),
    Row(
        "From next week on", "RFC 5280, 4.1.2.5", "issued-with-wrong-dates", issued(starts=7 * DAY)
    ),
    Row(
        "From two minutes on",
        "RFC 5280, 4.1.2.5",
        "dps-unauthorized",
        issued(starts=timedelta(minutes=2)),
        "two clocks are never the same; DPS takes it in two minutes",
    ),
    Row(
        "It ends before it begins",
        "RFC 5280, 4.1.2.5",
        "issued-with-wrong-dates",
        encoded(dates(b"301231235959Z", b"200101000000Z")),
    ),
    Row(
        "Until the end of 9999",
        "RFC 5280, 4.1.2.5",
        "",
        encoded(dates(b"200101000000Z", b"99991231235959Z")),
        "it means without end",
    ),
    Row(
        "Of the year 0000",
        "RFC 5280, 4.1.2.5.2",
        "issued-wrong",
        encoded(dates(b"00000101000000Z", b"99991231235959Z")),
    ),
    Row(
        "No date but letters",
        "RFC 5280, 4.1.2.5",
        "est-garbled",
        encoded(dates(b"yesterday!!!!", b"tomorrow!!!!!")),
    ),
    Row(
        "With a time zone",
        "RFC 5280, 4.1.2.5.1",
        "est-garbled",
        encoded(dates(b"2001010000+01", b"4912312359+01")),
    ),
]

BY = [
    Row(
        "By a stranger's CA",
        "RFC 7030, 4.2.3",
        "issued-by-another-ca",
        by(lambda _: pki.authority("Stranger"), sent=2),
    ),
    Row(
        "By another CA of the same name",
        "RFC 5280, 6.1.3",
        "issued-by-another-ca",
        by(twin, sent=2),
    ),
    Row(
        "By nobody: the signature is wrong", "RFC 5280, 6.1.3", "issued-by-another-ca", raw(spoilt)
    ),
    Row(
        "By a CA below the CA",
        "RFC 5280, 6.1",
        "",
        by(lambda bench: bench.issuer.below("Below"), sent=1),
        "the chain leads to the right root",
    ),
    Row(
        "By a CA below the CA, which is not sent",
        "RFC 7030, 4.1.3",
        "issued-by-another-ca",
        by(lambda bench: bench.issuer.below("Below")),
    ),
    Row(
        "By a CA that has expired",
        "RFC 5280, 6.1.3",
        "issued-by-another-ca",
        by(lambda bench: bench.issuer.below("Below", starts=-9 * DAY, lasts=8 * DAY), sent=1),
    ),
    Row(
        "By ten CAs, one below the other",
        "RFC 5280, 6.1.4",
        "issued-by-another-ca",
        by(lambda bench: levels(bench.issuer, 10), sent=10),
    ),
    Row(
        "By a device: an LDevID that is no CA",
        "RFC 5280, 4.2.1.9",
        "issued-by-another-ca",
        by(lambda bench: device(bench), sent=1),
    ),
    Row("By SHA-1", "RFC 9155, 2", "issued-by-another-ca", encoded(maker.over_sha1)),
]

ENCODED = [
    Row(
        "A negative serial number",
        "RFC 5280, 4.1.2.2",
        "issued-by-another-ca",
        encoded(maker.negative_serial),
    ),
    Row("Serial number 0", "RFC 5280, 4.1.2.2", "", encoded(serial(b"\0")), "nothing goes by it"),
    Row(
        "A serial number of 100 octets",
        "RFC 5280, 4.1.2.2",
        "issued-by-another-ca",
        encoded(serial(b"\1" * 100)),
    ),
    Row(
        "Version 1, with extensions",
        "RFC 5280, 4.1.2.1",
        "issued-by-another-ca",
        encoded(first_version),
    ),
    Row("An extension twice", "RFC 5280, 4.2", "issued-wrong", encoded(doubled)),
    Row(
        "An extension that nobody knows, critical",
        "RFC 5280, 4.2",
        "issued-by-another-ca",
        built(NOT_CA, (UNKNOWN, True)),
    ),
    Row(
        "An extension that nobody knows",
        "RFC 5280, 4.2",
        "",
        built(NOT_CA, CLIENT, (UNKNOWN, False)),
        "it is to be ignored",
    ),
    Row("Defaults written out", "X.690, 11.5", "est-garbled", encoded(maker.written_defaults)),
    Row(
        "GeneralizedTime before 2050",
        "RFC 5280, 4.1.2.5",
        "issued-by-another-ca",
        encoded(maker.generalized_time),
    ),
]


def levels(ca: pki.Authority, count: int) -> pki.Authority:
    for n in range(count):
        ca = ca.below(f"Level {n}")
    return ca


def device(bench: Bench) -> pki.Authority:
    key = pki.new_key()
    return pki.Authority(key, (bench.issuer.issue(key.public_key(), "another device"),))


ROWS = [*WHOSE, *WHEN, *BY, *ENCODED]
