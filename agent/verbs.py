"""What each verb of the command line does: read the configuration, ask a library, say the result.

Returns an exit status; raises AgentError, which agent/cli.py turns into two lines and its status.
"""

import argparse
import contextlib
import gc
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import config, config_factory, config_files, credentials, events, failure, journal, store
from agent.errors import (
    DiskFull,
    NoPermission,
    ReregistersItself,
    SecretUnreadable,
    TelemetryElsewhere,
)
from agent.state import State

if TYPE_CHECKING:
    from agent.steps import Step
    from agent.tpm import Tpm

# What needs the TPM is imported by the verb that does: `tpm2cloud config` must not wait for it.

log = logging.getLogger(__name__)
CONFIG = config.ETC / "config.toml"
DEVICE, FACTORY = ("owner", "endorsement"), ("owner", "endorsement", "platform")
PASSWORD = 64  # bytes of a TPM2B_AUTH (TPM 2.0 Library, part 2, 10.4.2, 10.4.5)


def provision(args: argparse.Namespace) -> int:
    from agent import inputs, plan

    started, conf, state = time.monotonic(), config.load(args.config), _state()
    if args.reregister and conf.for_edge:
        why = "with device.target = 'edge', IoT Edge does that"
        raise ReregistersItself(f"cannot register this device anew: {why}")
    if args.dry_run:
        inputs.check(conf)
        return _dry_run(conf, state, anew=args.reregister)
    with state.locked(), failure.remembered(state):
        inputs.check(conf)
        if args.reregister:
            _wish(state)
        with _tpm(conf.tpm.tcti, state.loaded) as tpm:
            plan.run(plan.plan(conf, tpm, state, anew=args.reregister))
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

    with _tpm(conf.tpm.tcti) as tpm:
        return _left(plan.plan(conf, tpm, state, anew=anew))


def _left(steps: "Sequence[Step]") -> int:
    from agent import plan

    width = max(len(step.name) for step in steps)
    for step in steps:
        was = plan.at(step, step.done)
        _say(f"{step.name:{width}}  {f'done: {was}' if was else 'would be done'}")
    return 0


def status(args: argparse.Namespace) -> int:
    from agent import plan, status

    conf, state = config.load(args.config), _state()
    with _tpm(conf.tpm.tcti) as tpm:
        seen = status.look(plan.plan(conf, tpm, state), state)
        room = status.room(tpm)
    if args.json:
        _say(json.dumps(status.as_json(seen, room), indent=2))
    else:
        _say("\n".join(status.as_text(seen, room)))
    return status.verdict(seen)


def check(args: argparse.Namespace) -> int:
    from agent.check import run, shown, whole

    found = whole.examined(args.config, _state(), lambda: _auths(DEVICE))
    if args.json:
        _say(json.dumps(shown.as_json(found), indent=2))
    else:
        _say("\n".join(shown.as_text(found)))
    return run.status(found)


def health(args: argparse.Namespace) -> int:
    from agent.health import run, shown, told
    from agent.health.seen import Device

    state = _state()
    with contextlib.ExitStack() as stack:
        if not args.dry_run:
            stack.enter_context(state.locked())
            seen = stack.enter_context(told.witness(state))
        conf = config.load(args.config)
        if not args.dry_run:
            seen(conf)
        ledger = None if args.dry_run else state.loaded
        tpm = stack.enter_context(_tpm(conf.tpm.tcti, ledger))
        report = run.run(Device(conf, tpm, state), dry=args.dry_run)
    if args.json:
        _say(json.dumps(shown.as_json(report), indent=2))
    elif not journal.on_journal():  # there, what changed has been told
        _say("\n".join(shown.as_text(report)))
    return shown.verdict(report)


def needs_renewal(args: argparse.Namespace) -> int:
    from agent.health import run
    from agent.health.seen import Device

    conf = config.load(args.config)
    with _tpm(conf.tpm.tcti) as tpm:
        return 0 if run.is_due(Device(conf, tpm, _state())) else 1


