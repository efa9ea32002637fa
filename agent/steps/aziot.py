"""IoT Edge: its configuration file, and that it really is provisioned with it."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from agent import aziot, aziot_config, config, credentials, inputs, store
from agent.config import Config
from agent.errors import IotedgeMissing, ModuleMissing
from agent.state import State, read_json, write_json
from agent.steps import Step
from agent.steps.token import KEY, Token

Who = Callable[[], str]


def configuration(conf: Config, state: State, who: Who) -> Step:
    path = conf.aziot.directory / "config.toml"

    def done() -> str | None:
        existing = store.read(path)
        desired = _desired(conf, state, who())
        if existing is None or desired is None or path.stat().st_mode & 0o077:
            return None
        same = aziot_config.render(existing, desired, path) == existing
        return str(path) if same else None

    def apply() -> None:
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
    path = conf.aziot.directory / "config.toml"

    def done() -> str | None:
        kept, file = read_json(state.registration), store.read(path)
        if not kept or not file or kept.get("config") != sha256(file).hexdigest():
            return None
        now = aziot.provisioning(conf.aziot.identity_socket)
        if isinstance(now, str) or not _is_ours(now, conf, who()):
            return None
        return f"device '{now.device_id}' at hub '{now.hub}'"

    def apply() -> None:
        file = store.read(path) or b""
        desired = _desired(conf, state, who())
        secrets = desired.secrets() if desired else frozenset()
        seconds = conf.aziot.timeout.total_seconds()
        aziot.apply(secrets, seconds)
        aziot.reprovision(secrets, seconds)
        aziot.confirm(who(), conf.dps.id_scope, conf.aziot.identity_socket, seconds)
        write_json(state.registration, {"config": sha256(file).hexdigest()}, mode=0o644)

    return Step("registration", done, apply)


def _is_ours(now: aziot.Provisioning, conf: Config, who: str) -> bool:
    return (now.registration_id, now.id_scope) == (who, conf.dps.id_scope)


# --- what the file must say ---


def _desired(conf: Config, state: State, who: str) -> aziot_config.Desired | None:
    """None while the token is not there yet."""
    return (_by_ek if conf.dps.attestation == "tpm" else _by_certificate)(conf, state, who)


def _by_ek(conf: Config, state: State, who: str) -> aziot_config.Desired:
    auths = {name: credentials.optional(f"tpm-{name}-auth") for name in ("owner", "endorsement")}
    return aziot_config.Desired(
        registration_id=who,
        id_scope=conf.dps.id_scope,
        global_endpoint=conf.dps.endpoint,
        identity=aziot_config.TpmAttestation(
            tcti=conf.tpm.tcti,
            owner_auth=(auths["owner"] or b"").decode(),
            endorsement_auth=(auths["endorsement"] or b"").decode(),
        ),
        edge_ca=_edge_ca(conf.edge_ca, who),
    )


def _by_certificate(conf: Config, state: State, who: str) -> aziot_config.Desired | None:
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
        est=_est(operational, ldevid) if by_est else None,
        keystore=keystore,
        edge_ca=_edge_ca(conf.edge_ca, who),
    )


def _est(conf: config.Operational, ldevid: aziot_config.KeyPair) -> aziot_config.Est:
    auth: aziot_config.Basic | aziot_config.KeyPair = ldevid
    if conf.auth == "basic":
        password = inputs.operational_password(conf)
        auth = aziot_config.Basic(username=conf.username or "", password=password)
    renewal = _renewal(conf)
    return aziot_config.Est(url=conf.url or "", auth=auth, trust=(conf.trust,), renewal=renewal)


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
