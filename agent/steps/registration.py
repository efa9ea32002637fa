"""IoT Edge works with its configuration, and really is provisioned with it.

What DPS registered is not the whole configuration. Where only the rest has changed (another slot of
the LDevID, say), IoT Edge takes it over and stays who it is; to have it ask DPS anew would make it
forget that first. With issued_by = "static" DPS and the hub know the very LDevID: with another one
it must be registered anew.
"""

from collections.abc import Callable, Collection
from hashlib import sha256
from typing import Any, TypeGuard

from agent import aziot, aziot_identity, store, x509
from agent.config import Config
from agent.errors import AttestationFailed, HubNotReached, IotedgeFailed, NotProvisioned
from agent.state import State, read_json, write_json
from agent.steps import Step, torn
from agent.steps.aziot import desired, file

Who = Callable[[], str]


def registration(conf: Config, state: State, who: Who) -> Step:
    """IoT Edge applied this very file, and its identity service says it is who we say.

    That the file was applied only `iotedge` knows: we keep the digest of what it was given.
    """

    def done() -> str | None:
        given = store.read(file(conf))
        if not given or not _was_applied(given, state) or _moved_on(conf, state, who()):
            return None
        now = aziot_identity.provisioning(conf.aziot.identity_socket)
        if not _is_ours(now, conf, who()):
            return None
        return f"device '{now.device_id}' at hub '{now.hub}'"

    return Step("registration", done, lambda: _apply(conf, state, who()), after_us=True)


def _apply(conf: Config, state: State, who: str) -> None:
    torn.remove(conf.aziot.state / "certd/certs")
    given, secrets = store.read(file(conf)) or b"", _secrets(conf, state, who)
    if _was_applied(given, state) and not _moved_on(conf, state, who):
        if _is_ours(_patiently(conf, who, secrets), conf, who):
            return
        store.remove(state.registration)  # true no more
    dps = _dps(conf, state, who)
    kept = {"dps": dps} if _registered(state) == dps else {}
    if not (_was_applied(given, state) or _was_given(given, state)):
        _give(state, given, kept, lambda: aziot.apply(secrets, _seconds(conf)))
    if not (kept and _still_ours(conf, state, who, kept)):
        _register(conf, state, who, secrets)
    digest = sha256(given).hexdigest()
    write_json(state.registration, {"config": digest, "dps": dps}, mode=0o644)


def _secrets(conf: Config, state: State, who: str) -> Collection[str]:
    found = desired(conf, state, who, store.read(file(conf)))
    return found.secrets() if found else frozenset()


def _seconds(conf: Config) -> float:
    return conf.aziot.timeout.total_seconds()


def _give(state: State, file: bytes, kept: dict[str, Any], apply: Callable[[], None]) -> None:
    """What is true no more, should this come to no end, is forgotten before."""
    if kept:
        write_json(state.registration, kept, mode=0o644)
    elif store.exists(state.registration):
        store.remove(state.registration)
    apply()
    write_json(state.registration, {"given": sha256(file).hexdigest(), **kept}, mode=0o644)


def _dps(conf: Config, state: State, who: str) -> dict[str, str | None]:
    """All that the registration depends on."""
    issued_by = conf.operational.issued_by if conf.operational else None
    static = x509.kept(store.read(state.ldevid_cert)) if issued_by == "static" else []
    return {
        "endpoint": conf.dps.endpoint,
        "id_scope": conf.dps.id_scope,
        "registration_id": who,
        "attestation": conf.dps.attestation,
        "issued_by": issued_by,
        "certificate": x509.fingerprint(static[0]) if static else None,
    }


def _registered(state: State) -> dict[str, str | None] | None:
    """What it was made with; None if it was not, or by a version that did not keep this."""
    found = (read_json(state.registration) or {}).get("dps")
    return found if isinstance(found, dict) else None


def _moved_on(conf: Config, state: State, who: str) -> bool:
    """The registration was made with something else."""
    return _registered(state) not in (None, _dps(conf, state, who))


