"""The IDevID key: made once, at the factory, for the life of the board."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from agent import ek, x509
from agent.config_factory import Idevid
from agent.errors import IdevidKeyOther, NvOccupied
from agent.steps import Step
from agent.steps.idevid import HANDLE, INDEX
from agent.tpm import Public, Tpm, Transient, approved_files, templates

ENDORSEMENT = bytes.fromhex("4000000b")  # TPM_RH_ENDORSEMENT is its own name (part 1, 16)
HASHES = {b"\x00\x0b": "sha256", b"\x00\x0c": "sha384", b"\x00\x0d": "sha512"}  # TPM_ALG_ID


def idevid_key(tpm: Tpm, conf: Idevid, parent: Callable[[], ek.Kind]) -> Step:
    """`parent`: the EK that an `ek-child` is made below."""
    made: set[bytes] = set()  # names of keys, to make none twice: a discrete TPM takes seconds

    def done() -> str | None:
        have = tpm.public(HANDLE)
        if have is None:
            return None
        if have.name not in made and not _asked_for(tpm, have, conf, parent()):
            raise IdevidKeyOther(
                f"cannot make the IDevID a {conf.key} key of profile {conf.profile}"
                f"{_bound_by(conf)}: there is another key at {HANDLE:#x}, {have}"
            )
        made.add(have.name)
        return f"{HANDLE:#x} {have}, profile {conf.profile}{_bound_by(conf)}"

    def apply() -> None:
        with _made(tpm, conf, parent()) as key:
            _leave_others(tpm, key.public)
            tpm.persist(key, HANDLE)
            made.add(key.public.name)

    return Step("idevid-key", done, apply)


def _bound_by(conf: Idevid) -> str:
    return f", for boot states that '{conf.policy_key}' approves" if conf.policy_key else ""


def policy(maker: Path) -> bytes:
    """The authPolicy of a key that works in boot states alone which this one has approved. Raises
    ApprovalUnreadable."""
    return approved_files.maker(maker).policy


def _policy(conf: Idevid) -> bytes | None:
    return policy(conf.policy_key) if conf.policy_key else None


def _made(tpm: Tpm, conf: Idevid, parent: ek.Kind) -> AbstractContextManager[Transient]:
    if conf.profile == "tcg":
        return tpm.idevid(conf.key, _policy(conf))
    return tpm.ek_child(parent.handle, conf.key)


def _leave_others(tpm: Tpm, key: Public) -> None:
    """A key whose certificate cannot be stored, because something else is in its place, is not
    kept. Raises NvOccupied."""
    if tpm.nv_public(INDEX) is None:
        return
    try:
        if x509.leading(tpm.nv_read(INDEX) or b"").public_key() == key.key:
            return
        what = "a certificate for another key"
    except ValueError:
        what = "something else than a certificate"
    raise NvOccupied(
        f"cannot make the IDevID: {what} is at NV {INDEX:#x}, and no key at {HANDLE:#x}",
        index=hex(INDEX),
    )


# --- is it what the configuration asks for? ---


def _asked_for(tpm: Tpm, have: Public, conf: Idevid, parent: ek.Kind) -> bool:
    if conf.profile == "ek-child":
        alike = templates.like(have.blob, templates.ek_child(conf.key))
        return alike and _is_below(tpm, have, parent)
    wanted = _policy(conf)
    if not templates.like(have.blob, templates.idevid(conf.key, wanted)):
        return False
    with tpm.idevid(conf.key, wanted) as same:
        return same.public.name == have.name


def _is_below(tpm: Tpm, have: Public, parent: ek.Kind) -> bool:
    """The qualified name of an object is made of the names of all above it (TPM 2.0 Library, part
    1, 26.5): so it tells what a key is a child of."""
    above = tpm.public(parent.handle) or ek.made(tpm, parent)
    return tpm.qualified_name(HANDLE) == _qualified(_qualified(ENDORSEMENT, above), have)


def _qualified(above: bytes, key: Public) -> bytes:
    algorithm = key.name[:2]
    return algorithm + hashlib.new(HASHES[algorithm], above + key.name).digest()
