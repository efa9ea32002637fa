"""TLS to servers that a pinned trust file vouches for, and what it means when that fails.

The anchors are the certificates of one PEM file, those that its CAs have named as their successors,
and nothing else: no system store, no environment.
TLS 1.2 or newer; the host's name is checked against subjectAltName (RFC 9525), never the CN.
"""

import datetime
import errno
import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.clock import Bound, Vouched
from agent.errors import (
    AgentError,
    TlsClientRefused,
    TlsDates,
    TlsExpiredSince,
    TlsFailed,
    TlsName,
    TlsUntrusted,
    TrustUnreadable,
)

# X509_V_ERR_...: CERT_NOT_YET_VALID, CERT_HAS_EXPIRED; HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH
_DATES = {9: "not valid yet", 10: "no longer valid"}
_NAMES = {62, 64}

# The alerts of RFC 8446, 6.2, that a server sends about a client's certificate or its signature.
_ABOUT_CLIENT = re.compile(
    r"ALERT_(BAD_CERTIFICATE|UNSUPPORTED_CERTIFICATE|CERTIFICATE_(REVOKED|EXPIRED|UNKNOWN|REQUIRED)"
    r"|UNKNOWN_CA|ACCESS_DENIED|DECRYPT_ERROR)$"
)


class Context(ssl.SSLContext):
    """`floor`: what time it is at least. `vouched`: of the chain that was verified last."""

    floor: Bound | None = None
    vouched: Vouched | None = None


def tls_context(
    trust: Path, more: Sequence[x509.Certificate] = (), *, floor: Bound | None = None
) -> Context:
    """For a client. `trust`: PEM, one or several certificates; each is an anchor, whether it signed
    itself or not (RFC 7030, 3.6.1); `more`: anchors besides. Raises TrustUnreadable.

    OpenSSL reads them: among a system's CAs are some that `cryptography` would rather not. A chain
    must be valid by the clock, and must not have ended at `floor`.
    """
    context = Context(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and name, has no anchor
    context.floor = floor
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.hostname_checks_common_name = False
    context.sslsocket_class = _Socket
    try:
        context.load_verify_locations(cadata=trust.read_bytes().decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as e:
        raise TrustUnreadable(f"cannot read '{trust}': not PEM certificates", path=trust) from e
    except OSError as e:
        raise TrustUnreadable(f"cannot read '{trust}': {e.strerror}", path=trust) from e
    if more:
        context.load_verify_locations(cadata=b"".join(a.public_bytes(Encoding.DER) for a in more))
    return context


class _Socket(ssl.SSLSocket):
    """Keeps what a plain one loses, and what a diagnosis needs: the certificate that was not
    trusted, and the alert that explains why nobody listens any more."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except ssl.SSLCertVerificationError as e:
            chain = self._sslobj.get_unverified_chain()  # type: ignore[attr-defined]  # public in 3.13
            e.add_note(_shown([c.public_bytes(2) for c in chain]))
            raise
        if isinstance(self.context, Context):
            self.context.vouched = self._vouched(self.context.floor)

    def _vouched(self, floor: Bound | None) -> Vouched:
        """Raises _Outlived. OpenSSL knows no other time than the clock's."""
        chain = self._sslobj.get_verified_chain()  # type: ignore[attr-defined]  # public in 3.13
        dates = [c.get_info() for c in chain]
        since = max(_at(each["notBefore"]) for each in dates)
        until = min(_at(each["notAfter"]) for each in dates)
        if floor and until < floor.at:
            raise _Outlived(floor, _shown([c.public_bytes(2) for c in chain], floor.at))
        return Vouched(since, until)

    def send(self, data: Any, flags: int = 0) -> int:
        """In TLS 1.3 the server judges our certificate after we think the handshake is over. By the
        time we write it may have sent its alert, or an early answer, and gone: that is still there
        to be read, and urllib3 reads it if we say what a plain socket would."""
        try:
            return super().send(data, flags)
        except ssl.SSLEOFError as e:
            raise BrokenPipeError(errno.EPIPE, "the server hung up") from e


class _Outlived(ssl.SSLCertVerificationError):
    """The clock says that a chain is valid, and it is known to be later than that."""

    def __init__(self, floor: Bound, shown: str) -> None:
        super().__init__(ssl.SSL_ERROR_SSL, "certificate has expired")
        self.verify_code, self.verify_message = 10, "certificate has expired"
        self.floor = floor
        self.add_note(shown)


def _at(text: str) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(ssl.cert_time_to_seconds(text), datetime.UTC)


def _shown(chain: list[bytes], at: datetime.datetime | None = None) -> str:
    """The certificate to blame: the first one out of date, else the server's own."""
    try:
        certificates = [x509.load_der_x509_certificate(der) for der in chain]
        now = at or datetime.datetime.now(datetime.UTC)
        late = (
            c for c in certificates if not c.not_valid_before_utc <= now <= c.not_valid_after_utc
        )
        c = next(late, certificates[0])
        names = f"'{c.subject.rfc4514_string()}' issued by '{c.issuer.rfc4514_string()}'"
    except (ValueError, TypeError, x509.InvalidVersion):
        return "a certificate that cannot be read"
    dates = f"{c.not_valid_before_utc:%Y-%m-%d %H:%M} to {c.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    return f"{''.join(x if x.isprintable() else '?' for x in names)[:200]}, valid {dates}"


def tls_error(host: str, trust: Path, error: ssl.SSLError) -> AgentError:
    """What a failed handshake means: TlsDates, TlsExpiredSince (75), TlsUntrusted, TlsName,
    TlsClientRefused, TlsFailed (76). In TLS 1.3 a server refuses our certificate only after the
    handshake.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _untrusted(host, trust, error)
    why = (error.reason or str(error)).lower().replace("_", " ")
    if _ABOUT_CLIENT.search(error.reason or ""):
        return TlsClientRefused(f"cannot log in to {host}: {why}", host=host)
    return TlsFailed(f"cannot agree on TLS with {host}: {why}", host=host)


def _untrusted(host: str, trust: Path, error: ssl.SSLCertVerificationError) -> AgentError:
    shown = "; ".join(getattr(error, "__notes__", ["a certificate"]))
    if when := _DATES.get(error.verify_code):
        clock = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"
        why = f"its certificate is {when}: {shown}, and the clock here says {clock}"
        if isinstance(error, _Outlived):
            by, least = error.floor.by, f"{error.floor.at:%Y-%m-%d %H:%M} UTC"
            why += f", but {by} has said that it is {least}"
            return TlsExpiredSince(f"cannot trust {host}: {why}", host=host, by=by)
        return TlsDates(f"cannot trust {host}: {why}", host=host)
    kind = TlsName if error.verify_code in _NAMES else TlsUntrusted
    why = f"{error.verify_message.rstrip('.')}; it shows {shown}"
    return kind(f"cannot trust {host}: {why}", host=host, trust=trust)
