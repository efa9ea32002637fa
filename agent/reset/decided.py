"""What of the TPM goes, decided before anything does: by the names of the keys, and the contents of
the NV. Nothing that is not this installation's; more only if somebody asks for just that. And who
has the device until then."""

from collections.abc import Iterator, Mapping
from hashlib import sha256

from cryptography.x509 import Certificate

from agent import store
from agent.config import Config
from agent.errors import HandleOccupied
from agent.reset import handover
from agent.reset.mark import Wishes, owner
from agent.state import State
from agent.steps import assigned, aziot, forgetting, idevid, ldevid_key, registration, tpmd
from agent.tpm import HUB_KEY, Public, Tpm, is_hub_key, templates, unmarshalled
from agent.tpm.templates import KeyType

KINDS: tuple[KeyType, ...] = ("ecc256", "rsa2048")


def owners(conf: Config, state: State) -> tuple[str, ...]:
    """Whom the device was provisioned for, as far as that is known here; else, whom its
    configuration is of, which may be another's by now."""
    known = [each for each in handover.asked(conf, state) if each.get("id_scope")]
    for each in known:
        each.setdefault("endpoint", conf.dps.endpoint)
    found = known or [{"endpoint": conf.dps.endpoint, "id_scope": conf.dps.id_scope}]
    whom = (owner(str(each["endpoint"] or ""), str(each["id_scope"])) for each in found)
    return tuple(dict.fromkeys(whom))


def keys(conf: Config, tpm: Tpm, state: State, wishes: Wishes) -> dict[int, str]:
    """Persistent handles, and the names (hex) of what is there. Raises HandleOccupied if that is to
    be the IDevID and is none."""
    found = [
        _ldevid(tpm),
        _hub_key(conf, tpm, state, known=not wishes.decommission),
        _idevid(conf, tpm) if wishes.burn_idevid else None,
    ]
    return {handle: public.name.hex() for handle, public in filter(None, found)}


def indices(conf: Config, tpm: Tpm, wishes: Wishes) -> dict[int, str]:
    """NV indices that go, with the SHA-256 of what they hold: that of the IDevID certificate, where
    the platform allows it."""
    public = tpm.nv_public(idevid.INDEX) if wishes.burn_idevid else None
    if public is None or (public.platform and not tpm.platform_open()):
        return {}
    data = tpm.nv_read(idevid.INDEX)
    if data is None or _parsed(data) is None:
        return {}
    return {idevid.INDEX: sha256(data).hexdigest()}


def certificate(conf: Config, tpm: Tpm) -> Certificate | None:
    """That of the IDevID, as far as it can be read."""
    found = idevid.stored(tpm, conf.idevid.certificate)
    return _parsed(found[0]) if found else None


def _parsed(data: bytes) -> Certificate | None:
    try:
        return idevid.parsed(data)
    except ValueError:
        return None


# --- keys ---

Kept = tuple[int, Public]


def _ldevid(tpm: Tpm) -> Kept | None:
    found = tpm.public(ldevid_key.HANDLE)
    return (ldevid_key.HANDLE, found) if found and found.ours else None


def _hub_key(conf: Config, tpm: Tpm, state: State, *, known: bool) -> Kept | None:
    """`known`: only one that was issued to this installation."""
    handle = hub_handle(conf)
    found = tpm.public(handle)
    if found is None or not is_hub_key(found):
        return None
    return (handle, found) if not known or _is_known(conf, state, found) else None


def hub_keys(conf: Config, state: State) -> dict[str, int]:
    """Names (hex) of keys for the hub that are this installation's, and where each may be; "" is
    any. By what is on the disk, which may go before the TPM answers."""
    handle = hub_handle(conf)
    if conf.for_edge:
        return {"": handle} if _may_be_edges(conf, state) else {}
    return dict.fromkeys(map(_name, _assigned(state)), handle)


def _name(public: bytes) -> str:
    """Hex; of what is no key, none that any has."""
    try:
        return unmarshalled(public).name.hex()
    except ValueError:
        return "-"


def known(tpm: Tpm, names: Mapping[str, int]) -> dict[int, str]:
    """Those of `hub_keys` that are in the TPM."""
    found = {handle: tpm.public(handle) for handle in set(names.values())}
    return {
        handle: key.name.hex()
        for handle, key in found.items()
        if key and is_hub_key(key) and handle in (names.get(""), names.get(key.name.hex()))
    }


def hub_handle(conf: Config) -> int:
    """Where IoT Edge's TPM service keeps it, the operator says in its configuration."""
    if not conf.for_edge:
        return HUB_KEY
    path = aziot.file(conf)
    return tpmd.key_handle(store.read(path) or b"", path)


def _is_known(conf: Config, state: State, key: Public) -> bool:
    """IoT Edge's service says nothing about its key: where it was to register by TPM, it is that.
    It may have, before we came to know: so it counts that it was told to."""
    if conf.for_edge:
        return _may_be_edges(conf, state)
    return key.blob in set(_assigned(state))


def _may_be_edges(conf: Config, state: State) -> bool:
    told = forgetting.was_told(conf) or registration.was_provisioned(state)
    return conf.dps.attestation == "tpm" and told


def _assigned(state: State) -> Iterator[bytes]:
    kept = assigned.load(state)
    for each in (kept.proven, kept.candidate):
        if each is not None and each.key is not None:
            yield each.key.public


def _idevid(conf: Config, tpm: Tpm) -> Kept | None:
    """By its certificate, or as `manufacture` and the shell scripts make it."""
    found = tpm.public(idevid.HANDLE)
    if found is None:
        return None
    leaf = certificate(conf, tpm)
    certified = leaf is not None and leaf.public_key() == found.key
    if not certified and not any(_is_made(found, kind) for kind in KINDS):
        raise HandleOccupied(
            f"cannot burn the IDevID: {found} at {idevid.HANDLE:#x} is no IDevID key, and there is "
            "no certificate for it",
            handle=hex(idevid.HANDLE),
        )
    return idevid.HANDLE, found


def _is_made(key: Public, kind: KeyType) -> bool:
    made = (templates.idevid(kind), templates.ek_child(kind))
    return any(templates.like(key.blob, template) for template in made)