def identity(args: argparse.Namespace) -> int:
    from agent import identity_csv

    if args.merge:
        _say(identity_csv.merge(args.merge))
        return 0
    from agent import identity

    configured, conf = _config_or_default(args)
    from agent.tpm import Tpm

    with Tpm(conf.tpm.tcti, _auths_if_permitted()) as tpm:
        found = identity.gather(tpm, conf, log.warning, configured=configured)
    if args.csv:
        _say(identity_csv.table([identity_csv.row(found)]))
    elif args.json:
        _say(json.dumps(found, indent=2))
    else:
        _say("\n".join(identity.as_text(found, edge=conf.for_edge)))
    return 0


def _config_or_default(args: argparse.Namespace) -> tuple[bool, config.Config]:
    """For what can be done where no configuration is yet; whether there is one."""
    if args.config != CONFIG or any(map(store.exists, config_files.files(CONFIG))):
        return True, config.load(args.config)
    return False, config.Config(dps=config.Dps(id_scope=""))


def show_config(args: argparse.Namespace) -> int:
    found: tuple[Any, Any] = (
        config_factory.read(_manufacture_toml(args)) if args.factory else config.read(args.config)
    )
    for at, value, origin in config_files.effective(*found):
        _say(f"{at} = {config_files.written(value)}  # {origin}")
    return 0


def _manufacture_toml(args: argparse.Namespace) -> Path:
    given: Path = args.config
    return config_factory.FILE if given == CONFIG else given


def manufacture(args: argparse.Namespace) -> int:
    from agent import manufacture, plan

    conf, state = config_factory.load(_manufacture_toml(args)), _state()
    with state.locked(), _tpm(conf.tpm.tcti, state.loaded, FACTORY) as tpm:
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
            _say(json.dumps(manufacture.export(line)))
    return 0


def telemetry(args: argparse.Namespace) -> int:
    conf, state = config.load(args.config), _state()
    if conf.for_edge:
        why = "with device.target = 'edge', IoT Edge does that"
        raise TelemetryElsewhere(f"cannot send messages to the hub: {why}")
    from agent import telemetry, telemetry_lines, telemetry_link

    gc.enable()  # this may last for years
    device = telemetry_link.Device(conf, state, partial(_tpm, conf.tpm.tcti))
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
    _say("\n".join(import_root.shown(found)))
    into = [args.into] if args.into else []
    directories = [*into, *_config_or_default(args)[1].tpm.manufacturer_roots]
    for line in import_root.install(args.file, found, args.sha256, directories):
        _say(line)
    return 0


def lint_image(args: argparse.Namespace) -> int:
    from agent import lint

    found = lint.look(args.root, args.config)
    _say(lint.as_json(args.root, found) if args.json else "\n".join(lint.as_text(found)))
    return 1 if lint.errors(found) else 0


def _say(text: str) -> None:
    """What was asked for. A reader who has seen enough and is gone (`| head`) is no failure."""
    try:
        print(text, flush=True)
    except OSError as e:
        if not isinstance(e, BrokenPipeError):
            raise DiskFull(f"cannot write the result: {e.strerror}", path="/dev/stdout") from e
        # Nor at the end, when what is left in the buffer is written.
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 (a device)
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _state() -> State:
    """systemd names the directory, or several (systemd.exec(5), StateDirectory=)."""
    named = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return State(Path(named) if named else config.VAR)


@contextlib.contextmanager
def _tpm(
    tcti: str, ledger: Path | None = None, hierarchies: Sequence[str] = DEVICE
) -> Iterator["Tpm"]:
    from agent.tpm import Tpm

    with Tpm(tcti, _auths(hierarchies), ledger) as tpm:
        yield tpm


def _auths(hierarchies: Sequence[str]) -> dict[str, bytes]:
    """The passwords of the TPM's hierarchies, as far as there are any."""
    named = {name: credentials.optional(f"tpm-{name}-auth", PASSWORD) for name in hierarchies}
    return {name: auth for name, auth in named.items() if auth is not None}


def _auths_if_permitted() -> dict[str, bytes]:
    """For what anybody may ask of a TPM, as long as its hierarchies have no password."""
    try:
        return _auths(DEVICE)
    except (NoPermission, SecretUnreadable) as e:
        log.warning("%s; going on without the passwords of the TPM", e)
        return {}
