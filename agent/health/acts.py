"""The remedies themselves, and the question that goes before them: is it IoT Edge's fault at all?

Each leaves a mark of the world before it: whoever comes after a kill can tell whether it was done.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from agent import anchors, aziot, aziot_identity, inputs, store, x509
from agent.aziot_config import secrets_in
from agent.clock import Times
from agent.config import Config, Operational
from agent.health import certd, services
from agent.health.ladder import Rung
from agent.health.stuck import Stuck
from agent.state import State, read_json
from agent.steps import aziot as aziot_step
from agent.steps import enrol, ldevid_key, preflight, torn
from agent.steps.ldevid import Ldevid
from agent.tpm import Tpm

Mark = dict[str, str]
Keep = Callable[[Mark], None]


# --- whose fault it is ---


def probe(tpm: Tpm, conf: Config, state: State) -> None:
    """The operational EST server answers, and lets this device in as it would let in IoT Edge: by
    the LDevID, or, with Basic, without a certificate. Raises the AgentError that says why not."""
    own = conf.operational
    if own is None or own.issued_by != "est" or conf.dps.attestation != "x509":
        return
    now = datetime.now(UTC)
    with _login(tpm, own, state) as login:
        more = anchors.successors(anchors.operational(own, state), now)
        seconds = conf.ldevid.est.timeout.total_seconds() if conf.ldevid and conf.ldevid.est else 30
        known: dict[str, Any] = {"proxy": inputs.proxy(conf), "times": Times(state.clock)}
        server = enrol.Server(own.url or "", own.trust, seconds, **login, more=more, **known)
        enrol.by_est(server, lambda est: [])


@contextmanager
def _login(tpm: Tpm, own: Operational, state: State) -> Iterator[dict[str, Any]]:
    if own.auth == "basic":
        from agent.est import Basic

        yield {"credential": Basic(own.username or "", inputs.operational_password(own))}
        return
    signer = tpm.signer(ldevid_key.HANDLE, known=True)
    with enrol.by_key(signer, x509.kept(store.read(state.ldevid_cert))) as client:
        yield {"client": client}


def is_nobody(conf: Config, state: State) -> bool:
    """aziot-identityd has nothing left of DPS' answer, though it had one; only files are looked
    at."""
    config = (read_json(state.registration) or {}).get("config")
    return isinstance(config, str) and not _info(conf)


def ldevid_works(tpm: Tpm, conf: Config, state: State) -> bool:
    """What IoT Edge begins anew with, where it has lost all else; with Basic, that is no matter."""
    if conf.operational is None or conf.operational.auth == "basic":
        return True
    return Ldevid(tpm, conf, state, lambda: preflight.who(conf, tpm)).works()


# --- what is done ---


def mark(rung: Rung, conf: Config, stuck: Stuck, boot_id: str) -> Mark:
    """The world before."""
    if rung == "restart":
        return {"invocation": _invocation(stuck.unit)}
    if rung == "remove":
        return {"file": _digest(stuck.path), "stage": ""}
    return {"boot": boot_id, "invocation": _invocation(certd.IDENTITYD), "info": _info(conf)}


def was_done(rung: Rung, before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """By what `mark` said before, and says now: for certain, or it is done again."""
    if rung == "restart":
        return now["invocation"] not in ("", before.get("invocation"))
    if rung == "remove":
        return before.get("stage") == "done"
    same = all(now[each] == before.get(each) for each in ("boot", "invocation"))
    return same and now["info"] not in ("", before.get("info"))


@dataclass(frozen=True)
class Hands:
    """What the remedies are done with. `secrets`: not to be quoted, whoever fails in what words."""

    conf: Config
    secrets: Collection[str]

    @property
    def seconds(self) -> float:
        return self.conf.aziot.timeout.total_seconds()

    def reprovision(self) -> None:
        aziot.reprovision(self.secrets, self.seconds)


def secrets(tpm: Tpm, conf: Config, state: State) -> Collection[str]:
    """Those that IoT Edge was told, or would be. Raises ModuleMissing."""
    told = store.read(aziot_step.file(conf)) or b""
    found = aziot_step.desired(conf, state, preflight.who(conf, tpm), told)
    kept = {*secrets_in(told).values(), *(found.secrets() if found else ())}
    return frozenset(kept - {""})


def act(rung: Rung, hands: Hands, stuck: Stuck, before: Mark, keep: Keep) -> None:
    """Raises IotedgeMissing, IotedgeFailed, SystemctlFailed, NoPermission."""
    if rung == "restart":
        torn.remove(hands.conf.aziot.state / "certd/certs")  # nobody ever gets over these
        services.restart(*dict.fromkeys([*stuck.failing, stuck.unit]), secrets=hands.secrets)
    elif rung == "reprovision":
        hands.reprovision()
    elif rung == "remove":
        _remove(hands, stuck, before, keep)


def _remove(hands: Hands, stuck: Stuck, before: Mark, keep: Keep) -> None:
    """With the certificate gone, its service gets another, with another key if need be. What comes
    back to it after a kill removes none but the one that was stuck, and starts in any case."""
    if before.get("stage") != "started":
        try:
            if stuck.path is not None and _digest(stuck.path) == before.get("file"):
                aziot.stop(hands.seconds, hands.secrets)
                store.remove(stuck.path)
        finally:
            services.start(hands.secrets)
        keep({**before, "stage": "started"})
    aziot_identity.answer(hands.conf.aziot.identity_socket, hands.seconds)
    hands.reprovision()
    keep({**before, "stage": "done"})


def _invocation(unit: str) -> str:
    found = services.states([unit]).get(unit)
    return found.invocation if found else ""


def _digest(path: Path | None) -> str:
    data = store.read(path) if path else None
    return "" if data is None else sha256(data).hexdigest()


def _info(conf: Config) -> str:
    """What aziot-identityd keeps of DPS' answer: deleted first by a reprovision, then new."""
    path = conf.aziot.state / "identityd/device_info"
    with store.permitted(path):
        try:
            found = path.stat()
        except FileNotFoundError:
            return ""
        return f"{found.st_ino} {found.st_mtime_ns}"
