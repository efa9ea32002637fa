"""IoT Edge's configuration file, and what it must say."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from agent import anchors, aziot_config, config, credentials, inputs, store
from agent.config import Config
from agent.errors import IotedgeMissing, ModuleMissing, SecretUnreadable
from agent.state import State
from agent.steps import Step
from agent.steps.token import Token
from agent.tpm import Tpm

Who = Callable[[], str]
Secrets = Mapping[str, str]  # by what they are: 'password', 'owner', 'endorsement'


def configuration(conf: Config, tpm: Tpm, state: State, who: Who) -> Step:
    def done() -> str | None:
        path = file(conf)
        existing = store.read(path)
        wanted = desired(conf, state, who(), existing, tpm)
        if existing is None or wanted is None or path.stat().st_mode & 0o077:
            return None
        if not _anchors_settled(conf, state):
            return None  # what the file names is not there, or not as it should be
        same = aziot_config.render(existing, wanted, path) == existing
        return str(path) if same else None

    def apply() -> None:
        path = file(conf)
        if not path.parent.is_dir():
            raise IotedgeMissing(f"cannot configure IoT Edge: there is no '{path.parent}'")
        existing = store.read(path) or b""
        wanted = desired(conf, state, who(), tpm=tpm)
        if wanted is None:
            raise RuntimeError("the token is made before it is configured")
        _settle_anchors(conf, state)
        text = aziot_config.render(existing, wanted, path)
        if backup := aziot_config.backup_for(path):
            store.write(backup, existing)
        store.write(path, text)

    return Step("aziot-config", done, apply)


def _anchors_settled(conf: Config, state: State) -> bool:
    trust = _operational(conf, state)
    return trust is None or anchors.settled(trust, datetime.now(UTC))


def _settle_anchors(conf: Config, state: State) -> None:
    if trust := _operational(conf, state):
        anchors.settle(trust, datetime.now(UTC))


def _operational(conf: Config, state: State) -> anchors.Trust | None:
    """The CA file that IoT Edge is told of, and who came after those in it."""
    if conf.operational is None or conf.operational.issued_by != "est":
        return None
    return anchors.operational(conf.operational, state)


def file(conf: Config) -> Path:
    """The file itself: where the root file system is exchanged by updates, it may be a link."""
    path = conf.aziot.directory / "config.toml"
    with store.permitted(path):
        return path.resolve() if path.is_symlink() else path


# --- what the file must say ---


def desired(
    conf: Config,
    state: State,
    who: str,
    existing: bytes | None = None,
    tpm: Tpm | None = None,
) -> aziot_config.Desired | None:
    """None while the token is not there yet. `tpm`: it knows the passwords that this device has
    made.

    Credentials are the unit's alone: for a person who asks where the device is, the secrets that
    are in the `existing` file already stand for those she cannot read.
    """
    if conf.dps.attestation == "tpm":
        return _by_ek(conf, who, existing, tpm)
    known = aziot_config.secrets_in(existing) if existing else {}
    return _by_certificate(conf, state, who, known)


def hierarchy_auths(existing: bytes | None, tpm: Tpm | None) -> dict[str, bytes]:
    """The passwords of the TPM's hierarchies that IoT Edge is told, by 'owner' and 'endorsement';
    empty if there is none. `existing`, `tpm`: as for `desired`; one that was taken back is not
    believed, though the file still has it."""
    known = aziot_config.secrets_in(existing) if existing else {}
    there, kept = (tpm.passwords_set(), tpm.auths) if tpm else ({*known}, {})
    return {
        name: credentials.optional(f"tpm-{name}-auth")
        or kept.get(name)
        or (known.get(name, "").encode() if name in there else b"")
        for name in ("owner", "endorsement")
    }


def _by_ek(conf: Config, who: str, existing: bytes | None, tpm: Tpm | None) -> aziot_config.Desired:
    auths = hierarchy_auths(existing, tpm)
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
    pins = Token(conf, state).pins()
    if operational is None or pins is None:
        return None
    keystore = aziot_config.Keystore(library=module(conf), token=conf.pkcs11.token, pin=pins.user)
    ldevid = aziot_config.KeyPair(certificate=state.ldevid_cert, key=keystore.uri(state.slot))
    by_est = operational.issued_by == "est"
    return aziot_config.Desired(
        registration_id=who,
        id_scope=conf.dps.id_scope,
        global_endpoint=conf.dps.endpoint,
        identity=aziot_config.Issued(renewal=_of_device_id(operational)) if by_est else ldevid,
        est=_est(operational, ldevid, known, state) if by_est else None,
        keystore=keystore,
        edge_ca=_edge_ca(conf.edge_ca, who),
    )


def _est(
    conf: config.Operational, ldevid: aziot_config.KeyPair, known: Secrets, state: State
) -> aziot_config.Est:
    auth: aziot_config.Basic | aziot_config.KeyPair = ldevid
    if conf.auth == "basic":
        password = _password(conf, known)
        auth = aziot_config.Basic(username=conf.username or "", password=password)
    trust = anchors.files(anchors.operational(conf, state), datetime.now(UTC))
    return aziot_config.Est(url=conf.url or "", auth=auth, trust=trust, renewal=_renewal(conf))


def _password(conf: config.Operational, known: Secrets) -> str:
    try:
        return inputs.operational_password(conf)
    except SecretUnreadable:
        if "password" not in known:
            raise
        return known["password"]


def _of_device_id(conf: config.Operational) -> aziot_config.Renewal | None:
    return None if conf.renew_at == config.NEVER else _renewal(conf)


def _renewal(conf: config.Operational) -> aziot_config.Renewal:
    """What logs in at the EST server is renewed in any case: DPS does not see it, and aziot-certd
    cannot be told not to."""
    if conf.renew_at == config.NEVER:
        return aziot_config.Renewal(rotate_key=conf.rotate_key)
    return aziot_config.Renewal(threshold=conf.renew_at, rotate_key=conf.rotate_key)


def _edge_ca(conf: config.EdgeCa | None, who: str) -> aziot_config.EdgeCa | None:
    if conf is None:
        return None
    by_est = conf.issued_by == "est"
    return aziot_config.EdgeCa(common_name=who if by_est else None, days=conf.days)


def module(conf: Config) -> Path:
    """What IoT Edge's key service is to load. Raises ModuleMissing, also for one that the
    configuration names: the service would say so in its own journal alone."""
    given = conf.pkcs11.library
    if given is not None and not store.exists(given):
        raise ModuleMissing(f"cannot find the PKCS#11 module '{given}'")
    return given or library()


def library() -> Path:
    """Debian's libtpm2-pkcs11-1, whatever the architecture. Raises ModuleMissing."""
    usr = Path("/usr/lib")
    found = [*usr.glob("*/pkcs11/libtpm2_pkcs11.so"), *usr.glob("*/libtpm2_pkcs11.so.1")]
    if not found:
        raise ModuleMissing("cannot find the PKCS#11 module libtpm2_pkcs11.so")
    return found[0]
