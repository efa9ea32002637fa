"""The PKCS#11 token that IoT Edge's key service works with, with the LDevID key in it."""

import json
import pwd
import secrets
from pathlib import Path

from agent import pkcs11, store
from agent.config import Config, Pkcs11
from agent.errors import TokenPinsLost, UserMissing
from agent.state import SLOTS, State, read_json, write_json
from agent.steps import Step, ldevid_key, srk
from agent.tpm import Public, Tpm
from agent.tpm.keyfile import Wrapped


class Token:
    """The token of the configuration, and its PINs: random, of this device alone."""

    def __init__(self, conf: Config, state: State) -> None:
        self.conf, self._owner, self._state = conf.pkcs11, conf.token_owner, state

    def pins(self) -> pkcs11.Pins | None:
        found = read_json(self._state.pins)
        return pkcs11.Pins(**found) if found and found.keys() == {"user", "so"} else None

    def new_pins(self) -> pkcs11.Pins:
        """On disk before they are used: a token whose PIN nobody knows is lost."""
        made = {"user": secrets.token_urlsafe(24), "so": secrets.token_urlsafe(24)}
        store.write(self._state.pins, json.dumps(made).encode() + b"\n")
        return pkcs11.Pins(**made)

    def owner(self) -> tuple[int, int]:
        """(uid, gid) of the user of IoT Edge's key service. Raises UserMissing."""
        try:
            user = pwd.getpwnam(self._owner)
        except KeyError as e:
            raise UserMissing(
                f"cannot make the PKCS#11 token: there is no user '{self._owner}'",
                setting="pkcs11.owner",
            ) from e
        return user.pw_uid, user.pw_gid

    def recover(self, public: Public) -> Wrapped | None:
        """The blobs of an LDevID key, whichever slot's it is, if the token has them."""
        found = pkcs11.look(self.conf.store, self.conf.token)
        for key in found.keys if found else ():
            if key.label in SLOTS and key.public == public.blob:
                return Wrapped(key.public, key.private, srk.HANDLE)
        return None


def token(tpm: Tpm, ours: Token, slot: State) -> Step:
    """With the key of the slot in it, under the slot's name (CKA_LABEL)."""

    def done() -> str | None:
        key = ldevid_key.read(slot.ldevid_key)
        found = _look(tpm, ours)
        if found is None or key is None:
            return None
        if ours.pins() is None:
            raise TokenPinsLost(
                f"cannot use the token '{found.label}': its PINs are not known here",
                path=ours.conf.store,
            )
        if not found.holds(slot.slot, key.public) or found.owner != ours.owner():
            return None
        if not _is_known(ours.conf, slot):
            return None  # made before that was written down
        return f"'{found.label}' in {ours.conf.store}, with the key '{slot.slot}'"

    def apply() -> None:
        directory, label = ours.conf.store, ours.conf.token
        key = _key(slot.slot, ldevid_key.read(slot.ldevid_key))
        _is_to_be(ours.conf, slot)
        if _look(tpm, ours) is not None:
            pkcs11.put(directory, label, key, below=tpm.serialized(srk.HANDLE))
            pkcs11.own(directory, ours.owner())
            return
        store.make(directory.parent)  # the key service comes through it
        pkcs11.create(
            directory,
            tpm,
            srk.HANDLE,
            label=label,
            pins=ours.pins() or ours.new_pins(),
            owner=ours.owner(),
            keys=[key],
        )

    return Step("token", done, apply)


def _is_to_be(conf: Pkcs11, state: State) -> None:
    """Before a token is made, it is written down which, and where: the configuration is free to
    name another one later."""
    if not _is_known(conf, state):
        write_json(state.token, {"made": [*_written_down(state), _named(conf)]})


def _is_known(conf: Pkcs11, state: State) -> bool:
    return _named(conf) in _written_down(state)


def _named(conf: Pkcs11) -> dict[str, str]:
    return {"store": str(conf.store), "token": conf.token}


def _written_down(state: State) -> list[dict[str, str]]:
    found = (read_json(state.token) or {}).get("made")
    kept = found if isinstance(found, list) else []
    return [each for each in kept if isinstance(each, dict) and {*each} == {"store", "token"}]


def made(conf: Pkcs11, state: State) -> list[tuple[Path, str]]:
    """Stores, and the tokens in them: those that were made, and the one of the configuration."""
    kept = [(Path(str(each["store"])), str(each["token"])) for each in _written_down(state)]
    return list(dict.fromkeys([*kept, (conf.store, conf.token)]))


def _look(tpm: Tpm, ours: Token) -> pkcs11.Token | None:
    """The token, if it is there; it must live below our SRK."""
    if tpm.public(srk.HANDLE) is None:
        return None
    return pkcs11.look(ours.conf.store, ours.conf.token, below=tpm.serialized(srk.HANDLE))


def _key(label: str, wrapped: Wrapped | None) -> pkcs11.Key:
    if wrapped is None:
        raise RuntimeError("the LDevID key is made before the token")
    public = wrapped.look()
    if public.key is None:
        raise RuntimeError("the LDevID key is an asymmetric one")
    return pkcs11.Key(
        label, wrapped.public, wrapped.private, public.key, public.signs, public.decrypts
    )
