"""The trust anchors in force: those that the administrator configured, and who came after them.

Her CA files are never written. What their CAs have signed for (agent/x509_anchors.py) is kept in
the state directory, in anchors/, two files for each of hers:

    est-tls.json    what was accepted, when, and the certificates that prove it; ldevid.json and
    est-tls.pem     those in force, for others to read, as IoT Edge does operational.pem

We believe the first, and no more of it than its signatures say each time it is read: an anchor is
in force if its proof leads to what is in the administrator's file now. Where she puts a new file
that does not lead there, it lapses. A proof is judged as of the time when it was accepted, or
nothing would be left of a roll-over once the old CA has expired, which is what it is made for. So
whoever can write here can choose that time; but not the signatures: he can bring in no CA that a
configured one has not signed for at some time, and he is root, who could as well write the
administrator's own file. That an accepted anchor has expired is no reason to forget it: the clock
may be wrong, and it may be what leads to the next one. It is just not in force.

An offer is held against all CA files, whichever server it came from: only signatures count.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.x509 import Certificate

from agent import journal, store, x509
from agent.config import Config, LdevidEst, Operational
from agent.errors import TrustUnreadable
from agent.events import ANCHOR_ACCEPTED
from agent.state import State, read_json, write_json
from agent.x509_anchors import Accepted, Declined, Unfit, judge, proven

log = logging.getLogger(__name__)
MOST = 32  # kept after one file: a CA that makes a new root each day must not fill the disk


@dataclass(frozen=True)
class Trust:
    """A CA file of the configuration, and where its successors are kept."""

    setting: str
    configured: Path
    kept: Path

    @property
    def proofs(self) -> Path:
        return self.kept.with_suffix(".json")


def tls(est: LdevidEst, state: State) -> Trust:
    """Who vouches for the EST server of the LDevID."""
    return Trust("ldevid.est.trust", est.trust, state.anchors / "est-tls.pem")


def issuance(est: LdevidEst, state: State) -> Trust:
    """Who may have issued the LDevID."""
    if est.issuer is None:
        return tls(est, state)
    return Trust("ldevid.est.issuer", est.issuer, state.anchors / "ldevid.pem")


def operational(conf: Operational, state: State) -> Trust:
    """Who vouches for the EST server of IoT Edge's certificates."""
    return Trust("operational.trust", conf.trust, state.anchors / "operational.pem")


def every(conf: Config, state: State) -> list[Trust]:
    found = list[Trust]()
    if conf.dps.attestation != "tpm":
        if conf.ldevid and conf.ldevid.est:
            found += [tls(conf.ldevid.est, state), issuance(conf.ldevid.est, state)]
        if conf.operational and conf.operational.issued_by == "est":
            found.append(operational(conf.operational, state))
    return list(dict.fromkeys(found))


# --- what is in force ---


def effective(trust: Trust, now: datetime) -> list[Certificate]:
    """The configured anchors, then who came after them. Raises TrustUnreadable, NoPermission."""
    return [*x509.anchors(trust.configured), *successors(trust, now)]


def successors(trust: Trust, now: datetime) -> list[Certificate]:
    """The accepted anchors that are in force. Raises TrustUnreadable, NoPermission."""
    if not (kept := _kept(trust)):
        return []
    configured = x509.anchors(trust.configured)
    found = [each.anchor for each in proven(kept, configured)]
    return [c for c in found if c.not_valid_after_utc >= now and c not in configured]


def lines(trust: Trust, now: datetime) -> list[Certificate]:
    """Of the anchors in force the last of each line, the first to expire first: those with a
    successor may go. The expired are left out if others are there. Raises as `effective`."""
    found = effective(trust, now)
    before = {each.path[-1] for each in _kept(trust) if each.anchor in found}
    last = [c for c in found if c not in before and not any(_renews(d, c) for d in found)]
    living = [c for c in last if c.not_valid_after_utc >= now]
    return sorted(living or last, key=lambda c: c.not_valid_after_utc)


def _renews(new: Certificate, old: Certificate) -> bool:
    return new.subject == old.subject and new.not_valid_after_utc > old.not_valid_after_utc


def in_force(conf: Config, state: State) -> list[tuple[str, Path, list[Certificate] | None]]:
    """Each CA file by its setting, its path, and what `lines` says of it now; empty: it cannot be
    read; None: there is none."""
    now = datetime.now(UTC)
    return [(each.setting, each.configured, _looked(each, now)) for each in every(conf, state)]


def _looked(trust: Trust, now: datetime) -> list[Certificate] | None:
    if not store.exists(trust.configured):
        return None
    with suppress(TrustUnreadable):
        return lines(trust, now)
    return []


