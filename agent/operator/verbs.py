"""What each verb of tpm2cloud-operator does: look, act, look again, and say the result."""

import argparse
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from agent.config_files import written
from agent.errors import AzureAbsent, DestroyUnconfirmed
from agent.http import printable
from agent.operator import azure, deploy, destroy, enrol, settings, shapes
from agent.operator.enrol import Outcome
from agent.operator.resources import Arm
from agent.operator.service import Service
from agent.steps import Step
from agent.steps.completing import at, converge
from agent.terminal import asked, say

log = logging.getLogger(__name__)
LINE = 1000  # characters of what is said of one device, at most
TO_DO, SOME_REFUSED = 3, 4  # exit statuses


def _arm(args: argparse.Namespace) -> Arm:
    azure.quiet()
    return Arm(settings.load(args.config))


def planned(args: argparse.Namespace) -> int:
    """Nothing is changed."""
    arm = _arm(args)
    operational = deploy.operational(arm)
    seen = [(step.name, at(step, step.done)) for step in deploy.steps(arm, operational)]
    found = deploy.certificates(arm, operational) if operational else []
    leaving = deploy.leaving(arm, operational) if operational else []
    if args.json:
        steps = [{"step": name, "done": was} for name, was in seen]
        say(json.dumps({"steps": steps, "certificates": found, "leaving": leaving}))
    else:
        for name, was in seen:
            say(f"{name}: {f'done: {was}' if was else 'to be done'}")
        for each in found:
            say(_shown(each))
        for name in leaving:
            say(f"certificate: {name}: whom it has certified is not let in any more")
    return 0 if all(was for _, was in seen) else TO_DO


def _shown(certificate: dict[str, Any]) -> str:
    """A CA certificate in some lines, all that a person needs to say yes to it."""
    what = "is in DPS" if certificate["uploaded"] else "to be uploaded"
    lets = "; whom it certifies is let in" if certificate["issuing"] else ""
    return (
        f"certificate: {certificate['subject']}: {what}{lets}\n"
        f"    SHA-256 {certificate['sha256']}\n"
        f"    valid from {certificate['not_before']} to {certificate['not_after']}"
    )


def deployed(args: argparse.Namespace) -> int:
    arm = _arm(args)
    steps = _completed(deploy.steps(arm, deploy.operational(arm)))
    lines = deploy.lines(arm)
    if args.json:
        say(json.dumps({"steps": steps, "dps": lines}))
    else:
        say("[dps]")
        for name, value in lines.items():
            say(f"{name} = {written(value)}")
    return 0


def destroyed(args: argparse.Namespace) -> int:
    arm = _arm(args)
    steps = destroy.steps(arm)
    going = [step.name for step in steps if at(step, step.done) is None]
    if going and not args.yes:
        log.info("To be removed, with all devices and enrolments: %s", ", ".join(going))
        if not asked("Really?"):
            raise DestroyUnconfirmed("cannot remove anything: nobody has said yes")
    done = _completed(steps)
    if args.json:
        say(json.dumps({"steps": done}))
    return 0


def _completed(steps: Sequence[Step]) -> list[dict[str, str]]:
    """Each step, done by now; told on stderr as it goes."""
    found = []
    for step in steps:
        log.debug("%s: looking", step.name)
        _, what, evidence = at(step, partial(converge, step))
        log.info("%s: %s: %s", step.name, what, evidence)
        found.append({"step": step.name, "was": what, "evidence": evidence})
    return found


def enrolled(args: argparse.Namespace) -> int:
    arm, counts = _arm(args), Counter[str]()
    if (dps := arm.dps()) is None:
        name = arm.config.dps.name
        raise AzureAbsent(f"cannot enrol: there is no provisioning service {name}")

    def tell(outcome: Outcome) -> None:
        counts[outcome.result] += 1
        _said(outcome, args.json)

    try:
        shape = shapes.Shape(arm.config, arm.hub_host())
        enrol.enrol(shape, Service(arm, dps), args.files, tell, replace=args.replace)
    finally:
        total = {name: counts[name] for name in ("new", "changed", "unchanged", "refused")}
        if args.json:
            say(json.dumps(total))
        else:
            say(", ".join(f"{n} {name}" for name, n in total.items()))
    return SOME_REFUSED if counts["refused"] else 0


def _said(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        say(json.dumps(vars(outcome)))
    elif outcome.result != "unchanged":
        name = " ".join(filter(None, (outcome.registration_id, f"({outcome.where})")))
        line = f"{outcome.result} {name}{f': {outcome.why}' if outcome.why else ''}"
        say(printable(line, LINE))  # a name in a file may be whatever somebody wrote


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "plan": planned,
    "deploy": deployed,
    "enrol": enrolled,
    "destroy": destroyed,
}
