"""What stays after a reset: in the TPM, each by its name; and on the disk."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from agent import config_files, credentials, ek
from agent.authorization.kept import directory
from agent.config import Config
from agent.reset.mark import Wishes
from agent.state import State
from agent.steps import idevid, ldevid_key, srk
from agent.tpm import HUB_KEY, Tpm

ENCRYPTED = (Path("/etc/credstore.encrypted"), Path("/run/credstore.encrypted"))
SECRETS = ("est-password", "est-secret", "operational-password", "proxy-password")
KEYS = {
    srk.HANDLE: "SRK (storage root key), that other software may use, too",
    idevid.HANDLE: "IDevID key, of the factory",
    ldevid_key.HANDLE: "a key that tpm2cloud did not make, where the LDevID key would be",
    HUB_KEY: "a key for an IoT hub, of another installation (--decommission removes it)",
    **{kind.handle: f"endorsement key ({kind.template})" for kind in ek.KINDS},
}
INDICES = {
    idevid.INDEX: "IDevID certificate, of the factory",
    **{kind.index: f"certificate of the endorsement key ({kind.template})" for kind in ek.KINDS},
    **dict.fromkeys(ek.CHAIN, "a CA certificate of the TPM's maker"),
}
OTHER = "not tpm2cloud's"


def in_tpm(tpm: Tpm, gone: Iterable[int] = ()) -> dict[str, str]:
    """By handle or NV index (hex), without those that go."""
    handles = {at: KEYS.get(at, OTHER) for at in tpm.persistent()}
    indices = {at: INDICES.get(at, OTHER) for at in tpm.nv_indices()}
    gone = set(gone)
    return {f"{at:#010x}": what for at, what in (handles | indices).items() if at not in gone}


def on_disk(conf: Config, state: State, wishes: Wishes, files: Iterable[Path]) -> Iterator[str]:
    """In words. `files`: of the configuration."""
    if not wishes.configuration:
        yield from (f"{path} ({_what(path)}--configuration removes it)" for path in files)
    if not wishes.burn_idevid and conf.idevid.certificate.exists():
        yield f"{conf.idevid.certificate}: IDevID certificate, of the factory"
    if state.reset.exists():
        yield f"{state.reset}: that it was reset, and what is to be revoked"
    for receipt in filter(Path.exists, (state.receipt, state.receipt_before)):
        yield f"{receipt}: what was done to this device, signed by its TPM; no secret"
    if (passwords := directory(state)).is_dir() and any(passwords.iterdir()):
        yield f"{passwords}: passwords of a TPM's hierarchies, for when that one is back"
    if state.clock.exists():
        yield f"{state.clock}: what time it is at least, and which server has said so"
    if conf.for_edge:
        yield "the images and the data of IoT Edge's modules (the container engine's)"


def _what(path: Path) -> str:
    return "" if path.suffix == ".toml" else "a password of the owner's, which can be used; "


def configuration(path: Path, conf: Config) -> list[Path]:
    """Files with the owner's settings and her passwords, as far as they are there. Her CA files
    stay: there is nothing secret in them. The passwords of the TPM's hierarchies, too: they are
    the TPM's."""
    est, own = conf.ldevid.est if conf.ldevid else None, conf.operational
    named: list[Path | None] = [
        est.password_file if est else None,
        est.secret_file if est else None,
        own.password_file if own else None,
        conf.proxy.password_file if conf.proxy else None,
    ]
    stores = [top / name for top in (*credentials.STORES, *ENCRYPTED) for name in SECRETS]
    wanted = [*stores, *filter(None, named), *reversed(config_files.files(path))]
    return [each for each in wanted if os.path.lexists(each)]