def files(trust: Trust, now: datetime) -> tuple[Path, ...]:
    """The PEM files that hold the anchors in force, once `settle` was called: hers, and ours only
    if there is something in it."""
    return (trust.configured, trust.kept) if successors(trust, now) else (trust.configured,)


# --- what is offered ---


def learn(
    conf: Config, state: State, offered: Sequence[Certificate], now: datetime
) -> list[tuple[Trust, Accepted | Declined]]:
    """What becomes of the CA certificates that a server offers; what is accepted is kept, and told
    to the journal. A CA file that cannot be read learns nothing, which is told, too."""
    found = list[tuple[Trust, Accepted | Declined]]()
    for trust in every(conf, state):
        try:
            found += [(trust, each) for each in _learned(trust, offered, now)]
        except (TrustUnreadable, Unfit) as e:
            log.warning("cannot follow the CAs of %s: %s", trust.setting, e)
    return found


def _learned(
    trust: Trust, offered: Sequence[Certificate], now: datetime
) -> Sequence[Accepted | Declined]:
    configured = x509.anchors(trust.configured)
    held = proven(_kept(trust), configured)
    judged = judge([*configured, *(each.anchor for each in held)], offered, now)
    accepted = [each for each in judged if isinstance(each, Accepted)]
    kept = _fewest([*held, *accepted], configured, now)
    if len(kept) < len(held) + len(accepted):
        log.warning("%s: more than %d CAs came after '%s'", trust.setting, MOST, trust.configured)
    new = [each for each in accepted if each in kept]
    if new:
        _keep(trust, kept)
        settle(trust, now)
    for each in new:
        _tell(trust, each)
    return [each for each in judged if each in kept or isinstance(each, Declined)]


def _fewest(
    found: Sequence[Accepted], configured: Sequence[Certificate], now: datetime
) -> list[Accepted]:
    """At most MOST of these. Whom a configured one names goes before whom others do: else one of
    those could name so many that there is no room for the true successor. What has expired goes
    first, unless another one is there by its word."""
    named_by = {each.path[-1] for each in found}

    def rank(each: Accepted) -> int:
        if each.anchor.not_valid_after_utc < now and each.anchor not in named_by:
            return 2
        return 0 if each.path[-1] in configured else 1

    best = sorted(found, key=rank)[:MOST]
    return [each for each in found if each in best]


def _tell(trust: Trust, each: Accepted) -> None:
    subject, by = name(each.anchor), name(each.path[-1])
    fingerprint = x509.fingerprint(each.anchor)
    about = journal.about(
        ANCHOR_ACCEPTED,
        setting=trust.setting,
        subject=subject,
        fingerprint=fingerprint,
        by=by,
        until=f"{each.anchor.not_valid_after_utc:%Y-%m-%d}",
    )
    said = "%s: '%s' (sha256 %s) is trusted from now on, for '%s' has signed for it"
    log.info(said, trust.setting, subject, fingerprint, by, extra=about)


def name(certificate: Certificate) -> str:
    """Fit for a terminal: whoever is not trusted may be called anything."""
    return "".join(c if c.isprintable() else "?" for c in x509.describe(certificate))[:200]


def settle(trust: Trust, now: datetime) -> None:
    """Bring the file that others read to what is in force; there is none if that is nothing."""
    if settled(trust, now):
        return
    if found := successors(trust, now):
        store.write(trust.kept, x509.pem(found), mode=0o644)
    else:
        store.remove(trust.kept)


def settled(trust: Trust, now: datetime) -> bool:
    """Is that done?"""
    found = successors(trust, now)
    return store.read(trust.kept) == (x509.pem(found) if found else None)


# --- the file of proofs ---


def _keep(trust: Trust, accepted: Iterable[Accepted]) -> None:
    store.make(trust.proofs.parent)  # IoT Edge's services look into it
    write_json(trust.proofs, {"accepted": [_written(each) for each in accepted]}, mode=0o644)


def _written(each: Accepted) -> dict[str, Any]:
    path = [x509.pem([c]).decode() for c in each.path]
    return {
        "subject": name(each.anchor),
        "at": each.at.isoformat(),
        "anchor": x509.pem([each.anchor]).decode(),
        "path": path,
    }


def _kept(trust: Trust) -> list[Accepted]:
    """As they were written; a damaged one is as if it had never been: it will be offered again."""
    found = (read_json(trust.proofs) or {}).get("accepted")
    return list(_read(found)) if isinstance(found, list) else []


def _read(found: Sequence[Any]) -> Iterator[Accepted]:
    for each in found[:MOST]:
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            at = datetime.fromisoformat(each["at"])
            [anchor] = x509.parse(each["anchor"].encode())
            path = [c for pem in each["path"] for c in x509.parse(pem.encode())]
            if at.tzinfo is not None and 0 < len(path) < MOST:
                yield Accepted(anchor, tuple(path), at)
