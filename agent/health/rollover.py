"""CAs change their keys while devices are out there: they are followed in time (RFC 7030, 4.1.3).

An LDevID that is renewed brings the CA certificates along (agent/steps/ldevid_enrol.py), which is
all that most devices need. A server is asked for them without such a need only

- from when an anchor has lived 70 % of its life, and nothing that is trusted follows it: more often
  the nearer its end, from once a month to once a day; after its end nobody can vouch by it;
- when a server or an issuer was not trusted, at most once a day.

All devices have the same anchors, so each begins at a moment of its own within the first month.
"""

import logging
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cryptography.x509 import Certificate

from agent import anchors, inputs, network, store, x509
from agent.anchors import Trust
from agent.backoff import jitter
from agent.clock import Times
from agent.config import Config, LdevidEst, Operational
from agent.errors import AgentError, EstUnauthorized, TlsClientRefused, TrustUnreadable
from agent.state import State
from agent.steps import enrol, ldevid_enrol, ldevid_key
from agent.tpm import Tpm
from agent.x509_anchors import Accepted, Declined

if TYPE_CHECKING:
    from agent.est import Basic, Secret

log = logging.getLogger(__name__)
SHARE, TIMES = 0.7, 50  # of its life; how often what is left of that is divided
DAY, MONTH = timedelta(days=1), timedelta(days=30)
SECONDS = 30.0


@dataclass(frozen=True)
class Server:
    """An EST server, who vouches for it, and the CA files whose certificates it may know more of.
    `conf`: its section of the configuration."""

    url: str
    conf: LdevidEst | Operational
    trust: Trust
    extends: tuple[Trust, ...]


def servers(conf: Config, state: State) -> list[Server]:
    found = list[Server]()
    if conf.dps.attestation == "tpm":
        return found
    if conf.ldevid and (est := conf.ldevid.est):
        trust = anchors.tls(est, state)
        extends = dict.fromkeys([trust, anchors.issuance(est, state)])
        found.append(Server(est.url, est, trust, tuple(extends)))
    if (operational := conf.operational) and operational.url and operational.issued_by == "est":
        trust = anchors.operational(operational, state)
        found.append(Server(operational.url, operational, trust, (trust,)))
    return found


# --- when ---


def due(
    conf: Config, state: State, asked: Mapping[str, float], now: datetime, seed: bytes
) -> dict[str, str]:
    """The servers to be asked now, by their URL, and why. `asked`: when each was asked last, in
    seconds since 1970. `seed`: what makes this device differ from others. Only files are read."""
    found = dict[str, str]()
    for server in servers(conf, state):
        last = _last(asked, server, now)
        for trust, anchor in _lines(server, now):
            when = next_time(anchor, last, seed)
            if when and when <= now:
                end = f"{anchor.not_valid_after_utc:%Y-%m-%d}"
                found[server.url] = f"'{anchors.name(anchor)}' ({trust.setting}) ends {end}"
    return found


def _last(asked: Mapping[str, float], server: Server, now: datetime) -> datetime | None:
    """A time to come is none: the clock was ahead then."""
    last = datetime.fromtimestamp(asked.get(server.url, 0.0), UTC)
    return last if server.url in asked and last <= now else None


def _lines(server: Server, now: datetime) -> Iterator[tuple[Trust, Certificate]]:
    """The anchors after which nothing follows, and which can still vouch for something."""
    for trust in server.extends:
        with suppress(TrustUnreadable):  # that is a state of its own, and told
            for anchor in anchors.lines(trust, now):
                if anchor.not_valid_after_utc >= now:
                    yield trust, anchor


def next_time(anchor: Certificate, last: datetime | None, seed: bytes) -> datetime | None:
    """When to ask for what comes after this anchor; None: not any more. `last`: when that was asked
    last."""
    begin, end = anchor.not_valid_before_utc, anchor.not_valid_after_utc
    life, own = end - begin, _own(seed, anchor)
    first = begin + life * SHARE + min(MONTH, life / 10) * own
    if last is None or last < first:
        return first
    pause = min(max((end - last) / TIMES, DAY), MONTH)
    after = last + pause * (1 + own / 10)
    return after if after <= end else None


