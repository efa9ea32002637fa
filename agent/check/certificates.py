"""The certificates that a provisioned device lives by, as its companion judges them."""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

from agent.check.probe import Probe
from agent.config import Config
from agent.errors import AgentError, CertificateOfNobody, CertificateUnwell
from agent.health import look, shown
from agent.health.judge import Judged, judge
from agent.state import State
from agent.steps import azure
from agent.tpm import Tpm


def probes(conf: Config, tpm: Tpm, state: State) -> Iterator[Probe]:
    yield Probe("certificates", partial(_judged, conf, tpm, state), ("tpm", "clock", "device-id"))


def _judged(conf: Config, tpm: Tpm, state: State) -> str:
    """One whose time to be renewed has come is as it should be. Raises CertificateOfNobody, or
    CertificateUnwell: what it is issued by may be the former."""
    if not azure.began(conf, state):
        return "not looked at: this device was not provisioned yet"
    now = datetime.now(UTC)
    found = [judge(each, now) for each in look.gather(tpm, conf, state, {})]
    bad = {each.name: shown.verdict(shown.Report(now, [each])) for each in found}
    worst = max(found, key=lambda each: 0 if each.state == "due" else bad[each.name], default=None)
    if worst is not None and worst.state != "due" and bad[worst.name] != shown.WELL:
        raise _unwell(worst, bad[worst.name])
    told = [f"{each.name} {each.state}" for each in found if each.state != "missing"]
    return ", ".join(told) or "it lives by none"


def _unwell(each: Judged, verdict: int) -> AgentError:
    what = f"cannot count on the certificate '{each.name}': it is {each.state}: {each.why}"
    if verdict == shown.PERSON:
        return CertificateOfNobody(what, name=each.name)
    return CertificateUnwell(what)
