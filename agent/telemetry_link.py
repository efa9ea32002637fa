"""The hub that this device is assigned to, connected with what is on disk and in the TPM now."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import config, hub, inputs, network, store, x509
from agent.config import Config
from agent.errors import NeverProvisioned, Stopped
from agent.hub import ByCertificate, ByToken, Hub, Where
from agent.reset import mark
from agent.state import State
from agent.steps import assigned, assignment, ldevid, ldevid_key, preflight
from agent.steps.assigned import Assignment, Key
from agent.telemetry_lines import Wake
from agent.tpm import Tpm

if TYPE_CHECKING:
    from agent.network.far_hub import FarHub

log = logging.getLogger(__name__)
Open = Callable[[Path | None], AbstractContextManager[Tpm]]
LOOK = 30.0  # seconds after which somebody who is connected asks whose the device is
NEAR = 2.0  # seconds; a turn that is further off is not waited for with the lock in hand


@dataclass(frozen=True)
class Device:
    """`tpm`: opens it; given the ledger of what was loaded before, if it is ours alone. It is open
    only while it is needed: others want it, too, and this runs for years."""

    conf: Config
    state: State
    tpm: Open


class Link:
    """Not for several threads at once. `wake`: ends its waits. `patience`: as for Hub."""

    def __init__(self, device: Device, wake: Wake, patience: float = hub.PATIENCE) -> None:
        self._device, self._wake, self._patience = device, wake, patience
        self._hub: Hub | FarHub | None = None
        self.name = "the hub"  # until it is known

    def keep(self) -> bool:
        """Connected, with a token that lasts; whether it was not before. Raises what Hub does,
        NeverProvisioned, and ResetUnderWay and ResetWaits for a device that was let go meanwhile:
        whoever did knows only of the units."""
        mark.admit(self._device.conf, self._device.state)
        if self._hub is None:
            self._hub = self._connected()
            return True
        self._hub.keep()
        return False

    def send(self, data: bytes, message_id: str, kind: str) -> None:
        if self._hub is None:
            raise RuntimeError("keep() comes first")
        self._hub.send(data, message_id, kind)

    def due(self) -> float:
        """Seconds until `keep` should be called."""
        return min(self._hub.due(), LOOK) if self._hub else 0

    def close(self) -> None:
        if self._hub is not None:
            self._hub.close()
            self._hub = None

    def register_again(self) -> None:
        """DPS is asked. Raises what it says, Busy, and Stopped. Nobody else is kept waiting for a
        turn of ours."""
        conf, state = self._device.conf, self._device.state
        with state.locked(), self._device.tpm(state.loaded) as tpm:
            who = cache(lambda: preflight.who(conf, tpm))
            again = partial(assignment.register_again, rest=self._rest, near=NEAR)
            again(conf, tpm, state, who)

    def _rest(self, seconds: float) -> None:
        self._wake.rest(seconds)
        if self._wake.stopped:
            raise Stopped("cannot register this device anew: it was told to stop")

    def _connected(self) -> "Hub | FarHub":
        conf, state = self._device.conf, self._device.state
        own, trusted = ldevid.dated(conf, state), inputs.trust_files(conf)
        preflight.clock(own, trusted).done()  # who does not know the time signs nothing
        now = assigned.read(state)
        if now is None:
            raise NeverProvisioned("cannot send telemetry: DPS has not assigned a hub yet")
        self.name = now.hub
        where, route = Where(now.hub, now.device_id), assignment.route(conf)
        made = network.hub(
            where, self._credential(now), route, wake=self._wake.call, patience=self._patience
        )
        made.connect()
        return made

    def _credential(self, now: Assignment) -> ByToken | ByCertificate:
        if now.key is None:
            chain = self._device.state.ldevid_cert
            return ByCertificate(_Signer(self._device, chain), chain)
        lifetime = (self._device.conf.hub or config.Hub()).token_lifetime.total_seconds()
        return ByToken(_hmac(self._device, now.key), lifetime)


@contextmanager
def _signing(device: Device) -> Iterator[Tpm]:
    """What a run that was killed had loaded is thrown out of the TPM. A disk that takes nothing is
    no reason to be silent."""
    ledger = device.state.loaded_before_login
    with device.tpm(ledger if _takes_files(ledger.parent) else None) as tpm:
        yield tpm


def _takes_files(directory: Path) -> bool:
    return os.access(directory, os.W_OK) and os.statvfs(directory).f_bavail > 0


def _hmac(device: Device, key: Key) -> Callable[[bytes], bytes]:
    def sign(data: bytes) -> bytes:
        with _signing(device) as tpm:
            return assigned.sign(tpm, key, data)

    return sign


class _Signer:
    """The LDevID key, for TLS: the library signs in a thread of its own, with a TPM of its own."""

    def __init__(self, device: Device, chain: Path) -> None:
        found = x509.kept(store.read(chain))
        if not found:
            raise NeverProvisioned(f"cannot send telemetry: there is no LDevID in '{chain}'")
        self.public_key: Any = found[0].public_key()
        self._device, self._lock = device, threading.Lock()

    def sign(self, digest: bytes, hash_name: str, *, pss: bool = False) -> bytes:
        with self._lock, _signing(self._device) as tpm:
            signer = tpm.signer(ldevid_key.HANDLE, known=True)
            return signer.sign(digest, hash_name, pss=pss)
