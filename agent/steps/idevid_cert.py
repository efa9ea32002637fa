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
from agent.errors import IdevidOther, IssuedWrong, NvFull, PlatformLocked
from agent.state import State
from agent.steps import Step, idevid, pending
from agent.steps.idevid import HANDLE, INDEX
from agent.tpm import Tpm
from agent.x509_idevid import Who

log = logging.getLogger(__name__)
Issue = Callable[[CertificateSigningRequest], tuple[Sequence[Certificate], Sequence[Certificate]]]


def idevid_cert(
    tpm: Tpm, conf: Idevid, who: Callable[[], Who], issue: Issue, state: State, *, force: bool
) -> Step:
    """`issue`: who answers a CSR, with the certificate and what may help to chain it. `force`: a
    new certificate, though the one that is there is good."""
    before = cache(lambda: _now(tpm, conf) if force else None)  # of the first look

    def done() -> str | None:
        old, there = before(), idevid.stored(tpm, conf.certificate)
        if there is None or there[0] in (old, _kept(state.idevid_issued)):
            return None  # the latter: stored, and the run was cut off just then
        leaf = idevid.chain(tpm, conf.trust, conf.certificate)[0]
        _same_board(leaf, who())
        notes = x509_idevid.shortcomings(leaf, who())
        return "; ".join([f"{_place(tpm, there[1])}: {x509.describe(leaf)}", *notes])

    def apply() -> None:
        _may_store(tpm)
        leaf = _left(tpm, conf, who(), state.idevid_issued, before())
        if leaf is None:
            leaf = _enrolled(tpm, conf, who(), issue, state)
            store.write(state.idevid_issued, x509.pem([leaf]), mode=0o644)
        idevid.trusted(leaf, conf.trust)
        _put(tpm, leaf.public_bytes(Encoding.DER), conf.certificate)
        store.remove(state.idevid_issued)
        store.remove(state.idevid_pending)

    return Step("idevid-cert", done, apply)


def _now(tpm: Tpm, conf: Idevid) -> bytes | None:
    found = idevid.stored(tpm, conf.certificate)
    return found[0] if found else None


def _same_board(leaf: Certificate, who: Who) -> None:
    """The scripts' certificates have no serialNumber; one that has another is about another board,
    or somebody changed what boards are called. Raises IdevidOther."""
    named = x509_idevid.serial_number(leaf.subject)
    if named and named != who.serial_number:
        raise IdevidOther(
            f"cannot take this board for '{who.serial_number}': its IDevID certificate names "
            f"'{named}'"
        )


def _place(tpm: Tpm, where: str) -> str:
    """What must be known of a place that is not the one the TCG wants: the platform's NV."""
    public = tpm.nv_public(INDEX)
    if public is None:
        return f"in {where}, because the TPM had no room: gone with this disk"
    return (
        where if public.platform else f"{where}, which is the owner's: gone if the TPM is cleared"
    )


# --- issued ---


def request(tpm: Tpm, who: Who) -> CertificateSigningRequest:
    with tpm.private_key(HANDLE) as key:
        return x509_idevid.request(key, who)


def _left(tpm: Tpm, conf: Idevid, who: Who, file: Path, old: bytes | None) -> Certificate | None:
    """The certificate that an earlier run got and could not store, if it is what this run would
    get; not the one that a new one is wanted for."""
    found = x509.kept(store.read(file))
    if not found or _kept(file) == old:
        return None
    try:
        _check(found, request(tpm, who), conf, [])
    except IssuedWrong as e:
        log.debug("'%s' is not used: %s", file, e)
        return None
    return found[0]


def _kept(file: Path) -> bytes | None:
    found = x509.kept(store.read(file))
    return found[0].public_bytes(Encoding.DER) if found else None


def _enrolled(tpm: Tpm, conf: Idevid, who: Who, issue: Issue, state: State) -> Certificate:
    x509.anchors(conf.trust)  # readable? Else a certificate would be issued for nothing
    url = conf.est.url if conf.est else ""
    csr = pending.request(state.idevid_pending, tpm.public(HANDLE), url, lambda: request(tpm, who))
    with pending.held(state.idevid_pending, csr, url):
        answer, others = issue(csr)
    return _check(answer, csr, conf, others)


def _check(
    answer: Sequence[Certificate],
    csr: CertificateSigningRequest,
    conf: Idevid,
    others: Sequence[Certificate],
) -> Certificate:
    """The certificate for this board. Raises IssuedWrong. A TCG_CSR_IDEVID has no place for a CN:
    what such a CA puts there is its own affair."""
    known, now = x509.anchors(conf.trust), datetime.now(UTC)
    named = conf.csr == "pkcs10"
    leaf = x509_issued.issued(answer, csr, known, [*known, *others], now, named=named)[0]
    x509_idevid.check(leaf, csr)
    return leaf


# --- stored ---


def _may_store(tpm: Tpm) -> None:
    """Before a certificate is issued that could not take the old one's place. Raises
    PlatformLocked."""
    found = tpm.nv_public(INDEX)
    if found is not None and found.platform and not tpm.platform_open():
        raise PlatformLocked(
            f"cannot exchange the certificate at NV {INDEX:#x}: the platform hierarchy is locked"
        )


def _put(tpm: Tpm, data: bytes, file: Path | None) -> None:
    """Into NV: the platform's if the firmware has left that open, else the owner's. If there is no
    room at all, into the file, if there is to be one. Only a certificate for the same key gives
    way, and not before the new one is known to fit. Raises NvOccupied, NvFull."""
    there = tpm.nv_read(INDEX)
    if there == data:
        return
    if there is not None and idevid.is_for(there, tpm.public(HANDLE)):
        _exchange(tpm, there, data)
        return
    try:
        _store(tpm, data)
    except NvFull as e:
        _put_into(file, data, tpm, e)


def _exchange(tpm: Tpm, old: bytes, new: bytes) -> None:
    """An index has the size of what is in it. What becomes of a power cut in between: the new one
    is in a file, and the next run goes on with that."""
    if len(new) > (most := tpm.budget().nv_index_max):
        raise NvFull(f"cannot store {len(new)} bytes at NV {INDEX:#x}: at most {most} fit")
    tpm.nv_undefine(INDEX)
    try:
        _store(tpm, new)
    except NvFull:
        _store(tpm, old)
        raise


def _store(tpm: Tpm, data: bytes) -> None:
    if (found := tpm.nv_public(INDEX)) is not None:
        tpm.nv_store(INDEX, data, found.definer)  # finishes what was cut off; all else is refused
        return
    try:
        tpm.nv_store(INDEX, data, "platform")
    except PlatformLocked as e:
        log.warning("%s: NV %#x is defined by the owner", e, INDEX)
        tpm.nv_store(INDEX, data, "owner")


def _put_into(file: Path | None, data: bytes, tpm: Tpm, why: NvFull) -> None:
    """Of one board only: what is there of another's may be all that this has. Raises NvFull."""
    if file is None:
        raise why
    other = store.read(file)
    if other is not None and not idevid.is_for(other, tpm.public(HANDLE)):
        why.args = (f"{why}; and '{file}' is another board's",)
        raise why
    log.warning("%s: the IDevID certificate goes into '%s'", why, file)
    store.write(file, x509.pem([x509.leading(data)]), mode=0o644)
