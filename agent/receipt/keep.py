"""Whether the receipt says what is, and what it says else; written at the end of a run.

The file is replaced as a whole, so there is the one before or the one after. What is there is
looked at before a line is put behind it: nobody's changes are signed.
"""

import contextlib
import logging
import secrets
from collections.abc import Iterator
from hashlib import sha256

from cryptography.hazmat.primitives.serialization import Encoding

from agent import ek, events, journal, store
from agent.errors import AgentError, ReceiptInvalid, ReceiptNotWritten
from agent.receipt import facts, lines
from agent.receipt.facts import Facts, Here
from agent.receipt.lines import Ek, Line, Receipt
from agent.receipt.signer import Signer, sealed, signer
from agent.state import read_json
from agent.steps import preflight
from agent.tpm import Tpm

log = logging.getLogger(__name__)
MOST = 4096  # lines; then another receipt is begun


def after(here: Here, tpm: Tpm, *, ask: bool = False) -> None:
    """At the end of a run that went well. What cannot be written is told, and is no failure: the
    device is not worse for it, and the next run tries again. `ask`: see facts.now."""
    with _told():
        record(here, tpm, ask=ask)


def is_due(here: Here, tpm: Tpm) -> bool:
    """Whether `record` would write. Raises what reading files does."""
    before = _last(_there(here))
    now = facts.now(here, preflight.who(here.conf, tpm), before, ask=False)
    return bool(facts.did(before, now))


def record(here: Here, tpm: Tpm, *, ask: bool = False) -> None:
    """What is other than the receipt says is written behind it. Raises TpmError, and what reading
    and writing files does."""
    there = _there(here)
    before = _last(there)
    found = facts.now(here, preflight.who(here.conf, tpm), before, ask=ask)
    if did := facts.did(before, found):
        _append(here, tpm, there, did, found)


def ended(here: Here, tpm: Tpm, did: str) -> None:
    """An owner has let this device go: `did` is "reset" or "decommissioned"; nothing of the facts
    is true any more, and the next provisioning is a first one. Told as by `after`."""
    with _told():
        there = _there(here)
        if there is not None and _last(there) is not None:
            _append(here, tpm, there, [did], None)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except AgentError as e:
        told = ReceiptNotWritten(f"cannot write the receipt: {e} [{e.code}]")
        about = journal.about(events.failed(ReceiptNotWritten), step="receipt", code=told.code)
        log.warning("%s [%s]\nRemedy: %s", told, told.code, told.remedy, extra=about)


# --- what is there ---


def _there(here: Here) -> Receipt | None:
    """One that is damaged counts for nothing, and is told."""
    if (data := store.read(here.state.receipt)) is None:
        return None
    try:
        return lines.parse(data)
    except ReceiptInvalid as e:
        log.debug("another receipt is begun: %s", e)
        return None


def _last(there: Receipt | None) -> Facts | None:
    """What the receipt says that is; None before the first provisioning, and after the last."""
    found = there.events[-1]["facts"] if there and there.events else None
    return dict(found) if found is not None else None


# --- what comes behind it ---


def _append(
    here: Here, tpm: Tpm, there: Receipt | None, did: list[str], found: Facts | None
) -> None:
    event: Line = {"did": did, "facts": found, **facts.at(here.state)}
    with signer(here.conf, tpm) as by:
        shown = _ek(tpm) if here.conf.receipt.ek else None
        goes_on = there is not None and _goes_on(there, here, by, shown)
        if there is not None and goes_on:
            body, shown = there.body, there.ek
        else:
            body = _begun(here, by, shown)
        data = sealed(tpm, by, lines.chained(body, [event]), here.conf.receipt.pcrs, shown)
    lines.parse(data)  # what the TPM has signed is what it was given
    if not goes_on:
        _put_aside(here)
    store.write(here.state.receipt, data, mode=0o644)


def _ek(tpm: Tpm) -> Ek:
    """The certified EK, which is kept at its handle, or another of another template is."""
    kind, leaf = ek.certificate(tpm)
    public = tpm.public(kind.handle)
    if public is None or public.key != leaf.read.public_key():
        public = ek.made(tpm, kind)
    certificates = (leaf.der, *(each.der for each in ek.beside(tpm)))
    return Ek(public.blob, certificates, secrets.token_bytes(lines.SALT))


def _goes_on(there: Receipt, here: Here, by: Signer, shown: Ek | None) -> bool:
    """It is of this TPM, this key, and tells of the EK or not, as it is to be."""
    header = there.header
    made_with = (header["srk"], header["signer"], header["key"], there.idevid[:1])
    srk = _srk(here) or header["srk"]  # forgotten, in a reset
    now = (srk, by.kind, lines.text(by.spki), (by.leaf,) if by.leaf else ())
    return made_with == now and _same(there.ek, shown) and there.length < MOST


def _same(one: Ek | None, other: Ek | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.public, one.certificates) == (other.public, other.certificates)


def _begun(here: Here, by: Signer, shown: Ek | None) -> bytes:
    former = store.read(here.state.receipt)
    chain = [each.public_bytes(Encoding.DER) for each in by.chain()]
    header: Line = {
        "receipt": lines.FORMAT,
        "after": sha256(former).hexdigest() if former is not None else None,
        "signer": by.kind,
        "key": lines.text(by.spki),
        "idevid": [lines.text(each) for each in chain] or None,
        "ek": sha256(shown.written()).hexdigest() if shown else None,
        "srk": _srk(here),
    }
    return lines.chained(b"", [header])


def _srk(here: Here) -> str | None:
    """By which this TPM is told from others (agent/steps/same_tpm.py)."""
    found = (read_json(here.state.tpm) or {}).get("srk")
    return found if isinstance(found, str) else None


def _put_aside(here: Here) -> None:
    """What the new one names by its digest is kept, whatever it is."""
    if (former := store.read(here.state.receipt)) is not None:
        log.warning("another receipt begins; the former is '%s' now", here.state.receipt_before)
        store.write(here.state.receipt_before, former, mode=0o644)
