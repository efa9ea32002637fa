"""Every certificate that this device lives by, as it is found: nothing is judged here, nobody is
asked over the network, and no program is run."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509 import Certificate

from agent import anchors, pkcs11, store, x509
from agent.config import NEVER, Config, Ldevid, share
from agent.errors import (
    AgentError,
    TokenBusy,
    TokenForeign,
    TokenUnreadable,
    TrustUnreadable,
)
from agent.health import certd
from agent.health.judge import US, Found, Window, of_key, window, window_of_certd
from agent.state import State, read_json
from agent.steps import idevid, ldevid_key
from agent.steps.srk import HANDLE as SRK
from agent.steps.torn import MOMENT
from agent.tpm import Tpm
from agent.tpm.keyfile import Wrapped

LDEVID, IDEVID = "ldevid", "idevid"
T = TypeVar("T")
Keys = dict[str, list[CertificatePublicKeyTypes | None]]
Hitch = Callable[[AgentError], object]


def gather(
    tpm: Tpm, conf: Config, state: State, stopped: Mapping[str, str], hitch: Hitch | None = None
) -> list[Found]:
    """`stopped`: by certd's id, the words in which a service said that it gave a renewal up.

    `hitch` is told what keeps the PKCS#11 store from being read: the keys in it are unknown then.
    Raises TpmError, NoPermission; a file that cannot be understood is found as such.
    """
    return [
        *_ldevid(tpm, conf, state),
        *_idevid(tpm, conf),
        *_kept(conf, stopped, hitch),
        *_anchors(conf, state),
    ]


def found_kept(conf: Config, wanted: str) -> Found | None:
    """One of those that IoT Edge's services keep, by its id."""
    return next((each for each in _kept(conf, {}) if each.name == wanted), None)


# --- our own ---


def _ldevid(tpm: Tpm, conf: Config, state: State) -> Iterator[Found]:
    if conf.ldevid is None or conf.dps.attestation != "x509":
        return
    chain = _chain(store.read(state.ldevid_cert))
    key = tpm.public(ldevid_key.HANDLE)
    static = conf.operational is not None and conf.operational.issued_by == "static"
    seen = static or not conf.for_edge
    shown = "shown to DPS and the hub" if seen else "logs in at the EST servers"
    names = {LDEVID: f"who this device is to its owner; {shown}"}
    if static and conf.for_edge:
        names[certd.DEVICE_ID] = f"{shown}: it is the LDevID"
    for name, what in names.items():
        yield Found(
            name=name,
            what=what,
            path=state.ldevid_cert,
            chain=chain,
            key=key.key if key else None,
            has_key=key is not None,
            window=_own_window(chain, conf.ldevid, state),
            roots=_roots(conf.ldevid, state),
            by=US if conf.ldevid.recover and conf.ldevid.renew_at != NEVER else "",
            fixed=conf.ldevid.renew_at == NEVER,
        )


def _own_window(chain: Sequence[Certificate] | None, conf: Ldevid, state: State) -> Window | None:
    if not chain or conf.renew_at == NEVER:
        return None
    return _readable(
        lambda: window(chain[0], share(conf.renew_at), share(conf.spread), seed(state))
    )


def seed(state: State) -> bytes:
    """What is this device's alone, and stays for as long as its TPM does."""
    kept = read_json(state.tpm) or {}
    return str(kept.get("ek") or kept.get("srk") or "").encode()


def _roots(conf: Ldevid, state: State) -> list[Certificate] | None:
    """Those of the configuration, and what came after them; None if they cannot be read, which is
    told where they themselves are."""
    try:
        if conf.est:
            return anchors.effective(anchors.issuance(conf.est, state), datetime.now(UTC))
        return x509.anchors(conf.ca.certificate) if conf.ca else None
    except TrustUnreadable:
        return None


def _idevid(tpm: Tpm, conf: Config) -> Iterator[Found]:
    if conf.dps.attestation != "x509":
        return
    stored, key = idevid.stored(tpm, conf.idevid.certificate), tpm.public(idevid.HANDLE)
    if stored is None and key is None and not conf.idevid.require:
        return
    data, place = stored or (None, str(conf.idevid.certificate))
    yield Found(
        name=IDEVID,
        what="who its maker says this device is; logs in for the first LDevID",
        path=Path(place),
        chain=_stored(data),
        key=key.key if key else None,
        has_key=key is not None,
        window=None,
        roots=x509.kept(store.read(conf.idevid.trust)) or None,
        needed=conf.idevid.require,
    )


def _stored(data: bytes | None) -> list[Certificate] | None:
    if data is None:
        return None
    found = _readable(lambda: idevid.parsed(data))
    return [found] if found else []


