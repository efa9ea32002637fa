"""What each verb of the command line does: read the configuration, ask a library, say the result.

Returns an exit status; raises AgentError, which agent/cli.py turns into two lines and its status.
"""

import argparse
import contextlib
import gc
import json
import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import (
    config,
    config_factory,
    config_files,
    events,
    failure,
    journal,
    opened,
    store,
)
from agent.errors import (
    ReregistersItself,
    TelemetryElsewhere,
)
from agent.reset import mark
from agent.state import State
from agent.terminal import say

if TYPE_CHECKING:
    from agent.steps import Step

# What needs the TPM is imported by the verb that does: `tpm2cloud config` must not wait for it.

log = logging.getLogger(__name__)
CONFIG = config.ETC / "config.toml"


def provision(args: argparse.Namespace) -> int:
    from agent import inputs, plan
    from agent.receipt import keep
    from agent.receipt.facts import Here

    started, conf, state = time.monotonic(), config.load(args.config), opened.state()
    if args.reregister and conf.for_edge:
        why = "with device.target = 'edge', IoT Edge does that"
        raise ReregistersItself(f"cannot register this device anew: {why}")
    if args.dry_run:
        mark.admit(conf, state, again=args.again)
        inputs.check(conf)
        return _dry_run(conf, state, anew=args.reregister)
    with state.locked(), failure.remembered(state):
        mark.admit(conf, state, again=args.again)
        if args.again:
            mark.wanted(conf, state)
        inputs.check(conf)
        if args.reregister:
            _wish(state)
        with opened.tpm(conf.tpm.tcti, state.loaded, approvals=conf.idevid.approvals) as tpm:
            steps = plan.plan(conf, tpm, state, anew=args.reregister)
            plan.run([*steps, *mark.lifting(state)])
            keep.after(Here(conf, state, args.config), tpm, ask=True)
    journal.tell_systemd("STATUS=provisioned")
    if journal.on_journal():  # on a terminal, the steps have just said so
        seconds = f"{time.monotonic() - started:.2f}"
        about = journal.about(events.PROVISIONED, seconds=seconds)
        log.info("This device is provisioned (%s s).", seconds, extra=about)
        journal.sync()
    return 0


def _wish(state: State) -> None:
    from agent.steps import assigned

    assigned.wish(state)


def _dry_run(conf: config.Config, state: State, *, anew: bool) -> int:
    from agent import plan

    with opened.tpm(conf.tpm.tcti, approvals=conf.idevid.approvals) as tpm:
        return _left(plan.plan(conf, tpm, state, anew=anew))


def _left(steps: "Sequence[Step]") -> int:
    from agent import plan

    width = max(len(step.name) for step in steps)
    for step in steps:
        was = plan.at(step, step.done)
        say(f"{step.name:{width}}  {f'done: {was}' if was else 'would be done'}")
    return 0


def status(args: argparse.Namespace) -> int:
    from agent import plan, status

    conf, state = config.load(args.config), opened.state()
    with opened.tpm(conf.tpm.tcti, approvals=conf.idevid.approvals) as tpm:
        seen = status.look(plan.plan(conf, tpm, state), state)
        room = status.room(tpm)
    if args.json:
        say(json.dumps(status.as_json(seen, room), indent=2))
    else:
        say("\n".join(status.as_text(seen, room)))
    return status.verdict(seen)


def check(args: argparse.Namespace) -> int:
    from agent.check import run, shown, whole

    found = whole.examined(args.config, opened.state(), lambda: opened.auths(opened.DEVICE))
    if args.json:
        say(json.dumps(shown.as_json(found), indent=2))
    else:
        say("\n".join(shown.as_text(found)))
    return run.status(found)


def health(args: argparse.Namespace) -> int:
    from agent.health import run, shown, told
    from agent.health.seen import Device
    from agent.receipt import keep
    from agent.receipt.facts import Here

    state = opened.state()
    with contextlib.ExitStack() as stack:
        if not args.dry_run:
            stack.enter_context(state.locked())
        mark.refuse(state)
        if not args.dry_run:
            seen = stack.enter_context(told.witness(state))
        conf = config.load(args.config)
        if not args.dry_run:
            seen(conf)
        ledger = None if args.dry_run else state.loaded
        approvals = conf.idevid.approvals
        tpm = stack.enter_context(opened.tpm(conf.tpm.tcti, ledger, approvals=approvals))
        report = run.run(Device(conf, tpm, state), dry=args.dry_run)
        if not args.dry_run:
            keep.after(Here(conf, state, args.config), tpm)
    if args.json:
        say(json.dumps(shown.as_json(report), indent=2))
    elif not journal.on_journal():  # there, what changed has been told
        say("\n".join(shown.as_text(report)))
    return shown.verdict(report)


