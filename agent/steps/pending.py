"""A CSR on its way: made once, and the same one again when the CA said "come back later"."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import CertificateSigningRequest, load_pem_x509_csr

from agent.errors import EstPending, Later
from agent.state import read_json, write_json
from agent.tpm import Public


@dataclass(frozen=True)
class Told:
    """ "Come back later", by whom and with what; `since` and `until` in seconds since 1970."""

    csr: CertificateSigningRequest
    url: str
    since: float
    until: float
    why: str


def request(
    pending: Path, key: Public | None, url: str, make: Callable[[], CertificateSigningRequest]
) -> CertificateSigningRequest:
    """The CSR that this CA told us to come back with, if it is for the same key and says the same;
    else the one that is made now. Raises EstPending before the time it told us."""
    kept = _told(pending)
    if not kept or not key or (kept.csr.public_key(), kept.url) != (key.key, url):
        return make()
    new = make()
    if (new.subject, _extensions(new)) != (kept.csr.subject, _extensions(kept.csr)):
        return new
    _wait(kept)
    return kept.csr


def _extensions(csr: CertificateSigningRequest) -> list[bytes]:
    return [each.value.public_bytes() for each in csr.extensions]


def _told(pending: Path) -> Told | None:
    """None also for a damaged file: the CA is asked again then."""
    kept = read_json(pending) or {}
    try:
        csr = load_pem_x509_csr(str(kept["csr"]).encode())
        since, until = float(kept["since"]), float(kept["until"])
        return Told(csr, str(kept["url"]), since, until, str(kept["why"]))
    except (KeyError, TypeError, ValueError):
        return None


def _wait(kept: Told) -> None:
    """A clock that was turned back since then does not make us wait longer."""
    now = time.time()
    if kept.since <= now < kept.until:
        left = round(kept.until - now)
        raise EstPending(f"cannot enroll yet: {kept.why}; {left} s to go", seconds=left)


@contextmanager
def held(pending: Path, csr: CertificateSigningRequest, url: str) -> Iterator[None]:
    """ "Come back later" (202, or Retry-After of a busy server) is kept over restarts."""
    try:
        yield
    except Later as e:
        if e.seconds is not None:
            since = time.time()
            pem = csr.public_bytes(Encoding.PEM).decode()
            told = {"since": since, "until": since + e.seconds, "why": str(e)}
            write_json(pending, {"csr": pem, "url": url, **told})
        raise
