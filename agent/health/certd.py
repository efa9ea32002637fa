"""What IoT Edge's services get and renew by themselves: which certificate, where, who, and when.

Of iot-identity-service and iotedge 1.6. All of it is kept by aziot-certd, in files that it writes
without fsync; keys are pairs in the PKCS#11 token, labelled by the id, or files of aziot-keyd. A
rotation leaves `<id>-temp` behind where it is cut off: the next one deletes that first, so nobody
else need. The renewal (cert-renewal's engine) sits in the service named as `unit`:

- `est-id`: made by aziot-certd when a certificate is wanted and it has none, by the bootstrap
  identity; renewed by itself, or, expired, by the bootstrap identity again.
- `device-id`: by aziot-identityd, through aziot-certd; it registers with DPS at each renewal.
- `aziot-edged-ca`: by aziot-edged, through aziot-certd; it is looked for at its start alone.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from agent import aziot_config, store
from agent.config import NEVER, Config

EST_ID, DEVICE_ID, EDGE_CA = "est-id", "device-id", "aziot-edged-ca"
CERTD, IDENTITYD, EDGED = "aziot-certd", "aziot-identityd", "aziot-edged"
UNITS = (CERTD, IDENTITYD, EDGED, "aziot-keyd", "aziot-tpmd")


@dataclass(frozen=True)
class Kept:
    """A certificate that a service keeps: `id` is certd's name for it, and its key's label.

    `unit`: who renews it. `threshold`, `retry`: as cert-renewal has them, "80%", "30day", "90min";
    or `threshold` is "never".
    `by_est`: it comes from the operational EST server. `needed`: the device does not work without
    the file; else its service makes it when it wants it.
    """

    id: str
    what: str
    path: Path
    unit: str
    threshold: str
    retry: str
    by_est: bool
    needed: bool

    @property
    def renewed(self) -> bool:
        """False: DPS knows it and no other, so another one is of no use."""
        return self.threshold != NEVER


def kept(conf: Config) -> list[Kept]:
    """Those of this device, each before what is got by it; none without IoT Edge."""
    if not conf.for_edge:
        return []
    return [*_operational(conf), *_edge_ca(conf)]


def file(home: Path, id: str) -> Path:
    """`get_path` of aziot-certd-config. `home`: /var/lib/aziot."""
    return home / "certd/certs" / f"{_name(id)}.cer"


def key_file(home: Path, id: str) -> Path:
    """Where aziot-keyd keeps a key pair that is in no token."""
    return home / "keyd/keys" / f"{_name(id)}.key"


def _name(id: str) -> str:
    return (
        f"{''.join(c for c in id if c.isascii() and c.isalnum())}-{sha256(id.encode()).hexdigest()}"
    )


def _operational(conf: Config) -> list[Kept]:
    own, home = conf.operational, conf.aziot.state
    if own is None or own.issued_by != "est" or conf.dps.attestation != "x509":
        return []
    usual = aziot_config.Renewal()
    when = usual if own.renew_at == NEVER else replace(usual, threshold=own.renew_at)
    device = Kept(
        DEVICE_ID,
        "shown to DPS and the hub",
        file(home, DEVICE_ID),
        IDENTITYD,
        own.renew_at,
        when.retry,
        by_est=True,
        needed=True,
    )
    if own.auth == "basic":
        return [device]
    what = "logs IoT Edge in at the operational EST server"
    path = file(home, EST_ID)
    est = Kept(EST_ID, what, path, CERTD, when.threshold, when.retry, by_est=True, needed=False)
    return [est, device]


def _edge_ca(conf: Config) -> list[Kept]:
    """By our configuration, or by what the operator's own says, if that renews it at all."""
    theirs = {} if conf.edge_ca else _configured(conf.aziot.directory / "config.toml")
    if "cert" in theirs:  # a file of hers, which nobody renews
        return []
    when = aziot_config.Renewal()
    given = theirs.get("auto_renew")
    given = given if isinstance(given, Mapping) else {}
    by_est = conf.edge_ca.issued_by == "est" if conf.edge_ca else theirs.get("method") == "est"
    return [
        Kept(
            EDGE_CA,
            "certifies IoT Edge's modules",
            file(conf.aziot.state, EDGE_CA),
            EDGED,
            str(given.get("threshold", when.threshold)),
            str(given.get("retry", when.retry)),
            by_est=by_est,
            needed=False,
        )
    ]


def _configured(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads((store.read(path) or b"").decode()).get("edge_ca")
    except ValueError:
        return {}  # the step `aziot-config` says so
    return found if isinstance(found, dict) else {}
