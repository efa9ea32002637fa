"""What of IoT Edge's is stuck, and what can help it.

As tried with the real services, 1.6. RestartSec=5s: who fails at its start is started again every
five seconds, for ever; that heals what another one's recovery heals.

    state                   at its service's start                                healed by
    est-id expired          renewed by the LDevID; if that fails, it fails        a good LDevID
    est-id unreadable       aziot-certd fails, for ever                           removal
    est-id missing          made when it is wanted                                -
    est-id key mismatch     not noticed; nothing is issued until it expires       removal
    device-id expired       renewed, DPS is told; if that fails, it fails         a good est-id
    device-id unreadable    aziot-identityd fails, for ever                       removal
    device-id missing       got anew, with a new key; DPS is not told             reprovision
    device-id key mismatch  till then unnoticed; forgets the hub, fails, for ever removal, reprov.
    given up                back in the queue                                     restart
    aziot-edged-ca          as device-id, by aziot-edged; DPS is no part of it    the same

Given up is said in the words of services.py: a file that cannot be parsed, or that somebody else
changed, or an expired est-id without bootstrap identity; all else is tried again after `retry`.

A reprovision forgets the hub first, and asks DPS then: if DPS does not answer, or turns the device
away, a device that has worked is nobody. So it is for a device-id that does not work any more, or
is not there, alone: nothing is lost by it. It is no help to a service that fails, nor to what only
is late. Who is nobody all the same, with a device-id that is good, is not by itself anybody again
before the service's next start, which may be years: that is a trouble of its own.

A device-id for another key goes unnoticed until aziot-identityd starts, which then forgets the hub:
so that is not restarted before the certificate is removed. Files that hold none go with a restart:
that loses nothing. And nothing is removed that still works, est-id neither: if nobody issued
another, the device would be lost before its time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from agent.config import Config
from agent.health import certd, ladder
from agent.health.judge import Condition, Judged
from agent.health.ladder import Rung, Trouble
from agent.health.services import Unit

RETRY = 0.04  # of a lifetime: aziot_config.Renewal.retry
MILD: Sequence[Rung] = ("wait", "restart")
BROKEN: Sequence[Rung] = ("wait", "restart", "remove")
HELPS: Mapping[Condition, Sequence[Rung]] = {
    "expired": BROKEN,
    "overdue": MILD,
    "no longer auto-renewed": MILD,
    "missing": BROKEN,
    "unreadable": BROKEN,
    "key mismatch": ("wait", "remove"),
}
LOST: Mapping[Condition, Sequence[Rung]] = {  # of a device-id
    "expired": ladder.RUNGS,
    "missing": ("wait", "restart", "reprovision"),
}
REGISTRATION = "registration"
THRICE_A_DAY = ladder.DAY / 3


@dataclass(frozen=True, kw_only=True)
class Stuck:
    """A certificate in its file `path`, or a service, or the registration (None).

    `unit`: who renews it, or it itself; `failing`: units that fail now. `why`: what is the matter,
    in words. `by_est`: it comes from the operational EST server, or cannot be told not to. `late`:
    a certificate that is past its time, or does not work; `ends`: that is, or was, its end.
    """

    trouble: Trouble
    unit: str
    why: str
    path: Path | None = None
    failing: tuple[str, ...] = ()
    by_est: bool = True
    late: bool = False
    ends: datetime | None = None

    @property
    def name(self) -> str:
        return self.trouble.name


def stuck(
    conf: Config,
    judged: Sequence[Judged],
    units: Mapping[str, Unit],
    before: Mapping[str, int],
    *,
    nobody: bool = False,
) -> list[Stuck]:
    """Certificates, each before what is got by it, and the registration; if it is none of these,
    services that fail. `before`: how often systemd had restarted each at the last look. `nobody`:
    the identity service does not know any more who this device is."""
    failing = tuple(name for name in units if _fails(units[name], before))
    seen = {each.name: each for each in judged if each.needed and each.state in HELPS}
    kept = [each for each in certd.kept(conf) if each.id in seen and each.renewed]
    found = [_certificate(conf, each, seen[each.id], failing) for each in kept]
    if nobody and certd.IDENTITYD not in failing and _shows(seen.get(certd.DEVICE_ID)):
        found.append(_registration(conf))
    return found or [_service(conf, units[name]) for name in failing]


def _shows(device_id: Judged | None) -> bool:
    """DPS would know it; whoever attests otherwise has none that is stuck."""
    return device_id is None or device_id.state in ("overdue", "no longer auto-renewed")


def _registration(conf: Config) -> Stuck:
    patience = conf.health.patience.total_seconds()
    return Stuck(
        trouble=Trouble(REGISTRATION, patience, ("wait", "reprovision"), THRICE_A_DAY),
        unit=certd.IDENTITYD,
        why=f"{REGISTRATION} ({certd.IDENTITYD} does not know any more who this device is)",
        by_est=False,
    )


def _certificate(conf: Config, kept: certd.Kept, seen: Judged, failing: tuple[str, ...]) -> Stuck:
    helps = HELPS[seen.state]
    if kept.id == certd.DEVICE_ID:
        helps = LOST.get(seen.state, helps)
    return Stuck(
        trouble=Trouble(kept.id, _patience(conf, seen), helps),
        unit=kept.unit,
        why=described(seen),
        path=kept.path,
        failing=failing,
        by_est=kept.by_est,
        late=seen.state != "no longer auto-renewed",
        ends=seen.not_after,
    )


def _service(conf: Config, unit: Unit) -> Stuck:
    trouble = Trouble(unit.name, conf.health.patience.total_seconds(), MILD)
    return Stuck(trouble=trouble, unit=unit.name, why=f"{unit.name} (it fails: {unit})")


def begun(conf: Config, name: str) -> Stuck | None:
    """That of which a remedy was begun, whatever it is like now; None: it is no more."""
    for each in certd.kept(conf):
        if each.id == name:
            trouble, why = Trouble(name, 0), f"{name} (it was stuck)"
            return Stuck(trouble=trouble, unit=each.unit, why=why, path=each.path)
    if name in certd.UNITS:
        return Stuck(trouble=Trouble(name, 0), unit=name, why=f"{name} (it failed)")
    return None


def described(seen: Judged) -> str:
    return f"{seen.name} ({seen.state}: {seen.why})"


def _fails(unit: Unit, before: Mapping[str, int]) -> bool:
    """Down, waiting for its next try, or started anew by systemd since the last look."""
    return unit.fails or unit.restarts > before.get(unit.name, unit.restarts)


def _patience(conf: Config, seen: Judged) -> float:
    """Seconds: what its service itself waits for before it tries again, if that is shorter."""
    longest = conf.health.patience.total_seconds()
    if seen.not_before is None or seen.not_after is None:
        return longest
    return min(longest, RETRY * max(0.0, (seen.not_after - seen.not_before).total_seconds()))
