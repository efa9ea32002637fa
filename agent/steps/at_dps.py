"""DPS is asked for an assignment, with what the TPM has for that: the EK, or the LDevID."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent import inputs, network, store, x509
from agent.clock import Times
from agent.config import Config
from agent.ek import DPS_EK
from agent.errors import DpsNoKey, Later
from agent.steps import assigned, enrol, srk
from agent.steps.assigned import Asked, Assignment, Key
from agent.steps.login import Own
from agent.tpm import Public, Tpm

if TYPE_CHECKING:
    from agent.dps import Assigned, Dps
    from agent.http import Https


@dataclass(frozen=True)
class AtDps:
    """`rest`: how it is waited between two questions; `times`: what is known of the time."""

    conf: Config
    tpm: Tpm
    who: Callable[[], str]
    own: Own
    rest: Callable[[float], object]
    times: Times

    def assigned(self, before: Assignment | None, wanted: Asked) -> Assignment:
        by_tpm = self.conf.dps.attestation == "tpm"
        found = self._asked_by_ek() if by_tpm else self._asked_by_certificate()
        key = self.key(found, before) if by_tpm else None
        return Assignment(found.hub, found.device_id, wanted, key)

    def _asked_by_ek(self) -> "Assigned":
        def sign(challenge: bytes, data: bytes) -> bytes:
            """Nothing of it stays in the TPM, nor on disk."""
            return assigned.sign(self.tpm, self._imported(challenge), data)

        ek, parent = (_there(self.tpm, handle) for handle in (DPS_EK.handle, srk.HANDLE))
        proxy = inputs.proxy(self.conf)
        with network.https(self.conf.dps.trust, proxy=proxy, times=self.times) as https:
            return self._dps(https).by_tpm(ek.blob, parent.blob, sign)

    def _asked_by_certificate(self) -> "Assigned":
        chain = x509.kept(store.read(self.own.chain))
        signer = self.tpm.signer(self.own.key, known=True)  # its blobs are here
        proxy = inputs.proxy(self.conf)
        with (
            enrol.by_key(signer, chain) as client,
            network.https(self.conf.dps.trust, proxy=proxy, times=self.times, **client) as https,
        ):
            return self._dps(https).by_certificate()

    def _dps(self, https: "Https") -> "Dps":
        from agent.dps import Dps

        conf = self.conf.dps
        return Dps(
            https,
            conf.endpoint,
            conf.id_scope,
            self.who(),
            api_version=conf.api_version,
            payload=inputs.payload(self.conf),
            rest=self.rest,
        )

    def _imported(self, challenge: bytes) -> Key:
        return Key(*self.tpm.imported(challenge, DPS_EK.handle, srk.HANDLE))

    def key(self, found: "Assigned", before: Assignment | None) -> Key:
        """The hub key; DPS need not send the one again that we have proven."""
        if found.key is not None:
            return self._imported(found.key)
        here = (found.hub, found.device_id)
        if before is None or before.key is None or (before.hub, before.device_id) != here:
            raise DpsNoKey(
                f"cannot use what DPS assigned: it sent no key for '{found.device_id}' at the hub "
                f"'{found.hub}', and none is known here",
                host=found.hub,
                registration_id=self.who(),
            )
        return before.key


def _there(tpm: Tpm, handle: int) -> Public:
    found = tpm.public(handle)
    if found is None:
        raise Later(f"cannot register: the key at {handle:#x} is lost, just now")
    return found
