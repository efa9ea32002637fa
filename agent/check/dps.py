"""A trial at DPS: who we are is asked, and nobody is registered.

A certificate that DPS sees is shown, or the TPM that it knows answers a challenge, to look up what
came of the last registration. Where IoT Edge registers with a certificate of its own, its key is
not ours: DPS then tells a stranger at most that it knows no such ID scope.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from agent import inputs
from agent.check.network import Lines, Who, known, through
from agent.check.patience import Patience
from agent.check.probe import Probe
from agent.check.reach import Server
from agent.config import Config
from agent.dps import Assigned, Dps
from agent.ek import DPS_EK
from agent.errors import DpsFailed, DpsNotEnrolled
from agent.http import Https
from agent.state import State
from agent.steps import assigned, dps, enrol, ldevid_key, srk
from agent.steps.assigned import Key
from agent.steps.ldevid import Ldevid
from agent.tpm import Tpm

Client = AbstractContextManager[dict[str, Any]]


def probes(conf: Config, tpm: Tpm, state: State, who: Who) -> Iterator[Probe]:
    trust = dps.system_cas() if conf.for_edge else conf.dps.trust
    if trust is None:
        yield Probe("dps", lambda: "not asked: the system's CAs are not in one file")
        return
    proxy, times = partial(through, conf, conf.dps.endpoint), known(state)
    server = Server("dps", conf.dps.endpoint, trust, proxy, floor=lambda: times.floor)
    yield from Lines(server).of(server)
    ask, needs = _question(Trial(conf, tpm, state, who, trust))
    yield Probe("dps-knows", ask, ("dps-tls", "tpm", "device-id", *needs))


@dataclass(frozen=True)
class Trial:
    """`trust`: what vouches for DPS."""

    conf: Config
    tpm: Tpm
    state: State
    who: Who
    trust: Path
    patience: Patience = field(default_factory=Patience)

    @contextmanager
    def dps(self, client: Client | None = None) -> Iterator[Dps]:
        """`client`: how it is logged in by TLS."""
        conf, proxy, times = self.conf.dps, inputs.proxy(self.conf), known(self.state)
        with (
            client or nullcontext({}) as login,
            self.patience.spent() as left,
            Https(self.trust, timeout=left, proxy=proxy, times=times, **login) as https,
        ):
            version = conf.api_version
            yield Dps(https, conf.endpoint, conf.id_scope, self.who(), api_version=version)

    # --- what is asked ---

    def by_tpm(self) -> str:
        ek, parent = self.tpm.public(DPS_EK.handle), self.tpm.public(srk.HANDLE)
        if ek is None or parent is None:
            return "not asked: the keys that it is shown are not made yet"

        def sign(challenge: bytes, data: bytes) -> bytes:
            """Nothing of it stays in the TPM."""
            key = Key(*self.tpm.imported(challenge, DPS_EK.handle, srk.HANDLE))
            return assigned.sign(self.tpm, key, data)

        with self.dps() as dps:
            return self._told(partial(dps.last_by_tpm, ek.blob, parent.blob, sign))

    def by_certificate(self) -> str:
        ours = Ldevid(self.tpm, self.conf, self.state, self.who)
        if not ours.works():
            return f"{self.by_nothing()}; there is no LDevID to be shown yet"
        signer = self.tpm.signer(ldevid_key.HANDLE, known=True)
        with self.dps(enrol.by_key(signer, ours.chain())) as dps:
            try:
                return self._told(dps.last)
            except DpsNotEnrolled as e:
                return f"tells of no registration yet: {e}"

    def _told(self, last: Callable[[], Assigned | None]) -> str:
        try:
            found = last()
        except DpsFailed as e:
            return f"lets us in; the last registration failed: {e}"
        where = f"device '{found.device_id}' at hub '{found.hub}'" if found else "no hub yet"
        return f"lets '{self.who()}' in: {where}"

    def by_nothing(self) -> str:
        with self.dps() as dps:
            dps.scope()
        return "answers; more than that it tells whoever logs in"


def _question(trial: Trial) -> tuple[Callable[[], str], tuple[str, ...]]:
    """What is asked, and the probes that it comes after."""
    conf = trial.conf
    if conf.dps.attestation == "tpm":
        return trial.by_tpm, ("srk",)
    own = conf.operational
    if not conf.for_edge or (own is not None and own.issued_by == "static"):
        return trial.by_certificate, ("inputs",)
    return trial.by_nothing, ()
