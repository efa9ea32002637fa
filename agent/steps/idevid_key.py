"""The IDevID key: made once, at the factory, for the life of the board."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from agent import x509
from agent.config_factory import Idevid
from agent.errors import IdevidKeyOther, NvOccupied
from agent.steps import Step
from agent.steps.idevid import HANDLE, INDEX
from agent.tpm import Public, Tpm, Transient

ENDORSEMENT = bytes.fromhex("4000000b")  # TPM_RH_ENDORSEMENT is its own name (part 1, 16)


def idevid_key(tpm: Tpm, conf: Idevid, ek: Callable[[], int]) -> Step:
    """`ek`: the handle of the EK, which is the parent of an `ek-child`."""

    def done() -> str | None:
        have = tpm.public(HANDLE)
        if have is None:
            return None
        found = profile(tpm, have, ek())
        if (found, kind(have)) != (conf.profile, conf.key):
            what = f"it is {have}, {found or 'of no profile we know'}"
            raise IdevidKeyOther(
                f"cannot make the IDevID a {conf.key} key of profile {conf.profile}: there is a "
                f"key at {HANDLE:#x}, and {what}"
            )
        return f"{HANDLE:#x} {have}, profile {found}"

    def apply() -> None:
        with _made(tpm, conf, ek()) as key:
            _leave_others(tpm, key.public)
            tpm.persist(key, HANDLE)

    return Step("idevid-key", done, apply)


def _made(tpm: Tpm, conf: Idevid, ek: int) -> AbstractContextManager[Transient]:
    if conf.profile == "tcg":
        return tpm.idevid(conf.key)
    return tpm.ek_child(ek, conf.key)


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


def kind(key: Public) -> str:
    return "rsa2048" if isinstance(key.key, RSAPublicKey) else "ecc256"


def profile(tpm: Tpm, key: Public, ek: int) -> str | None:
    """'tcg' or 'ek-child', or None if it is a key that no IDevID should be.

    The qualified name of an object is made of the names of all above it (TPM 2.0 Library, part 1,
    26.5): so it tells, without a key being made anew, what this one is a child of.
    """
    if not (key.signs and key.bound):
        return None
    above = {"tcg": ENDORSEMENT, "ek-child": tpm.qualified_name(ek)}
    there = tpm.qualified_name(HANDLE)
    return next((name for name, parent in above.items() if there == _below(parent, key)), None)


def _below(parent: bytes, key: Public) -> bytes:
    """The qualified name, with its algorithm, of a key with nameAlg SHA-256 below that parent."""
    return key.name[:2] + sha256(parent + key.name).digest()
