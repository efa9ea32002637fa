"""What the configuration points at: trust files and secrets, looked at before a thing changes."""

import json
import stat
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import credentials, store, x509
from agent.config import SYSTEM_CAS, Config, LdevidEst, Operational
from agent.errors import ConfigError, EdgeConfigured, PayloadUnusable, TrustUnreadable

if TYPE_CHECKING:
    from agent.http import Proxy

LARGEST = 64 * 1024  # bytes of what a custom allocation is told; DPS takes a little more


def check(config: Config) -> None:
    """Raises the one ConfigError found, or one that lists several; a file that two ask for is one
    thing to put right."""
    found: list[ConfigError] = []
    for look in _looks(config):
        try:
            look()
        except ConfigError as e:
            if (e.code, e.remedy) not in [(each.code, each.remedy) for each in found]:
                found.append(e)
    if len(found) == 1:
        raise found[0]
    if found:
        raise ConfigError("cannot begin:\n  " + "\n  ".join(f"{e} [{e.code}]" for e in found))


def _looks(config: Config) -> Iterator[Callable[[], object]]:
    for path in trust_files(config):
        yield partial(x509.anchors, path)
    if (to := config.tpm.authorization.escrow) is not None:
        yield partial(_escrow, to)
    if config.ldevid and (est := config.ldevid.est) and est.auth != "mtls":
        yield partial(est_secret, est)
    if not config.for_edge:
        yield partial(alone, config)
        yield partial(_vouches, config.dps.trust)
        yield partial(payload, config)
    yield partial(proxy_password, config)
    if (operational := config.operational) and operational.issued_by == "est":
        yield partial(_shared, operational.trust)
        if operational.auth == "basic":
            yield partial(operational_password, operational)


def _escrow(path: Path) -> None:
    from agent.authorization import escrow  # few have one

    escrow.recipient(path)


def alone(config: Config) -> None:
    """Two who are the same device at the hub throw each other out, and one TPM has one place for
    the key from Azure. IoT Edge that nobody has configured does nothing. Raises EdgeConfigured,
    NoPermission."""
    aziot = config.aziot.directory
    found = [path for path in [aziot / "config.toml"] if _provisions(store.read(path))]
    found += sorted(aziot.glob("*/config.d/00-super.toml"))
    if found:
        raise EdgeConfigured(
            f"cannot talk to Azure for this device: IoT Edge is configured to, by '{found[0]}'",
            paths=" ".join(map(str, found)),
        )


def _provisions(data: bytes | None) -> bool:
    try:
        return "provisioning" in tomllib.loads((data or b"").decode())
    except ValueError:  # `iotedge config apply` would not take it
        return False


def _vouches(path: Path) -> None:
    from agent.tls import tls_context  # with IoT Edge it may not be needed

    tls_context(path)


def _shared(path: Path) -> None:
    """IoT Edge's certificate service, another user, reads this one too."""
    if path.exists() and not path.stat().st_mode & stat.S_IROTH:
        raise TrustUnreadable(
            f"cannot share the CA file '{path}' with IoT Edge: not everybody may read it (chmod "
            "0644)",
            path=path,
        )


def trust_files(config: Config) -> Iterator[Path]:
    """Every file of CA certificates that this configuration will need, but for the system's, which
    are for the system to judge: some are old, and none tells the time."""
    if not config.for_edge and config.dps.trust != SYSTEM_CAS:
        yield config.dps.trust
    if config.dps.attestation == "tpm":
        return
    if config.idevid.require:
        yield config.idevid.trust
    if config.ldevid and config.ldevid.est:
        yield config.ldevid.est.trust
        if config.ldevid.est.issuer:
            yield config.ldevid.est.issuer
    if config.ldevid and config.ldevid.ca:
        yield config.ldevid.ca.certificate
    if config.operational and config.operational.issued_by == "est":
        yield config.operational.trust


def payload(config: Config) -> Any:
    """What DPS is told besides, JSON, or None. Raises PayloadUnusable, NoPermission."""
    path = config.dps.payload
    return payload_in(store.read(path), path) if path else None


def payload_in(data: bytes | None, path: Path) -> Any:
    """What that file says. `data`: its bytes, or None if there is none. Raises PayloadUnusable."""
    if data is None or len(data) > LARGEST:
        why = "there is no such file" if data is None else f"it is longer than {LARGEST} bytes"
        raise PayloadUnusable(f"cannot use '{path}' as payload: {why}", path=path)
    try:
        return json.loads(data, parse_constant=_no_json)
    except (ValueError, RecursionError) as e:
        raise PayloadUnusable(f"cannot use '{path}' as payload: {e}", path=path) from e


def _no_json(word: str) -> None:
    """Python would take it."""
    raise ValueError(f"{word} is no JSON (RFC 8259)")


def proxy(config: Config) -> "Proxy | None":
    """The one that the configuration names. Raises SecretUnreadable."""
    if config.proxy is None:
        return None
    from agent.http import Proxy  # where there is none, or nobody is asked, it is not needed

    return Proxy(config.proxy.url, config.proxy.username, proxy_password(config))


def proxy_password(config: Config) -> str | None:
    """None for a proxy that wants none. Raises SecretUnreadable."""
    if config.proxy is None or config.proxy.username is None:
        return None
    return credentials.read("proxy-password", config.proxy.password_file, "proxy.password_file")


def est_secret(est: LdevidEst) -> str:
    """The password or the shared secret for the EST server of the LDevID."""
    if est.auth == "basic":
        return credentials.read("est-password", est.password_file, "ldevid.est.password_file")
    return credentials.read("est-secret", est.secret_file, "ldevid.est.secret_file")


def operational_password(operational: Operational) -> str:
    """IoT Edge's password at the EST server of the operational certificate."""
    return credentials.read(
        "operational-password", operational.password_file, "operational.password_file"
    )
