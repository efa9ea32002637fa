"""What a verb works on: the state directory, and the TPM with the passwords that it has."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agent import config, credentials, store
from agent.errors import AgentError, NoPermission, PathUnusable, SecretUnreadable
from agent.state import State

if TYPE_CHECKING:
    from agent.tpm import Tpm

log = logging.getLogger(__name__)
DEVICE, FACTORY = ("owner", "endorsement"), ("owner", "endorsement", "platform")
PASSWORD = 64  # bytes of a TPM2B_AUTH (TPM 2.0 Library, part 2, 10.4.2, 10.4.5)


def state() -> State:
    """systemd names the directory, or several (systemd.exec(5), StateDirectory=)."""
    named = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return State(Path(named) if named else config.VAR)


@contextlib.contextmanager
def tpm(
    tcti: str,
    ledger: Path | None = None,
    hierarchies: Sequence[str] = DEVICE,
    *,
    given: Mapping[str, bytes] | None = None,
    approvals: Path | None = None,
) -> Iterator["Tpm"]:
    """`given`: the passwords that we were told, if they have been read already. Those that this
    device has made and kept are used, too. `approvals`: see Keys.approvals."""
    from agent.tpm import Tpm

    told = auths(hierarchies) if given is None else given
    with Tpm(tcti, told, ledger, partial(kept, state(), told)) as chip:
        chip.approvals = approvals
        yield chip


def kept(
    of: State, given: Mapping[str, bytes], chip: "Tpm"
) -> tuple[dict[str, bytes], dict[str, AgentError]]:
    """The passwords that this device has made itself, but for those that are given; and why it
    cannot tell one. What is given for a hierarchy that has none is none: it would be a wrong one.
    """
    there = chip.passwords_set() if given else {*DEVICE}
    none = {name: b"" for name in DEVICE if name in given and name not in there}
    with contextlib.suppress(NoPermission, PathUnusable):  # then each says it for itself
        if not store.exists(of.directory / "authorization"):  # most devices
            return none, {}
    from agent.authorization.kept import Kept

    found, withheld = Kept(chip, of).passwords(given)
    return {**found, **none}, withheld


def auths(hierarchies: Sequence[str]) -> dict[str, bytes]:
    """The passwords of the TPM's hierarchies, as far as there are any."""
    named = {name: credentials.optional(f"tpm-{name}-auth", PASSWORD) for name in hierarchies}
    return {name: auth for name, auth in named.items() if auth is not None}


def auths_if_permitted() -> dict[str, bytes]:
    """For what anybody may ask of a TPM, as long as its hierarchies have no password."""
    try:
        return auths(DEVICE)
    except (NoPermission, SecretUnreadable) as e:
        log.warning("%s; going on without the passwords of the TPM", e)
        return {}
