"""Enrollment over Secure Transport, RFC 7030 as corrected by RFC 8951: the client's half.

Keeps no state: `EstPending` carries how long to wait, and the same request is made again later.
Whether an issued certificate is the one that was asked for is not judged here.
"""

import base64
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import pkcs7

from agent.errors import (
    ConfigError,
    EstBadRequest,
    EstForbidden,
    EstGarbled,
    EstNoReenroll,
    EstNotFound,
    EstPending,
    EstRedirected,
    EstRefused,
    EstUnauthorized,
    Refused,
    ServerBusy,
    TlsClientRefused,
)
from agent.est_wire import CsrAttrs, csrattrs, login_schemes, sound, unwrapped, wrapped
from agent.http import Https, Reply, host_of, printable, retry_after
from agent.x509 import named

PENDING = 600  # seconds to stay away after a 202 that does not say
REDIRECTS = 3
NOTHING_WANTED = {204, 404, 405, 501}  # csrattrs is optional (RFC 7030, 2.6 and 4.5.2)

Refusal = tuple[type[Refused], str]  # the error of a status, and what it means in words

_REFUSALS: dict[int, Refusal] = {
    400: (EstBadRequest, "the request was refused"),
    401: (EstUnauthorized, "the credential was refused"),
    403: (EstForbidden, "it is forbidden to this device"),
    404: (EstNotFound, "there is no EST service at this address"),
    415: (EstBadRequest, "the request was refused"),
    422: (EstBadRequest, "the request was refused"),
}


_NO_REENROLL: Mapping[int, Refusal] = dict.fromkeys(
    (404, 405, 501), (EstNoReenroll, "the server has no simplereenroll at this address")
)


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
            return csrattrs(self._decoded(doing, reply, "application/csrattrs"))
        except ValueError as e:
            raise self.garbled(doing, "not CSR attributes") from e

    def simpleenroll(self, csr: x509.CertificateSigningRequest) -> list[x509.Certificate]:
        """The certificate for `csr`, and any others that came along, in no certain order.

        Raises also EstPending (75; `seconds` says how long the CA wants), and CsrInvalid.
        """
        return self._enrolled(f"enroll at {self.url}", "simpleenroll", csr)

    def simplereenroll(self, csr: x509.CertificateSigningRequest) -> list[x509.Certificate]:
        """As `simpleenroll`, to renew or rekey the certificate that TLS logs in with, whose subject
        and subjectAltName the `csr` repeats (RFC 7030, 4.2.2). Raises also EstNoReenroll."""
        return self._enrolled(f"enroll again at {self.url}", "simplereenroll", csr, _NO_REENROLL)

    def _enrolled(
        self,
        doing: str,
        operation: str,
        csr: x509.CertificateSigningRequest,
        refusals: Mapping[int, Refusal] | None = None,
    ) -> list[x509.Certificate]:
        body = wrapped(sound(doing, csr), 64, b"\n")
        reply = self.post(doing, operation, "application/pkcs10", body, refusals)
        return self._certificates(doing, reply)

    def post(
        self,
        doing: str,
        operation: str,
        kind: str,
        body: bytes,
        refusals: Mapping[int, Refusal] | None = None,
    ) -> Reply:
        """An enrollment of any sort, with login: the reply, of a status 2xx that is not 202.

        `kind`: the Content-Type. `refusals`: what a status means to this operation, where that is
        something else than to the others. Raises what `simpleenroll` raises.
        """
        headers = {
            "Content-Type": kind,
            "Content-Transfer-Encoding": "base64",  # RFC 8951 drops it, GlobalSign's insists
            **self._login(),
        }
        reply = self._https.request("POST", f"{self.url}/{operation}", headers=headers, body=body)
        self._check(doing, reply, refusals)
        if reply.status == 202:
            seconds = retry_after(reply.headers)
            seconds = PENDING if seconds is None else seconds
            why = f"the CA says to come back in {seconds} s"
            raise EstPending(f"cannot {doing}: {why}", seconds=seconds, host=self._host)
        return reply

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

    def _check(self, doing: str, reply: Reply, more: Mapping[int, Refusal] | None = None) -> None:
        """Returns if the status is 2xx; raises what the others mean, in `more` or in general."""
        status, said, more = reply.status, self._said(reply), more or {}
        fields = {"host": self._host}
        if status // 100 == 2:
            return
        if status // 100 == 3:
            location = self._shown(re.sub("//[^/]*@", "//", _location(reply)))
            why = f"it was redirected ({status}) to '{location}'"
            raise EstRedirected(f"cannot {doing}: {why}", location=location, **fields)
        if status not in more and (status in (408, 429) or status >= 500):
            why = f"the server has trouble ({status}){said}"
            raise ServerBusy(f"cannot {doing}: {why}", seconds=retry_after(reply.headers), **fields)
        if status == 400 and b"SSL certificate" in reply.body:  # as nginx words it, in HTTP
            raise TlsClientRefused(f"cannot {doing}: no valid client certificate{said}", **fields)
        kind, why = {**_REFUSALS, **more}.get(status, (EstRefused, "the request was refused"))
        raise kind(f"cannot {doing}: {why} ({status}){said}", **fields)

    def _certificates(self, doing: str, reply: Reply) -> list[x509.Certificate]:
        der = self._decoded(doing, reply, "application/pkcs7-mime")
        try:
            with warnings.catch_warnings():  # some CAs write BER, which is read with a warning
                warnings.simplefilter("ignore")
                return named(pkcs7.load_der_pkcs7_certificates(der))
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as e:
            raise self.garbled(doing, "not PKCS#7 with certificates") from e

    def _decoded(self, doing: str, reply: Reply, wanted: str) -> bytes:
        """The DER in the body of a reply that says to be of the type `wanted`."""
        self.expect(doing, reply, wanted)
        try:
            return unwrapped(reply.body)
        except ValueError as e:
            raise self.garbled(doing, "not base64") from e

    def expect(self, doing: str, reply: Reply, wanted: str) -> None:
        """Raises EstGarbled unless this is a 200 with a body of the type `wanted`, lower case;
        parameters of the type do not matter."""
        kind = reply.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if reply.status != 200:
            raise self.garbled(doing, f"status {reply.status} instead of {wanted}")
        if kind != wanted:
            raise self.garbled(doing, f"'{self._shown(kind)}' instead of {wanted}")

    def garbled(self, doing: str, why: str) -> EstGarbled:
        return EstGarbled(f"cannot {doing}: the reply makes no sense: {why}", host=self._host)

    def _said(self, reply: Reply) -> str:
        """The server's words, if it has any (untyped text is text, RFC 8951, 5)."""
        text = self._shown(reply.body.decode("utf-8", "replace"))
        schemes = login_schemes(reply.headers.get("WWW-Authenticate", ""))
        other = reply.status == 401 and schemes and "basic" not in schemes
        more = (
            f"; it wants a login by {printable(', '.join(schemes))}, not by HTTP Basic"
            if other
            else ""
        )
        return (f": '{text}'" if text else "") + more

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
