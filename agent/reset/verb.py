"""`tpm2cloud reset`: ask, do, and say what is to be revoked, and what stays."""

import argparse
import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from agent import config, config_files, events, failure, journal, opened, store
from agent.errors import ResetUnconfirmed, ResetWaits
from agent.reset import mark
from agent.reset.mark import Mark, Wishes
from agent.state import State
from agent.terminal import asked, say

if TYPE_CHECKING:
    from agent.config import Config
    from agent.steps import Step
    from agent.tpm import Tpm

log = logging.getLogger(__name__)
TCG = (
    "A burnt IDevID key of the TCG's profile is made of a seed that stays in the TPM: who may use "
    "the endorsement hierarchy can make it again. Revoke its certificate."
)
COPIES = (
    "Who has a copy of this disk, and this TPM, has what is removed here: no certificate is dead "
    "before it is revoked."
)


def add(commands: Any) -> None:
    verb = commands.add_parser(
        "reset",
        help="let this device go: no key and no certificate of its owner's stays",
        description="Let this device go: its LDevID key, the PKCS#11 token, hub key, certificates, "
        "what IoT Edge keeps of them, and the state go; then it is said what is to be revoked at "
        "CAs, DPS and hub, and what stays. EK and IDevID stay, so another owner can have it "
        "provisioned. Asks first. What was cut off, the same command finishes.",
    )
    help = "also keys of IoT hubs that are not of this installation, but of an earlier one"
    verb.add_argument("--decommission", action="store_true", help=help)
    help = "also the IDevID, key and certificate, as far as the platform lets it: for ever"
    verb.add_argument("--burn-idevid", action="store_true", help=help)
    help = "also this configuration, its drop-ins, and the passwords that it names"
    verb.add_argument("--configuration", action="store_true", help=help)
    verb.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    verb.add_argument("-y", "--yes", action="store_true", help="do not ask")
    verb.add_argument("--json", action="store_true", help="for programs")
    verb.set_defaults(verb=reset)


def reset(args: argparse.Namespace) -> int:
    state = opened.state()
    with contextlib.nullcontext() if args.dry_run else state.locked():
        before = mark.read(state)
        wishes = _wishes(args)
        if before and before.wishes | wishes == before.wishes and _is_over(args, before):
            return _last(args, state, before)
        conf = config.load(args.config)
        hierarchies = opened.FACTORY if args.burn_idevid else opened.DEVICE
        ledger = None if args.dry_run else state.loaded
        approvals = conf.idevid.approvals
        with opened.tpm(conf.tpm.tcti, ledger, hierarchies, approvals=approvals) as tpm:
            return _reset(args, Device(conf, tpm, state), before)


def _is_over(args: argparse.Namespace, before: Mark) -> bool:
    """All but the configuration has gone, if not that, too."""
    there = any(map(store.exists, config_files.files(args.config)))
    return before.phase == "configuration" or (before.phase == "done" and not there)


def _wishes(args: argparse.Namespace) -> Wishes:
    return Wishes(
        decommission=args.decommission,
        burn_idevid=args.burn_idevid,
        configuration=args.configuration,
    )


@dataclass(frozen=True)
class Device:
    conf: "Config"
    tpm: "Tpm"
    state: State


def _reset(args: argparse.Namespace, device: Device, before: Mark | None) -> int:
    wanted = _intended(args, device, before)
    steps, todo = _steps(device, wanted)
    if args.dry_run:
        _tell(args, device, wanted, {step.name: step.name in todo for step in steps})
        return 0
    if todo or before is None or before.phase != "done":
        _able(device.tpm)
        _confirmed(args, before, wanted, todo)
        wanted = _intended(args, device, before)  # anew: IoT Edge was at work until the answer came
        steps, todo = _steps(device, wanted)
        mark.write(device.state, wanted)
        write = partial(_written, args, device, wanted)
        if wanted.wishes.burn_idevid:
            write()  # as long as there is a key to sign it with
        _run(device.state, wanted, steps, write)
    _tell(args, device, wanted, {step.name: step.name in todo for step in steps})
    return 0


def _able(tpm: "Tpm") -> None:
    """Without the owner's password no key goes, and without each none is taken back; nothing else
    has gone by then. Raises what one cannot be opened for."""
    there = tpm.passwords_set()
    if why := [e for name, e in tpm.withheld.items() if name in there]:
        raise why[0]


def _steps(device: Device, wanted: Mark) -> tuple[list["Step"], list[str]]:
    """And the names of those that there is something to do for."""
    from agent import plan
    from agent.reset import acts

    steps = acts.steps(device.conf, device.tpm, device.state, wanted)
    if wanted.wishes.configuration:
        steps.append(acts.configuration(wanted))
    return steps, [step.name for step in steps if plan.at(step, step.done) is None]


def _run(
    state: State, wanted: Mark, steps: "Sequence[Step]", write: Callable[[], None] | None = None
) -> None:
    """`write`: the receipt, as long as there is a configuration."""
    from agent import plan

    last = [step for step in steps if step.name == "configuration"]
    if first := [step for step in steps if step not in last]:
        plan.run(first)
    if write:
        write()
    if last:
        mark.passed(state, "configuration")
        plan.run(last)
    _done(state, wanted)


