"""Enrollment over Secure Transport, RFC 7030 as corrected by RFC 8951: the client's half.

Keeps no state: `EstPending` carries how long to wait, and the same request is made again later.
Whether an issued certificate is the one that was asked for is not judged here.
"""

import base64
import binascii
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from agent.errors import (
    ConfigError,
    CsrInvalid,
    EstBadRequest,
    EstForbidden,
    EstGarbled,
    EstNotFound,
    EstPending,
    EstRedirected,
    EstRefused,
    EstUnauthorized,
    Refused,
    ServerBusy,
    TlsClientRefused,
)
from agent.http import Https, Reply, host_of, printable, retry_after

PENDING = 600  # seconds to stay away after a 202 that does not say
REDIRECTS = 3
NOTHING_WANTED = {204, 404, 405, 501}  # csrattrs is optional (RFC 7030, 2.6 and 4.5.2)

_REFUSALS: dict[int, tuple[type[Refused], str]] = {
    400: (EstBadRequest, "the request was refused"),
    401: (EstUnauthorized, "the credential was refused"),
    403: (EstForbidden, "it is forbidden to this device"),
    404: (EstNotFound, "there is no EST service at this address"),
    415: (EstBadRequest, "the request was refused"),
    422: (EstBadRequest, "the request was refused"),
}


@dataclass(frozen=True)
class Basic:
    """HTTP Basic (RFC 7617, UTF-8)."""

    username: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        if ":" in self.username:
            raise ConfigError("cannot log in by HTTP Basic: the user name holds a ':'")

    def header(self) -> tuple[str, str]:
        pair = f"{self.username}:{self.password}".encode()
        return "Authorization", f"Basic {base64.b64encode(pair).decode()}"

    def secrets(self) -> list[str]:
        return [self.password, self.header()[1].split()[1]]


