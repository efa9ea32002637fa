"""`tpm2cloud reset`: ask, do, and say what is to be revoked, and what stays."""

import argparse
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import config, config_files, events, failure, journal, opened, store
from agent.errors import (
    ResetNeedsTpm,
    ResetUnconfirmed,
    ResetUnderWay,
    ResetWaits,
    TpmAuth,
    TpmUnavailable,
)
from agent.reset import mark
from agent.reset.mark import Mark, Wishes
from agent.state import State
from agent.terminal import asked

if TYPE_CHECKING:
    from agent.reset.intended import Device
    from agent.steps import Step
    from agent.tpm import Tpm

log = logging.getLogger(__name__)


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
    how = verb.add_mutually_exclusive_group()
    help = "also the IDevID, key and certificate, as far as the platform lets it: for ever"
    how.add_argument("--burn-idevid", action="store_true", help=help)
    help = "only what is on the disk: the TPM answers no more; its keys stay in it"
    how.add_argument("--without-tpm", action="store_true", help=help)
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
        if before and before.phase == "configuration":
            if args.dry_run:
                return _last(args, state, before)
            _last(args, state, before)
            before = mark.read(state)
        if before and _is_over(args, state, before):
            _tell(args, None, before, {"configuration": False})
            return 0
        return _looked(args, state, before)


def _is_over(args: argparse.Namespace, state: State, before: Mark) -> bool:
    """Nothing else is wanted, and there is no configuration that says what to look for. What a run
    that was killed has left in the TPM goes when that is opened."""
    if _is_there(args.config) or before.wishes | _wishes(args) != before.wishes:
        return False
    if args.without_tpm:
        return before.phase in ("tpm", "done")
    return before.phase == "done" and not store.exists(state.loaded)


def _is_there(configuration: Path) -> bool:
    return any(map(store.exists, config_files.files(configuration)))


def _wishes(args: argparse.Namespace) -> Wishes:
    return Wishes(
        decommission=args.decommission,
        burn_idevid=args.burn_idevid,
        configuration=args.configuration,
    )


def _looked(args: argparse.Namespace, state: State, before: Mark | None) -> int:
    from agent.reset.intended import Device

    configured = _is_there(args.config)
    needed = before is None or (before.phase == "removing" and before.configured)
    conf = config.load(args.config) if configured or needed else _unconfigured(before)
    about = {"file": args.config, "configured": configured}
    if args.without_tpm:
        return _reset(args, Device(conf, None, state, **about), before)
    hierarchies = opened.FACTORY if args.burn_idevid else opened.DEVICE
    ledger = None if args.dry_run else state.loaded
    approvals = conf.idevid.approvals
    try:
        with opened.tpm(conf.tpm.tcti, ledger, hierarchies, approvals=approvals) as tpm:
            return _reset(args, Device(conf, tpm, state, **about), before)
    except TpmUnavailable as e:
        raise ResetNeedsTpm(f"cannot reset this device: {e}") from e


def _unconfigured(before: Mark | None) -> "config.Config":
    """An earlier reset has removed it, and all that it said where to find, but for the TPM."""
    chip = config.Tpm(tcti=before.tcti) if before else config.Tpm()
    target = config.Device(target="device")
    return config.Config(dps=config.Dps(id_scope=""), device=target, tpm=chip)


def _reset(args: argparse.Namespace, device: "Device", before: Mark | None) -> int:
    from agent.reset.intended import intended, settled

    wanted = intended(device, _wishes(args), before)
    steps, todo = _steps(device, wanted)
    if args.dry_run:
        _tell(args, device, wanted, {step.name: step.name in todo for step in steps})
        return 0
    if todo or not settled(before, device):
        _able(device, wanted)
        _confirmed(args, before, wanted, todo)
        # Anew: IoT Edge was at work until the answer came.
        wanted = intended(device, _wishes(args), before)
        steps, todo = _steps(device, wanted)
        mark.write(device.state, wanted)
        write = partial(_written, args, device, wanted)
        if wanted.wishes.burn_idevid:
            write()  # as long as there is a key to sign it with
        _run(device.state, wanted, steps, write)
    _tell(args, device, wanted, {step.name: step.name in todo for step in steps})
    return 0