def _written(args: argparse.Namespace, device: Device, wanted: Mark) -> None:
    from agent.receipt import keep
    from agent.receipt.facts import Here

    here = Here(device.conf, device.state, args.config)
    keep.ended(here, device.tpm, "decommissioned" if wanted.wishes.decommission else "reset")


def _done(state: State, wanted: Mark) -> None:
    """`status` says from now on what the device waits for."""
    mark.passed(state, "done")
    with contextlib.suppress(ResetWaits), failure.remembered(state):
        mark.refuse(state)
    log.info("this device is reset", extra=journal.about(events.RESET, what=_what(wanted.wishes)))


def _last(args: argparse.Namespace, state: State, before: Mark) -> int:
    """What was cut off in its last step: there may be no configuration any more."""
    from agent.reset import acts

    step = acts.configuration(before)
    todo = {step.name: step.done() is None}
    if before.phase != "done" and not args.dry_run:
        store.remove(state.loaded)  # nothing of ours was in the TPM any more
        _run(state, before, [step])
    _tell(args, None, before, todo)
    return 0


def _what(wishes: Wishes) -> str:
    more = [name.replace("_", "-") for name, wanted in asdict(wishes).items() if wanted]
    return " ".join(["reset", *(f"--{name}" for name in more)])


# --- what is intended ---


def _intended(args: argparse.Namespace, device: Device, before: Mark | None) -> Mark:
    """What was begun is finished as it was decided; what is wanted besides is added."""
    wishes = _wishes(args)
    if before and before.phase != "done":
        wishes = wishes | before.wishes
        if wishes == before.wishes:
            return before
    now = _decided(args, device, wishes)
    if before is None:
        return now
    from agent.reset import handover

    both = replace(now, hand_over=handover.merged(before.hand_over, now.hand_over))
    if before.phase == "done":
        return both
    return replace(
        both,
        owner=before.owner,
        keys={**before.keys, **now.keys},
        indices={**before.indices, **now.indices},
    )


def _decided(args: argparse.Namespace, device: Device, wishes: Wishes) -> Mark:
    from agent.reset import decided, handover, left
    from agent.steps import preflight

    conf, tpm, state = device.conf, device.tpm, device.state
    idevid = decided.certificate(conf, tpm) if wishes.burn_idevid else None
    files = left.configuration(args.config, conf) if wishes.configuration else []
    return Mark(
        phase="removing",
        wishes=wishes,
        owner=mark.owner(conf),
        hand_over=handover.gather(conf, state, lambda: preflight.who(conf, tpm), idevid),
        keys=decided.keys(conf, tpm, state, wishes),
        indices=decided.indices(conf, tpm, wishes),
        files=tuple(files),
    )


def _confirmed(
    args: argparse.Namespace, before: Mark | None, wanted: Mark, todo: Sequence[str]
) -> None:
    """What was begun was confirmed then. Raises ResetUnconfirmed."""
    begun = before is not None and before.phase != "done" and before.wishes == wanted.wishes
    if args.yes or begun:
        return
    registration = wanted.hand_over["registration"] or {}
    who = f"'{registration['id']}'" if registration else "this device"
    answer = asked(f"Let {who} go ({', '.join(todo) or 'nothing is left of it'})?")
    if answer is None:
        raise ResetUnconfirmed("cannot reset this device: there is nobody to ask, and no -y")
    if not answer:
        raise ResetUnconfirmed("cannot reset this device: the answer was not yes")


# --- what is said ---


def _tell(
    args: argparse.Namespace, device: Device | None, wanted: Mark, steps: dict[str, bool]
) -> None:
    found = _report(args, device, wanted, steps)
    say(json.dumps(found, indent=2) if args.json else "\n".join(_as_text(found, wanted)))


def _report(
    args: argparse.Namespace, device: Device | None, wanted: Mark, steps: dict[str, bool]
) -> dict[str, Any]:
    from agent.reset import handover, left

    found: dict[str, Any] = {
        "state": "would be reset" if args.dry_run else "reset",
        "steps": [{"step": name, "to do": todo} for name, todo in steps.items()],
        "hand_over": wanted.hand_over,
        "commands": [line.strip() for line in handover.commands(wanted.hand_over)],
        "notes": [COPIES, *([TCG] if wanted.wishes.burn_idevid else [])],
    }
    if device is not None:
        files = left.configuration(args.config, device.conf)
        on_disk = left.on_disk(device.conf, device.state, wanted.wishes, files)
        gone = [*wanted.keys, *wanted.indices] if args.dry_run else []
        found["stays"] = {"tpm": left.in_tpm(device.tpm, gone), "disk": list(on_disk)}
    return found


def _as_text(found: dict[str, Any], wanted: Mark) -> Iterator[str]:
    from agent.reset import handover

    if found["state"] == "would be reset":
        width = max(len(each["step"]) for each in found["steps"])
        for each in found["steps"]:
            yield f"{each['step']:{width}}  {'would be done' if each['to do'] else 'done'}"
        yield ""
    yield from handover.as_text(wanted.hand_over)
    for place, which in (("tpm", "In the TPM"), ("disk", "On the disk")):
        if stays := found.get("stays", {}).get(place):
            yield f"{which}, these stay:"
            yield from _listed(stays)
    yield from found["notes"]


def _listed(stays: dict[str, str] | list[str]) -> Iterator[str]:
    if isinstance(stays, dict):
        yield from (f"  {at}  {what}" for at, what in stays.items())
    else:
        yield from (f"  {what}" for what in stays)