@dataclass(frozen=True)
class Secret:
    """A shared secret in the header `Secret-Value`: in no standard, but in use with IoT Edge."""

    value: str = field(repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", self.value):
            raise ConfigError("cannot log in by secret: it must be printable ASCII, one line")

    def header(self) -> tuple[str, str]:
        return "Secret-Value", self.value

    def secrets(self) -> list[str]:
        return [self.value]


@dataclass(frozen=True)
class CsrAttrs:
    """What the CA would like to see in a CSR; what is not known is to be ignored."""

    oids: frozenset[str] = frozenset()
    """Every OID named, dotted, those of `attributes` too."""
    attributes: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    """The attributes that came with values; each value is a DER TLV."""


class Est:
    """One EST service. `url`: https://HOST[:PORT]/.well-known/est[/LABEL] (RFC 7030, 3.2.2).

    Errors of every call: those of `Https.request`; ServerBusy (75); EstUnauthorized, EstForbidden,
    EstNotFound, EstBadRequest, EstRefused, EstRedirected, EstGarbled, TlsClientRefused (76).
    """

    def __init__(self, https: Https, url: str, *, credential: Basic | Secret | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or "@" in parts.netloc:
            raise ConfigError("cannot use the EST URL: it must be https://HOST[:PORT]/PATH")
        self._https, self._credential = https, credential
        self.url, self._host = url.rstrip("/"), host_of(url)

    def cacerts(self) -> list[x509.Certificate]:
        """The CA's certificates, in no certain order (RFC 7030, 4.1.3)."""
        doing = f"get the CA certificates from {self.url}"
        return self._certificates(doing, self._get(doing, "cacerts"))

    def csrattrs(self) -> CsrAttrs:
        """What the CA wants in a CSR (RFC 7030, 4.5.2; RFC 8951, 4)."""
        doing = f"get the CSR attributes from {self.url}"
        reply = self._get(doing, "csrattrs", NOTHING_WANTED)
        if reply.status in NOTHING_WANTED or not reply.body.strip():
            return CsrAttrs()
        try:
            return _csrattrs(self._decoded(doing, reply, "application/csrattrs"))
        except ValueError as e:
            raise self._garbled(doing, "not CSR attributes") from e

    def simpleenroll(self, csr: x509.CertificateSigningRequest) -> list[x509.Certificate]:
        """The certificate for `csr`, and any others that came along, in no certain order.

        Raises also EstPending (75; `seconds` says how long the CA wants), and CsrInvalid.
        """
        doing = f"enroll at {self.url}"
        if not csr.is_signature_valid:  # a key that signs wrongly must not reach the CA's log
            raise CsrInvalid(f"cannot {doing}: the CSR's own signature is wrong")
        text = base64.b64encode(csr.public_bytes(Encoding.DER))
        lines = [text[i : i + 64] + b"\n" for i in range(0, len(text), 64)]
        headers = {
            "Content-Type": "application/pkcs10",
            "Content-Transfer-Encoding": "base64",  # RFC 8951 drops it, GlobalSign's insists
            **self._login(),
        }
        url = f"{self.url}/simpleenroll"
        reply = self._https.request("POST", url, headers=headers, body=b"".join(lines))
        self._check(doing, reply)
        if reply.status == 202:
            seconds = retry_after(reply.headers)
            seconds = PENDING if seconds is None else seconds
            why = f"the CA says to come back in {seconds} s"
            raise EstPending(f"cannot {doing}: {why}", seconds=seconds, host=self._host)
        return self._certificates(doing, reply)

    def _login(self) -> dict[str, str]:
        return dict([self._credential.header()]) if self._credential else {}

    def _get(self, doing: str, operation: str, fine: set[int] | None = None) -> Reply:
        """GETs need no login (RFC 7030, 4.1.2 and 4.5.1): it is given only if asked for."""
        url, login = f"{self.url}/{operation}", dict[str, str]()
        for _ in range(REDIRECTS + 1):
            reply = self._https.request("GET", url, headers=login)
            if reply.status == 401 and self._credential and not login:
                login = self._login()
                reply = self._https.request("GET", url, headers=login)
            if reply.status // 100 != 3 or not (there := _same_origin(url, _location(reply))):
                break
            url = there
        if reply.status not in (fine or ()):
            self._check(doing, reply)
        return reply

    def _check(self, doing: str, reply: Reply) -> None:
        """Returns if the status is 2xx; raises what the others mean."""
        status, said = reply.status, self._said(reply)
        fields = {"host": self._host}
        if status // 100 == 2:
            return
        if status // 100 == 3:
            location = self._shown(re.sub("//[^/]*@", "//", _location(reply)))
            why = f"it was redirected ({status}) to '{location}'"
            raise EstRedirected(f"cannot {doing}: {why}", location=location, **fields)
        if status in (408, 429) or status >= 500:
            why = f"the server has trouble ({status}){said}"
            raise ServerBusy(f"cannot {doing}: {why}", seconds=retry_after(reply.headers), **fields)
        if status == 400 and b"SSL certificate" in reply.body:  # as nginx words it, in HTTP
            raise TlsClientRefused(f"cannot {doing}: no valid client certificate{said}", **fields)
        kind, why = _REFUSALS.get(status, (EstRefused, "the request was refused"))
        raise kind(f"cannot {doing}: {why} ({status}){said}", **fields)

    def _certificates(self, doing: str, reply: Reply) -> list[x509.Certificate]:
        if reply.status != 200:
            raise self._garbled(doing, f"status {reply.status} without certificates")
        der = self._decoded(doing, reply, "application/pkcs7-mime")
        try:
            with warnings.catch_warnings():  # some CAs write BER, which is read with a warning
                warnings.simplefilter("ignore")
                return pkcs7.load_der_pkcs7_certificates(der)
        except (ValueError, UnsupportedAlgorithm) as e:
            raise self._garbled(doing, "not PKCS#7 with certificates") from e

    def _decoded(self, doing: str, reply: Reply, wanted: str) -> bytes:
        """The DER in a body: base64 however wrapped (RFC 8951, 3.1), in PEM armour or not."""
        kind = reply.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != wanted:
            raise self._garbled(doing, f"'{self._shown(kind)}' instead of {wanted}")
        bare = re.sub(rb"-----(BEGIN|END) [A-Z0-9 ]+-----", b"", reply.body)
        try:
            return base64.b64decode(b"".join(bare.split()), validate=True)
        except binascii.Error as e:
            raise self._garbled(doing, "not base64") from e

    def _garbled(self, doing: str, why: str) -> EstGarbled:
        return EstGarbled(f"cannot {doing}: the reply makes no sense: {why}", host=self._host)

    def _said(self, reply: Reply) -> str:
        """The server's words, if it has any (untyped text is text, RFC 8951, 5)."""
        text = self._shown(reply.body.decode("utf-8", "replace"))
        return f": '{text}'" if text else ""

    def _shown(self, text: str) -> str:
        """Of a stranger's text what can be shown: an echo must not put our secret into a log."""
        for secret in filter(None, self._credential.secrets() if self._credential else ()):
            text = text.replace(secret, "***")
        return printable(re.sub(r"<[^>]*>", " ", text))


def _location(reply: Reply) -> str:
    return reply.headers.get("Location", "")


def _same_origin(here: str, location: str) -> str | None:
    """The URL that `location` means, if it is on the same server: RFC 7030, 3.2.1, asks for all
    checks anew elsewhere, so elsewhere is not gone to."""
    try:
        there = urljoin(here, location)
        a, b = urlsplit(here), urlsplit(there)
        same = (a.scheme, a.hostname, a.port or 443) == (b.scheme, b.hostname, b.port or 443)
    except ValueError:  # brackets that are no address, a port that is no number
        return None
    return there if same and "@" not in b.netloc else None


@asn1.sequence
@dataclass(frozen=True)
class _Attribute:
    type: x509.ObjectIdentifier
    values: asn1.SetOf[asn1.TLV]


@asn1.sequence
@dataclass(frozen=True)
class _Wrapped:
    csrattrs: asn1.TLV


@asn1.sequence
@dataclass(frozen=True)
class _Unwrapped:
    csrattrs: list[x509.ObjectIdentifier | _Attribute]


def _csrattrs(der: bytes) -> CsrAttrs:
    """CsrAttrs ::= SEQUENCE OF AttrOrOID. The decoder only takes a class for its outermost
    SEQUENCE, hence one more around it. Raises ValueError."""
    wrapped = asn1.encode_der(_Wrapped(asn1.decode_der(asn1.TLV, der)))
    entries = asn1.decode_der(_Unwrapped, wrapped).csrattrs
    attributes = {
        entry.type.dotted_string: tuple(asn1.encode_der(v) for v in entry.values.as_list())
        for entry in entries
        if isinstance(entry, _Attribute)
    }
    bare = {e.dotted_string for e in entries if isinstance(e, x509.ObjectIdentifier)}
    return CsrAttrs(frozenset(bare | attributes.keys()), attributes)