def needs_renewal(args: argparse.Namespace) -> int:
    from agent.health import run
    from agent.health.seen import Device
    from agent.receipt import keep
    from agent.receipt.facts import Here

    conf, state = config.load(args.config), opened.state()
    if store.exists(state.reset):
        return 1
    with opened.tpm(conf.tpm.tcti, approvals=conf.idevid.approvals) as tpm:
        due = run.is_due(Device(conf, tpm, state))
        return 0 if due or keep.is_due(Here(conf, state, args.config), tpm) else 1


def identity(args: argparse.Namespace) -> int:
    from agent import identity_csv

    if args.merge:
        say(identity_csv.merge(args.merge))
        return 0
    from agent import identity

    configured, conf = config_or_default(args)
    with opened.tpm(conf.tpm.tcti, given=opened.auths_if_permitted()) as tpm:
        found = identity.gather(tpm, conf, log.warning, configured=configured)
    if args.csv:
        say(identity_csv.table([identity_csv.row(found)]))
    elif args.json:
        say(json.dumps(found, indent=2))
    else:
        say("\n".join(identity.as_text(found, edge=conf.for_edge)))
    return 0


def config_or_default(args: argparse.Namespace) -> tuple[bool, config.Config]:
    """For what can be done where no configuration is yet; whether there is one."""
    if args.config != CONFIG or any(map(store.exists, config_files.files(CONFIG))):
        return True, config.load(args.config)
    return False, config.Config(dps=config.Dps(id_scope=""))


def show_config(args: argparse.Namespace) -> int:
    found: tuple[Any, Any] = (
        config_factory.read(_manufacture_toml(args)) if args.factory else config.read(args.config)
    )
    for at, value, origin in config_files.effective(*found):
        say(f"{at} = {config_files.written(value)}  # {origin}")
    return 0


def _manufacture_toml(args: argparse.Namespace) -> Path:
    given: Path = args.config
    return config_factory.FILE if given == CONFIG else given


def manufacture(args: argparse.Namespace) -> int:
    from agent import manufacture, plan

    conf, state = config_factory.load(_manufacture_toml(args)), opened.state()
    of_line: Any = {"hierarchies": opened.FACTORY, "approvals": conf.idevid.approvals}
    with state.locked(), opened.tpm(conf.tpm.tcti, state.loaded, **of_line) as tpm:
        line = manufacture.Line(conf, tpm, state)
        if args.dry_run:
            return _left(manufacture.steps(line, force=args.force))
        if args.challenge_in:
            manufacture.answer(line, args.challenge_in, args.answer_out)
        elif args.csr_out:
            plan.run(manufacture.key_steps(line))
            manufacture.csr_out(line, args.csr_out)
        else:
            plan.run(manufacture.steps(line, force=args.force, cert_in=args.cert_in))
            if args.cert_in and manufacture.not_used(line, args.cert_in):
                log.warning("'%s' was not used: a good one is there (--force)", args.cert_in)
            say(json.dumps(manufacture.export(line)))
    return 0


def telemetry(args: argparse.Namespace) -> int:
    conf, state = config.load(args.config), opened.state()
    if conf.for_edge:
        why = "with device.target = 'edge', IoT Edge does that"
        raise TelemetryElsewhere(f"cannot send messages to the hub: {why}")
    mark.admit(conf, state)
    from agent import telemetry, telemetry_lines, telemetry_link

    gc.enable()  # this may last for years
    device = telemetry_link.Device(conf, state, partial(opened.tpm, conf.tpm.tcti))
    with (
        telemetry_lines.source(args.file, args.count, args.interval) as source,
        telemetry.posting(device, args.patience) as post,
    ):
        try:
            post.run(source)
        finally:
            log.info("%s", post.tally.told)
    return 0


def import_root(args: argparse.Namespace) -> int:
    from agent import import_root, makers

    found = makers.read(args.file)
    say("\n".join(import_root.shown(found)))
    into = [args.into] if args.into else []
    directories = [*into, *config_or_default(args)[1].tpm.manufacturer_roots]
    for line in import_root.install(args.file, found, args.sha256, directories):
        say(line)
    return 0


def lint_image(args: argparse.Namespace) -> int:
    from agent import lint

    found = lint.look(args.root, args.config)
    say(lint.as_json(args.root, found) if args.json else "\n".join(lint.as_text(found)))
    return 1 if lint.errors(found) else 0
