"""IoT Edge: its configuration file, and that it really is provisioned with it."""

from collections.abc import Callable, Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TypeGuard

from agent import aziot, aziot_config, aziot_identity, config, credentials, inputs, store
from agent.config import Config
from agent.errors import (
    HubNotReached,
    IotedgeFailed,
    IotedgeMissing,
    ModuleMissing,
    NotProvisioned,
    SecretUnreadable,
)
from agent.state import State, read_json, write_json
from agent.steps import Step, torn
from agent.steps.token import KEY, Token

Who = Callable[[], str]
Secrets = Mapping[str, str]  # by what they are: 'password', 'owner', 'endorsement'


def configuration(conf: Config, state: State, who: Who) -> Step:
    def done() -> str | None:
        path = _file(conf)
        existing = store.read(path)
        desired = _desired(conf, state, who(), existing)
        if existing is None or desired is None or path.stat().st_mode & 0o077:
            return None
        same = aziot_config.render(existing, desired, path) == existing
        return str(path) if same else None

    def apply() -> None:
        path = _file(conf)
        if not path.parent.is_dir():
            raise IotedgeMissing(f"cannot configure IoT Edge: there is no '{path.parent}'")
        existing = store.read(path) or b""
        desired = _desired(conf, state, who())
        if desired is None:
            raise RuntimeError("the token is made before it is configured")
        wanted = aziot_config.render(existing, desired, path)
        if backup := aziot_config.backup_for(path):
            store.write(backup, existing)
        store.write(path, wanted)

    return Step("aziot-config", done, apply)


def registration(conf: Config, state: State, who: Who) -> Step:
    """IoT Edge applied this very file, and its identity service says it is who we say.

    That the file was applied only `iotedge` knows: we keep the digest of what it was given.
    """

    def done() -> str | None:
        file = store.read(_file(conf))
        if not file or not _was_applied(file, state):
            return None
        now = aziot_identity.provisioning(conf.aziot.identity_socket)
        if not _is_ours(now, conf, who()):
            return None
        return f"device '{now.device_id}' at hub '{now.hub}'"

    def apply() -> None:
        torn.remove(conf.aziot.state / "certd/certs")
        file = store.read(_file(conf)) or b""
        desired = _desired(conf, state, who())
        secrets = desired.secrets() if desired else frozenset()
        if _was_applied(file, state) and _is_ours(_patiently(conf, who(), secrets), conf, who()):
            return
        seconds = conf.aziot.timeout.total_seconds()
        if not _was_given(file, state):
            if store.exists(state.registration):
                store.remove(state.registration)  # true no more, should this come to no end
            aziot.apply(secrets, seconds)
            write_json(state.registration, {"given": sha256(file).hexdigest()}, mode=0o644)
        _register(conf, state, who(), secrets)
        write_json(state.registration, {"config": sha256(file).hexdigest()}, mode=0o644)

    return Step("registration", done, apply)


def _was_applied(file: bytes, state: State) -> bool:
    """IoT Edge was provisioned with just this configuration once."""
    kept = read_json(state.registration)
    return kept is not None and kept.get("config") == sha256(file).hexdigest()


def _was_given(file: bytes, state: State) -> bool:
    """`iotedge config apply` worked with just this configuration, and what came after it did not.
    Once more would restart the services for nothing, and needs the container engine."""
    kept = read_json(state.registration)
    return kept is not None and kept.get("given") == sha256(file).hexdigest()


def _register(conf: Config, state: State, who: str, secrets: Collection[str]) -> None:
    """Let the identity service ask DPS, and believe only what it then says itself."""
    at, seconds = conf.aziot.identity_socket, conf.aziot.timeout.total_seconds()
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
        raise


def _patiently(conf: Config, who: str, secrets: Collection[str]) -> aziot_identity.Known:
    """What the identity service of a device that was provisioned says.

    To reprovision is to forget first: whoever cannot say who it is may be slow, at a boot most of
    all, or down, and still be somebody. So it is waited for, then restarted and waited for again.
    Raises NotProvisioned if it says nothing even then.
    """
    at, seconds = conf.aziot.identity_socket, conf.aziot.timeout.total_seconds()
    found = aziot_identity.answer(at, seconds)
    if not found.settled:
        aziot.apply(secrets, seconds)
        found = aziot_identity.answer(at, seconds)
    if not found.settled:
        raise NotProvisioned(
            f"cannot confirm that '{who}' is still provisioned: {found}", registration_id=who
        )
    return found


