"""Disks that are opened at each boot by a key which is made in the owner hierarchy just then, with
its empty password. systemd 252 does so for what `systemd-cryptenroll --tpm2-device` has enrolled:
once the owner has a password, such a disk stays closed, and a device whose root is on it is lost.

What Clevis has enrolled is told by the disk alone, and there is no way to see it here.
"""

from collections.abc import Iterator
from pathlib import Path

from agent import store
from agent.errors import OwnerHierarchyNeeded

CRYPTTAB, COMMAND_LINE = Path("/etc/crypttab"), Path("/proc/cmdline")
OPTION = "tpm2-device="  # crypttab(5); rd.luks.options=, of systemd-cryptsetup-generator(8)


def admit(name: str) -> None:
    """The hierarchy may get a password. Raises OwnerHierarchyNeeded, NoPermission."""
    if name == "owner" and (found := [*_opened_by_it()]):
        why = f"with that, the disk that '{found[0]}' has opened by the TPM is not any more"
        raise OwnerHierarchyNeeded(
            f"cannot set the owner password of the TPM: {why}", path=found[0]
        )


def _opened_by_it() -> Iterator[Path]:
    for path in (CRYPTTAB, COMMAND_LINE):
        if names((store.read(path) or b"").decode(errors="replace")):
            yield path


def names(text: str) -> bool:
    """Such a disk; comments aside."""
    lines = text.splitlines()
    return any(OPTION in line for line in lines if not line.lstrip().startswith("#"))