# --- IoT Edge's ---


def _kept(conf: Config, stopped: Mapping[str, str], hitch: Hitch | None = None) -> list[Found]:
    """Each service may be in the middle of a renewal: what does not fit is looked at once more."""
    seen = list(_at_once(conf, stopped, hitch))
    if all(map(_fits, seen)):
        return seen
    time.sleep(MOMENT)
    return list(_at_once(conf, stopped, hitch))


def _fits(found: Found) -> bool:
    """Not so while its service has written one of certificate and key, and not yet the other."""
    if not found.chain:
        return found.chain is None
    try:
        return of_key(found, found.chain[0]) is None
    except x509.NONSENSE:
        return False


def _at_once(conf: Config, stopped: Mapping[str, str], hitch: Hitch | None) -> Iterator[Found]:
    wanted = certd.kept(conf)
    known = _keys(conf, hitch) if wanted else {}
    keys = known or {}
    for each in wanted:
        chain = _chain(store.read(each.path))
        pairs = keys.get(each.id, ())
        needed = each.needed or chain is not None
        has_key = bool(pairs) or store.exists(certd.key_file(conf.aziot.state, each.id))
        yield Found(
            name=each.id,
            what=each.what,
            path=each.path,
            chain=chain,
            key=pairs[0] if len(pairs) == 1 else None,
            has_key=has_key or known is None,
            window=_service_window(chain, each),
            roots=None,  # whoever the operator's EST server is of
            stopped=stopped.get(each.id, ""),
            needed=needed,
            by=each.unit if needed and each.renewed else "",
            fixed=not each.renewed,
        )


def _service_window(chain: Sequence[Certificate] | None, kept: certd.Kept) -> Window | None:
    if not chain or not kept.renewed:
        return None
    return _readable(lambda: window_of_certd(chain[0], kept.threshold, kept.retry, kept.unit))


def _keys(conf: Config, hitch: Hitch | None) -> Keys | None:
    """The public keys of the pairs in the token, by their labels; None if it cannot be read."""
    try:
        token = pkcs11.look(conf.pkcs11.store, conf.pkcs11.token)
    except (TokenUnreadable, TokenBusy, TokenForeign) as e:
        if hitch:
            hitch(e)
        return None
    found: Keys = {}
    for key in token.keys if token else ():
        public = Wrapped(key.public, key.private, SRK).look().key
        found.setdefault(key.label, []).append(public)
    return found


# --- whom we trust ---


def _anchors(conf: Config, state: State) -> Iterator[Found]:
    """A file of CA certificates is as good as the one in it that lasts longest; where CAs name
    their successors, as the first of those to expire that has none."""
    followed = {path: found for _, path, found in anchors.in_force(conf, state)}
    for name, (path, what) in trust_files(conf).items():
        chain = _chain(store.read(path))
        chain = sorted(chain, key=_end, reverse=True) if chain else chain
        yield Found(
            name=name,
            what=what,
            path=path,
            chain=followed.get(path, chain),
            key=None,
            has_key=True,
            window=None,
            roots=None,
        )


def trust_files(conf: Config) -> dict[str, tuple[Path, str]]:
    """Every file of CA certificates that is used, by its setting, and what for; each file once."""
    if conf.dps.attestation == "tpm":
        return {}
    named: dict[str, tuple[Path, str]] = {}
    if conf.ldevid and conf.ldevid.est:
        est = conf.ldevid.est
        named["ldevid.est.trust"] = est.trust, "vouches for the EST server of the LDevID"
        if est.issuer:
            named["ldevid.est.issuer"] = est.issuer, "issues the LDevID"
    if conf.ldevid and conf.ldevid.ca:
        named["ldevid.ca.certificate"] = conf.ldevid.ca.certificate, "issues the LDevID"
    if conf.operational and conf.operational.issued_by == "est":
        trust = conf.operational.trust
        named["operational.trust"] = trust, "vouches for the operational EST server"
    if conf.idevid.require:
        named["idevid.trust"] = conf.idevid.trust, "issued the IDevID"
    once: dict[Path, str] = {}
    for name, (path, _) in named.items():
        once.setdefault(path, name)
    return {name: named[name] for name in once.values()}


def _end(certificate: Certificate) -> datetime:
    return certificate.not_valid_after_utc


# --- reading ---


def _chain(data: bytes | None) -> list[Certificate] | None:
    """None: no file; empty: nothing in it can be read."""
    return None if data is None else x509.kept(data)


def _readable(make: Callable[[], T]) -> T | None:
    """None for a certificate of which some part makes no sense: it is judged as such."""
    try:
        return make()
    except x509.NONSENSE:
        return None
