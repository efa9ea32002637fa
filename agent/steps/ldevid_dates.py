"""An LDevID certificate that was issued, and is not valid by the clock of this device.

If it is valid by what the server says of the time, it is this device's clock that is wrong: the
certificate is good, and waits for the clock to be right. It would be the same with another one, so
none is asked for while it waits.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from cryptography.x509 import Certificate, CertificateSigningRequest

from agent import store, x509, x509_issued
from agent.errors import ClockImplausible, IssuedWrong
from agent.steps.ldevid import Ldevid

Csr = CertificateSigningRequest


def issued_before(ours: Ldevid, csr: Csr) -> Sequence[Certificate] | None:
    """What waited for the clock, if that is right by now; it waits no more, then."""
    if not (kept := _kept(ours)):
        return None
    now = datetime.now(UTC)
    with suppress(IssuedWrong):
        found = x509_issued.issued(kept, csr, ours.roots, kept, now)
        store.remove(ours.state.ldevid_issued)
        return found
    return None


def see_that_it_is_needed(ours: Ldevid, csr: Csr, said: datetime | None) -> None:
    """`said`: what time it is, as the server has it. Raises ClockImplausible, if what waits is what
    would come again."""
    _judge(csr, _kept(ours), said)


def keep(ours: Ldevid, csr: Csr, found: Sequence[Certificate], said: datetime | None) -> None:
    """`found` is not valid here. Raises ClockImplausible, if it is, by what was `said`."""
    store.write(ours.state.ldevid_issued, x509.pem(found), mode=0o644)
    _judge(csr, found, said)


def _judge(csr: Csr, found: Sequence[Certificate], said: datetime | None) -> None:
    asked, now = x509.spki(csr.public_key()), datetime.now(UTC)
    leaf = next((c for c in found if x509_issued.is_for(c, asked)), None)
    if leaf is None or said is None:
        return
    start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if start - x509.SKEW <= said < end and not start - x509.SKEW <= now < end:
        raise ClockImplausible(
            f"cannot use the issued certificate yet: valid from {start:%Y-%m-%d %H:%M}Z to "
            f"{end:%Y-%m-%d %H:%M}Z, and there it is {said:%Y-%m-%d %H:%M}Z, but the clock here "
            f"says {now:%Y-%m-%d %H:%M}Z"
        )


def _kept(ours: Ldevid) -> list[Certificate]:
    return x509.kept(store.read(ours.state.ldevid_issued))