def registered_with_another(conf: Config, state: State, who: str) -> bool:
    """All that has changed since is the LDevID that DPS and the hub know."""
    made, now = _registered(state), _dps(conf, state, who)
    return made is not None and made != now and {**made, "certificate": now["certificate"]} == now


def _still_ours(conf: Config, state: State, who: str, kept: dict[str, Any]) -> bool:
    """After it got another configuration, the identity service says that it is who it was. Raises
    NotProvisioned if it says nothing."""
    found = aziot_identity.answer(conf.aziot.identity_socket, _seconds(conf))
    if not found.settled:
        write_json(state.registration, kept, mode=0o644)  # the next run starts it anew
        raise _unconfirmed(who, found)
    return _is_ours(found, conf, who)


def _was_applied(file: bytes, state: State) -> bool:
    """IoT Edge was provisioned with just this configuration once."""
    kept = read_json(state.registration)
    return kept is not None and kept.get("config") == sha256(file).hexdigest()


def provisioned(state: State) -> bool:
    """IoT Edge was provisioned, with whatever configuration; only files are looked at."""
    return "config" in (read_json(state.registration) or {})


def was_provisioned(state: State) -> bool:
    """Or had been, before it was given another configuration."""
    return provisioned(state) or _registered(state) is not None


def is_applied(conf: Config, state: State) -> bool:
    """IoT Edge was provisioned with its configuration file as it is now; only files are looked
    at."""
    given = store.read(file(conf))
    return bool(given) and _was_applied(given or b"", state)


def _was_given(file: bytes, state: State) -> bool:
    """`iotedge config apply` worked with just this configuration, and what came after it did not.
    Once more would restart the services for nothing, and needs the container engine."""
    kept = read_json(state.registration)
    return kept is not None and kept.get("given") == sha256(file).hexdigest()


def _register(conf: Config, state: State, who: str, secrets: Collection[str]) -> None:
    """Let the identity service ask DPS, and believe only what it then says itself."""
    at, seconds = conf.aziot.identity_socket, _seconds(conf)
    try:
        aziot.reprovision(secrets, seconds)
        aziot_identity.confirm(who, conf.dps.id_scope, at, seconds)
    except (IotedgeFailed, NotProvisioned) as e:
        now = aziot_identity.provisioning(at)
        if not now.settled:
            store.remove(state.registration)  # down, or it hangs: the next run starts it anew
        if isinstance(e, IotedgeFailed) and _is_ours(now, conf, who):
            raise HubNotReached(
                f"cannot complete the registration: DPS assigned '{now.device_id}' to the hub "
                f"'{now.hub}', but the identity service could not talk to that: {e}",
                hub=now.hub,
            ) from e
        if conf.dps.attestation == "tpm":
            raise AttestationFailed(str(e), registration_id=who) from e
        raise


def _patiently(conf: Config, who: str, secrets: Collection[str]) -> aziot_identity.Known:
    """What the identity service of a device that was provisioned says.

    To reprovision is to forget first: whoever cannot say who it is may be slow, at a boot most of
    all, or down, and still be somebody. So it is waited for, then restarted and waited for again.
    Raises NotProvisioned if it says nothing even then.
    """
    at, seconds = conf.aziot.identity_socket, _seconds(conf)
    found = aziot_identity.answer(at, seconds)
    if not found.settled:
        aziot.apply(secrets, seconds)
        found = aziot_identity.answer(at, seconds)
    if not found.settled:
        raise _unconfirmed(who, found)
    return found


def _unconfirmed(who: str, found: aziot_identity.Known) -> NotProvisioned:
    why = f"cannot confirm that '{who}' is still provisioned: {found}"
    return NotProvisioned(why, registration_id=who)


def _is_ours(
    now: aziot_identity.Known, conf: Config, who: str
) -> TypeGuard[aziot_identity.Provisioning]:
    if isinstance(now, aziot_identity.Unknown):
        return False
    return (now.registration_id, now.id_scope) == (who, conf.dps.id_scope)