def _file(conf: Config) -> Path:
    """The file itself: where the root file system is exchanged by updates, it may be a link."""
    path = conf.aziot.directory / "config.toml"
    with store.permitted(path):
        return path.resolve() if path.is_symlink() else path


def _is_ours(
    now: aziot_identity.Known, conf: Config, who: str
) -> TypeGuard[aziot_identity.Provisioning]:
    if isinstance(now, aziot_identity.Unknown):
        return False
    return (now.registration_id, now.id_scope) == (who, conf.dps.id_scope)


# --- what the file must say ---


def _desired(
    conf: Config, state: State, who: str, existing: bytes | None = None
) -> aziot_config.Desired | None:
    """None while the token is not there yet.

    Credentials are the unit's alone: for a person who asks where the device is, the secrets that
    are in the `existing` file already stand for those she cannot read.
    """
    known = aziot_config.secrets_in(existing) if existing else {}
    if conf.dps.attestation == "tpm":
        return _by_ek(conf, who, known)
    return _by_certificate(conf, state, who, known)


def _by_ek(conf: Config, who: str, known: Secrets) -> aziot_config.Desired:
    auths = {
        name: credentials.optional(f"tpm-{name}-auth") or known.get(name, "").encode()
        for name in ("owner", "endorsement")
    }
    return aziot_config.Desired(
        registration_id=who,
        id_scope=conf.dps.id_scope,
        global_endpoint=conf.dps.endpoint,
        identity=aziot_config.TpmAttestation(
            tcti=conf.tpm.tcti,
            owner_auth=auths["owner"].decode(),
            endorsement_auth=auths["endorsement"].decode(),
        ),
        edge_ca=_edge_ca(conf.edge_ca, who),
    )


def _by_certificate(
    conf: Config, state: State, who: str, known: Secrets
) -> aziot_config.Desired | None:
    operational = conf.operational
    pins = Token(conf.pkcs11, state).pins()
    if operational is None or pins is None:
        return None
    keystore = aziot_config.Keystore(
        library=conf.pkcs11.library or library(), token=conf.pkcs11.token, pin=pins.user
    )
    ldevid = aziot_config.KeyPair(certificate=state.ldevid_cert, key=keystore.uri(KEY))
    by_est = operational.issued_by == "est"
    return aziot_config.Desired(
        registration_id=who,
        id_scope=conf.dps.id_scope,
        global_endpoint=conf.dps.endpoint,
        identity=aziot_config.Issued(renewal=_renewal(operational)) if by_est else ldevid,
        est=_est(operational, ldevid, known) if by_est else None,
        keystore=keystore,
        edge_ca=_edge_ca(conf.edge_ca, who),
    )


def _est(
    conf: config.Operational, ldevid: aziot_config.KeyPair, known: Secrets
) -> aziot_config.Est:
    auth: aziot_config.Basic | aziot_config.KeyPair = ldevid
    if conf.auth == "basic":
        password = _password(conf, known)
        auth = aziot_config.Basic(username=conf.username or "", password=password)
    renewal = _renewal(conf)
    return aziot_config.Est(url=conf.url or "", auth=auth, trust=(conf.trust,), renewal=renewal)


def _password(conf: config.Operational, known: Secrets) -> str:
    try:
        return inputs.operational_password(conf)
    except SecretUnreadable:
        if "password" not in known:
            raise
        return known["password"]


def _renewal(conf: config.Operational) -> aziot_config.Renewal:
    return aziot_config.Renewal(threshold=conf.renew_at, rotate_key=conf.rotate_key)


def _edge_ca(conf: config.EdgeCa | None, who: str) -> aziot_config.EdgeCa | None:
    if conf is None:
        return None
    by_est = conf.issued_by == "est"
    return aziot_config.EdgeCa(common_name=who if by_est else None, days=conf.days)


def library() -> Path:
    """Debian's libtpm2-pkcs11-1, whatever the architecture. Raises ModuleMissing."""
    usr = Path("/usr/lib")
    found = [*usr.glob("*/pkcs11/libtpm2_pkcs11.so"), *usr.glob("*/libtpm2_pkcs11.so.1")]
    if not found:
        raise ModuleMissing("cannot find the PKCS#11 module libtpm2_pkcs11.so")
    return found[0]
