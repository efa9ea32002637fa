"""The IDevID certificate: issued by the board's maker, kept in the TPM beside the key."""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate, CertificateSigningRequest

from agent import store, x509, x509_idevid, x509_issued
from agent.config_factory import Idevid
from agent.errors import NvFull, PlatformLocked
from agent.state import State
from agent.steps import Step, idevid, pending
from agent.steps.idevid import HANDLE, INDEX
from agent.tpm import Public, Tpm

log = logging.getLogger(__name__)
Issue = Callable[[CertificateSigningRequest], tuple[Sequence[Certificate], Sequence[Certificate]]]


def idevid_cert(
    tpm: Tpm,
    conf: Idevid,
    who: Callable[[], x509_idevid.Who],
    issue: Issue,
    state: State,
    *,
    force: bool,
) -> Step:
    """`issue`: who answers a CSR, with the certificate and what may help to chain it. `force`: a
    new certificate, though the one that is there is good."""

    @cache
    def before() -> bytes | None:
        """What has to give way; nothing, if an earlier run got a new one and could not store it."""
        pending = _issued(tpm, state.idevid_issued)
        return _now(tpm, conf) if force and pending is None else None

    def done() -> str | None:
        old, there = before(), idevid.stored(tpm, conf.certificate)  # `old` is of the first look
        if there is None or there[0] == old or _issued(tpm, state.idevid_issued):
            return None
        if tpm.nv_public(INDEX) is None and not _is_for(there[0], tpm.public(HANDLE)):
            return None  # a file, and of another board that this disk was in
        leaf = idevid.chain(tpm, conf.trust, conf.certificate)[0]
        notes = x509_idevid.shortcomings(leaf, who())
        return "; ".join([f"{_place(tpm, there[1])}: {x509.describe(leaf)}", *notes])

    def apply() -> None:
        leaf = _issued(tpm, state.idevid_issued)
        if leaf is None:
            leaf = _enrolled(tpm, conf, who(), issue, state)
            store.write(state.idevid_issued, x509.pem([leaf]), mode=0o644)
        _put(tpm, leaf, conf.certificate)
        store.remove(state.idevid_issued)
        store.remove(state.idevid_pending)

    return Step("idevid-cert", done, apply)


def _now(tpm: Tpm, conf: Idevid) -> bytes | None:
    found = idevid.stored(tpm, conf.certificate)
    return found[0] if found else None


def _place(tpm: Tpm, where: str) -> str:
    """What must be known of a place that is not the one the TCG wants: the platform's NV."""
    public = tpm.nv_public(INDEX)
    if public is None:
        return f"in {where}, because the TPM had no room: gone with this disk"
    return (
        where if public.platform else f"{where}, which is the owner's: gone if the TPM is cleared"
    )


# --- issued ---


def _issued(tpm: Tpm, file: Path) -> Certificate | None:
    """The certificate that an earlier run got for this key, and could not store."""
    found, key = x509.kept(store.read(file)), tpm.public(HANDLE)
    return found[0] if found and key and found[0].public_key() == key.key else None


def request(tpm: Tpm, who: x509_idevid.Who) -> CertificateSigningRequest:
    with tpm.private_key(HANDLE) as key:
        return x509_idevid.request(key, who)


def _enrolled(
    tpm: Tpm, conf: Idevid, who: x509_idevid.Who, issue: Issue, state: State
) -> Certificate:
    url = conf.est.url if conf.est else ""
    csr = pending.request(state.idevid_pending, tpm.public(HANDLE), url, lambda: request(tpm, who))
    with pending.held(state.idevid_pending, csr, url):
        answer, others = issue(csr)
    known = x509.anchors(conf.trust)
    leaf = x509_issued.issued(answer, csr, known, [*known, *others], datetime.now(UTC))[0]
    x509_idevid.check(leaf, csr)
    return leaf


# --- stored ---


def _put(tpm: Tpm, leaf: Certificate, file: Path) -> None:
    """Into NV: the platform's if the firmware has left that open, else the owner's; and if there is
    no room at all, into the file. Only a certificate for the same key gives way; raises
    NvOccupied."""
    data, there = leaf.public_bytes(Encoding.DER), tpm.nv_read(INDEX)
    if there == data:
        return
    if there is not None and _is_for(there, tpm.public(HANDLE)):
        tpm.nv_undefine(INDEX)
    try:
        _store(tpm, data)
    except NvFull as e:
        other = store.read(file)
        if other is not None and not _is_for(other, tpm.public(HANDLE)):
            e.args = (f"{e}; and '{file}' is another board's",)
            raise
        log.warning("%s: the IDevID certificate goes into '%s'", e, file)
        store.write(file, x509.pem([leaf]), mode=0o644)


def _is_for(data: bytes, key: Public | None) -> bool:
    """Is it a certificate, PEM or as in NV, for this key?"""
    try:
        found = x509.parse(data)[0] if data.startswith(b"-----") else x509.leading(data)
    except ValueError:
        return False
    return key is not None and found.public_key() == key.key


def _store(tpm: Tpm, data: bytes) -> None:
    if (found := tpm.nv_public(INDEX)) is not None:
        tpm.nv_store(INDEX, data, found.definer)  # finishes what was cut off; all else is refused
        return
    try:
        tpm.nv_store(INDEX, data, "platform")
    except PlatformLocked as e:
        log.warning("%s: NV %#x is defined by the owner", e, INDEX)
        tpm.nv_store(INDEX, data, "owner")