def _able(device: "Device", wanted: Mark) -> None:
    """Without the owner's password no key goes, and without each none is taken back; nothing else
    has gone by then. Raises TpmAuth, and what one cannot be opened for."""
    tpm = device.tpm
    if tpm is None or (wanted.elsewhere and not wanted.keys):
        return
    there = tpm.passwords_set()
    if why := [e for name, e in tpm.withheld.items() if name in there]:
        raise why[0]
    keys = any(_is_at(tpm, *key) for key in wanted.keys.items())
    if keys and "owner" in there and not tpm.opened_by("owner", tpm.auths.get("owner", b"")):
        what = "its TPM's owner hierarchy has a password, and the credential with it is"
        how = "wrong" if "owner" in tpm.auths else "missing"
        raise TpmAuth(f"cannot reset this device: {what} {how}")
    if not wanted.elsewhere:
        from agent.steps import authorization

        authorization.releasable(tpm, device.state)


def _is_at(tpm: "Tpm", handle: int, name: str) -> bool:
    found = tpm.public(handle)
    return found is not None and found.name.hex() == name


def _steps(device: "Device", wanted: Mark) -> tuple[list["Step"], list[str]]:
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


def _written(args: argparse.Namespace, device: "Device", wanted: Mark) -> None:
    from agent.receipt import keep
    from agent.receipt.facts import Here

    if device.tpm is None:
        return
    here = Here(device.conf, device.state, args.config)
    keep.ended(here, device.tpm, "decommissioned" if wanted.wishes.decommission else "reset")


def _done(state: State, wanted: Mark) -> None:
    """`status` says from now on what the device waits for."""
    mark.passed(state, "tpm" if wanted.without_tpm else "done")
    with contextlib.suppress(ResetWaits, ResetUnderWay), failure.remembered(state):
        mark.refuse(state)
    what = "this device is reset, but for its TPM" if wanted.without_tpm else "this device is reset"
    log.info("%s", what, extra=journal.about(events.RESET, what=_what(wanted)))


def _last(args: argparse.Namespace, state: State, before: Mark) -> int:
    """What was cut off in its last step: there may be no configuration any more."""
    from agent.reset import acts

    step = acts.configuration(before)
    if args.dry_run:
        _tell(args, None, before, {step.name: step.done() is None})
    else:
        store.remove(state.loaded)  # nothing of ours was in the TPM any more
        _run(state, before, [step])
    return 0


def _what(wanted: Mark) -> str:
    which = {**asdict(wanted.wishes), "without_tpm": wanted.without_tpm}
    more = [name.replace("_", "-") for name, chosen in which.items() if chosen]
    return " ".join(["reset", *(f"--{name}" for name in more)])


def _confirmed(
    args: argparse.Namespace, before: Mark | None, wanted: Mark, todo: Sequence[str]
) -> None:
    """What was begun was confirmed then. Raises ResetUnconfirmed."""
    begun = before is not None and before.phase in ("removing", "configuration")
    if args.yes or (begun and _act(before) == _act(wanted)):
        return
    registration = wanted.hand_over["registration"] or {}
    who = f"'{registration['id']}'" if registration else "this device"
    how = f" go{_of_the_tpm(wanted)} ({', '.join(todo) or 'nothing is left of it'})"
    answer = asked(f"Let {who}{how}?")
    if answer is None:
        raise ResetUnconfirmed("cannot reset this device: there is nobody to ask, and no -y")
    if not answer:
        raise ResetUnconfirmed("cannot reset this device: the answer was not yes")


def _act(of: Mark | None) -> tuple[Wishes, bool] | None:
    return (of.wishes, of.without_tpm) if of else None


def _of_the_tpm(wanted: Mark) -> str:
    if wanted.without_tpm:
        return " without its TPM, in which its keys stay"
    return ", whose keys are in another TPM and stay there" if wanted.elsewhere else ""


def _tell(
    args: argparse.Namespace, device: "Device | None", wanted: Mark, steps: dict[str, bool]
) -> None:
    from agent.reset import said

    said.tell(args, device, wanted, steps)
