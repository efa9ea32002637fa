"""A CSR on its way: made once, and the same one again when the CA said "come back later".

What it is for is kept with it: the answer to a first enrolment is no renewal, nor the other way
round.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import CertificateSigningRequest, InvalidVersion, load_pem_x509_csr

from agent.errors import EstPending, Later
from agent.state import read_json, write_json
from agent.tpm import Public

ENROLMENT, RENEWAL, BY_EK = "enrolment", "renewal", "enrolment by the EK"


@dataclass(frozen=True)
class Told:
    """ "Come back later", by whom and with what; `since` and `until` in seconds since 1970."""

    csr: CertificateSigningRequest
    url: str
    purpose: str
    since: float
    until: float
    why: str


def request(
    pending: Path,
    key: Public | None,
    url: str,
    make: Callable[[], CertificateSigningRequest],
    purpose: str = ENROLMENT,
) -> CertificateSigningRequest:
    """The CSR that this CA told us to come back with, if it is for the same purpose and key, and
    says the same; else the one that is made now. Raises EstPending before the time it told us."""
    kept = _told(pending)
    asked = key and (key.key, url, purpose)
    if not kept or (kept.csr.public_key(), kept.url, kept.purpose) != asked:
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
        purpose = str(kept.get("purpose", ENROLMENT))
        return Told(csr, str(kept["url"]), purpose, since, until, str(kept["why"]))
    except (KeyError, TypeError, ValueError, InvalidVersion):
        return None


def _wait(kept: Told) -> None:
    """A clock that was turned back since then does not make us wait longer."""
    now = time.time()
    if kept.since <= now < kept.until:
        left = round(kept.until - now)
        raise EstPending(f"cannot enroll yet: {kept.why}; {left} s to go", seconds=left)


@contextmanager
def held(
    pending: Path,
    csr: CertificateSigningRequest,
    url: str,
    purpose: str = ENROLMENT,
    longest: timedelta | None = None,
) -> Iterator[None]:
    """ "Come back later" (202, or Retry-After of a busy server) is kept over restarts; for at
    most `longest`, whatever the server says."""
    try:
        yield
    except Later as e:
        if e.seconds is not None:
            since = time.time()
            seconds = min(timedelta(seconds=e.seconds), longest or timedelta.max).total_seconds()
            pem = csr.public_bytes(Encoding.PEM).decode()
            told = {"since": since, "until": since + seconds, "why": str(e)}
            write_json(pending, {"csr": pem, "url": url, "purpose": purpose, **told})
        raise
