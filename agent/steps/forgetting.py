"""What is of one identity goes from this disk: IoT Edge's, the token's, ours.

Where the TPM is another one (agent/steps/same_tpm.py), and where a device is let go (agent/reset).
Each part may be gone already.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from agent import aziot, aziot_config, pkcs11, store
from agent.config import Config
from agent.state import State
from agent.steps.aziot import file as aziot_file
from agent.steps.token import made

Names = Mapping[str, tuple[str, ...]]

# What IoT Edge's services keep of an identity: keys in files, certificates, the names of the device
# and its modules. `iotedge config apply` does not remove it, and with a certificate whose key is
# lost aziot-identityd never starts again. (aziot-edged notices itself that it is another device.)
KEYS: Names = {"keyd/keys": ()}
CERTIFICATES: Names = {"certd/certs": ()}
NAMES: Names = {"identityd": ("device_info", "prev_state", "modules")}
LEFTOVERS: Names = {**CERTIFICATES, **KEYS, **NAMES}


def stop_iotedge(conf: Config) -> None:
    """Without the files that `iotedge config apply` made, its units do not start again either: when
    somebody comes to one of their sockets, or at the next boot, should this one not come to its
    end. Raises IotedgeMissing, IotedgeFailed."""
    for path in applied(conf):
        store.remove(path)
    aziot.stop(conf.aziot.timeout.total_seconds())


def applied(conf: Config) -> list[Path]:
    """The services' own configuration, made of config.toml: the PIN is in it, too."""
    return sorted(conf.aziot.directory.glob("*/config.d/00-super.toml"))


def leftovers(conf: Config, of: Names = LEFTOVERS) -> None:
    for directory, names in of.items():
        store.empty(conf.aziot.state / directory, names)


def left(conf: Config, of: Names) -> Iterator[Path]:
    """What `leftovers` would remove."""
    for directory, names in of.items():
        with store.permitted(top := conf.aziot.state / directory):
            there = list(top.iterdir()) if top.is_dir() and not top.is_symlink() else []
        yield from (path for path in there if not names or path.name in names)


def has_edge(conf: Config, state: State) -> bool:
    """Or had it, before its configuration said otherwise: then it is there still."""
    return conf.for_edge or store.exists(state.registration)


def was_told(conf: Config) -> bool:
    """IoT Edge's configuration says, by us, who it is. Raises AziotConfigInvalid."""
    path = aziot_file(conf)
    existing = store.read(path) or b""
    return aziot_config.released(existing, path) != existing


def token(conf: Config, state: State) -> None:
    for where, label in made(conf.pkcs11, state):
        pkcs11.remove(where, label)
        if store.exists(unfinished(where)):
            store.remove(unfinished(where))


def unfinished(where: Path) -> Path:
    """Where a run that was killed in `pkcs11.create` left a token, whole, with its keys."""
    return where / f"{pkcs11.DATABASE}.new"


def files(state: State) -> None:
    for path in filter(store.exists, state.identity):
        store.remove(path)