def _own(seed: bytes, anchor: Certificate) -> float:
    """A share from 0 to 1: the same each time, for each device another."""
    return jitter(seed + x509.fingerprint(anchor).encode())


# --- and what ---


def settle(conf: Config, state: State, now: datetime) -> None:
    """What was accepted is in force even if who accepted it was cut off; only files are looked
    at."""
    for trust in anchors.every(conf, state):
        with suppress(TrustUnreadable):
            anchors.settle(trust, now)


def follow(
    tpm: Tpm,
    conf: Config,
    state: State,
    asked: MutableMapping[str, float],
    now: datetime,
    seed: bytes,
    untrusted: Collection[str] = (),
) -> list[str]:
    """Ask the servers that are due, and those whose URL is in `untrusted`, these at most once a
    day; what came of it, in words. When they were asked goes into `asked`, whatever came of it.

    What is accepted is kept and in force at once; for IoT Edge the step `aziot-config` has to run.
    A server that does not answer is told of, and asked again another time.
    """
    settle(conf, state, now)
    found = list[str]()
    for server in servers(conf, state):  # one may know all that another would be asked for
        why = due(conf, state, asked, now, seed).get(server.url)
        why = why or _mistrusted(server, untrusted, asked, now)
        if not why:
            continue
        asked[server.url] = now.timestamp()
        try:
            offered = _cacerts(tpm, conf, state, server, now)
        except AgentError as e:
            log.warning("cannot look for a CA's successor (%s): %s", why, e)
            found.append(f"asked {server.url} for its CAs, for {why}: {e}")
            continue
        found += _told(server, why, anchors.learn(conf, state, offered, now))
    return found


def _mistrusted(
    server: Server, untrusted: Collection[str], asked: Mapping[str, float], now: datetime
) -> str | None:
    if server.url not in untrusted:
        return None
    last = _last(asked, server, now)
    return None if last and now < last + DAY else "it, or who issued by it, was not trusted"


def _told(
    server: Server, why: str, judged: list[tuple[Trust, Accepted | Declined]]
) -> Iterator[str]:
    yield f"asked {server.url} for its CAs, for {why}"
    for trust, each in judged:
        if isinstance(each, Accepted):
            yield f"'{anchors.name(each.anchor)}' is trusted from now on ({trust.setting})"
        elif trust in server.extends:
            known = anchors.name(each.certificate)
            yield f"'{known}' does not become trusted ({trust.setting}): {each.why}"


def _cacerts(
    tpm: Tpm, conf: Config, state: State, server: Server, now: datetime
) -> list[Certificate]:
    """As anybody (RFC 7030, 4.1.2); where a server insists on a login, by the LDevID."""
    from agent.est import Est

    more = anchors.successors(server.trust, now)
    seconds = getattr(server.conf, "timeout", timedelta(seconds=SECONDS)).total_seconds()
    shared: dict[str, Any] = {"more": more, "timeout": seconds, "proxy": inputs.proxy(conf)}
    shared["times"] = Times(state.clock)

    def get(client: Mapping[str, Any], credential: "Basic | Secret | None") -> list[Certificate]:
        with network.https(server.trust.configured, **shared, **client) as https:
            return Est(https, server.url, credential=credential).cacerts()

    try:
        return get({}, None)
    except (TlsClientRefused, EstUnauthorized) as e:
        log.debug("%s: by a login", e)
    with ExitStack() as stack:
        return get(_client(stack, tpm, state), _credential(server.conf))


def _client(stack: ExitStack, tpm: Tpm, state: State) -> Mapping[str, Any]:
    chain, key = x509.kept(store.read(state.ldevid_cert)), tpm.public(ldevid_key.HANDLE)
    if not chain or key is None or chain[0].public_key() != key.key:
        return {}
    signer = tpm.signer(ldevid_key.HANDLE, known=True)
    return stack.enter_context(enrol.by_key(signer, chain))


def _credential(conf: LdevidEst | Operational) -> "Basic | Secret | None":
    from agent.est import Basic

    if isinstance(conf, LdevidEst):
        return ldevid_enrol.credential(conf)
    if conf.auth == "mtls":
        return None
    return Basic(conf.username or "", inputs.operational_password(conf))
