"""The command line: parse, dispatch, print; an AgentError becomes two lines and an exit status."""

import argparse
import contextlib
import gc
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from agent import __version__, config, config_factory, credentials, events, journal, store
from agent.errors import AgentError, NoPermission, SecretUnreadable
from agent.state import State, write_json

if TYPE_CHECKING:
    from agent.tpm import Tpm

# What needs the TPM is imported by the verb that does: `tpm2cloud config` must not wait for it.

log = logging.getLogger(__name__)
CONFIG = config.ETC / "config.toml"
PASSWORD = 64  # bytes of a TPM2B_AUTH (TPM 2.0 Library, part 2, 10.4.2, 10.4.5)


def provision(args: argparse.Namespace) -> int:
    from agent import inputs, plan

    started, conf, state = time.monotonic(), config.load(args.config), _state()
    if args.dry_run:
        inputs.check(conf)
        return _dry_run(conf, state)
    with store.lock(state.directory), _remembered(state):
        inputs.check(conf)
        with _tpm(conf, state.loaded) as tpm:
            plan.run(plan.plan(conf, tpm, state))
    journal.tell_systemd("STATUS=provisioned")
    if journal.on_journal():  # on a terminal, the steps have just said so
        seconds = f"{time.monotonic() - started:.2f}"
        about = journal.about(events.PROVISIONED, seconds=seconds)
        log.info("This device is provisioned (%s s).", seconds, extra=about)
        journal.sync()
    return 0


def _dry_run(conf: config.Config, state: State) -> int:
    from agent import plan

    with _tpm(conf) as tpm:
        steps = plan.plan(conf, tpm, state)
        width = max(len(step.name) for step in steps)
        for step in steps:
            was = plan.at(step, step.done)
            _say(f"{step.name:{width}}  {f'done: {was}' if was else 'would be done'}")
    return 0


def status(args: argparse.Namespace) -> int:
    from agent import plan, status

    conf, state = config.load(args.config), _state()
    with _tpm(conf) as tpm:
        seen = status.look(plan.plan(conf, tpm, state), state)
    if args.json:
        _say(json.dumps(status.as_json(seen), indent=2))
    else:
        _say("\n".join(status.as_text(seen)))
    return status.verdict(seen)


def identity(args: argparse.Namespace) -> int:
    from agent import identity_csv

    if args.merge:
        _say(identity_csv.merge(args.merge))
        return 0
    from agent import identity

    configured = args.config != CONFIG or any(map(store.exists, config.files(CONFIG)))
    conf = config.load(args.config) if configured else config.Config(dps=config.Dps(id_scope=""))
    with _tpm(conf, auths=_auths_if_permitted()) as tpm:
        found = identity.gather(tpm, conf, log.warning, configured=configured)
    if args.csv:
        _say(identity_csv.table([identity_csv.row(found)]))
    else:
        _say(json.dumps(found, indent=2) if args.json else "\n".join(identity.as_text(found)))
    return 0


def show_config(args: argparse.Namespace) -> int:
    found: tuple[Any, Any] = (
        config_factory.read(_manufacture_toml(args)) if args.factory else config.read(args.config)
    )
    for at, value, origin in config.effective(*found):
        _say(f"{at} = {config.written(value)}  # {origin}")
    return 0


def _manufacture_toml(args: argparse.Namespace) -> Path:
    given: Path = args.config
    return config_factory.FILE if given == CONFIG else given


def lint_image(args: argparse.Namespace) -> int:
    from agent import lint

    found = lint.look(args.root, args.config)
    _say(lint.as_json(args.root, found) if args.json else "\n".join(lint.as_text(found)))
    return 1 if lint.errors(found) else 0


def _say(text: str) -> None:
    """What was asked for. A reader who has seen enough and is gone (`| head`) is no failure."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Nor at the end, when what is left in the buffer is written.
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 (a device)
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _root_directory(text: str) -> Path:
    """argparse's: a usage error if it is none."""
    try:
        if (Path(text) / "etc").is_dir() and (Path(text) / "usr").is_dir():
            return Path(text)
    except OSError as e:
        raise argparse.ArgumentTypeError(f"cannot look at {text!r}: {e.strerror}") from e
    raise argparse.ArgumentTypeError(f"{text!r} is not a root directory: no etc and usr in it")


def _state() -> State:
    """systemd names the directory, or several (systemd.exec(5), StateDirectory=)."""
    named = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return State(Path(named) if named else config.VAR)


@contextlib.contextmanager
def _tpm(
    conf: config.Config, ledger: Path | None = None, auths: dict[str, bytes] | None = None
) -> Iterator["Tpm"]:
    from agent.tpm import Tpm

    with Tpm(conf.tpm.tcti, _auths() if auths is None else auths, ledger) as tpm:
        yield tpm


def _auths() -> dict[str, bytes]:
    """The passwords of the TPM's hierarchies, as far as there are any."""
    names = ("owner", "endorsement")
    named = {name: credentials.optional(f"tpm-{name}-auth", PASSWORD) for name in names}
    return {name: auth for name, auth in named.items() if auth is not None}


def _auths_if_permitted() -> dict[str, bytes]:
    """For what anybody may ask of a TPM, as long as its hierarchies have no password."""
    try:
        return _auths()
    except (NoPermission, SecretUnreadable) as e:
        log.warning("%s; going on without the passwords of the TPM", e)
        return {}


@contextlib.contextmanager
def _remembered(state: State) -> Iterator[None]:
    """Why a run stopped is kept for `status`, until one does not."""
    try:
        yield
    except AgentError as e:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        told = {"step": e.step, "code": e.code, "message": str(e), "remedy": e.remedy, "at": at}
        try:
            write_json(state.failure, told, mode=0o644)
        except AgentError as unwritten:
            about = journal.about(events.FAILURE_NOT_KEPT, **unwritten.fields)
            log.warning("%s, ignoring: status will not know of this", unwritten, extra=about)
        raise
    if store.exists(state.failure):
        store.remove(state.failure)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tpm2cloud",
        description='From "there is a TPM 2.0" to "provisioned in Azure".',
        epilog="Exit status: 0 done; 1 not to be flashed (lint-image); 2 usage; 3 not yet, "
        "4 failed (status); 69 no usable TPM; 75 try later; 76 a server said no; 77 not permitted; "
        "78 configuration.",
    )
    version = f"%(prog)s {__version__}"
    top.add_argument("--version", action="version", version=version, help="print the version")
    help = f"the configuration, instead of {CONFIG}; its drop-ins are in config.d beside it"
    top.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help=help)
    top.add_argument("--debug", action="store_true", help="say more, show tracebacks")
    verbs = top.add_subparsers(metavar="COMMAND", required=True)
    add = verbs.add_parser(
        "provision",
        help="do what is left to do (what the service runs)",
        description="Do what is left to do, step by step. Only one run is at work at a time. A "
        "step that fails ends the run; the next run goes on with it.",
    )
    add.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    add.set_defaults(verb=provision)
    add = verbs.add_parser(
        "status",
        help="where this device is, step by step",
        description="Where this device is, step by step; what went wrong, with its code and "
        "remedy. Nothing is changed, and no server is asked.",
    )
    add.add_argument("--json", action="store_true", help="for programs")
    add.set_defaults(verb=status)
    add = verbs.add_parser(
        "config",
        help="the settings in force, each with its origin",
        description="The settings in force, each with the file that it comes from, or 'default'; "
        "or all that is wrong with them.",
    )
    help = f"those of the factory step: of {config_factory.FILE}, or of what --config names"
    add.add_argument("--factory", action="store_true", help=help)
    add.set_defaults(verb=show_config)
    add = verbs.add_parser(
        "identity",
        help="what a back office needs to enrol this device",
        description="What a back office needs to enrol this device: its registration id, its EK, "
        "and the certificates of EK and IDevID. Nothing in it is secret, and nothing is changed. "
        "Needs no configuration and no network; no root either, but for the serial of PCs.",
    )
    form = add.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs, certificates and all")
    form.add_argument("--csv", action="store_true", help="as a table of one line below its head")
    help = "no device, but a table of those whose JSON is in the files; all or nothing"
    form.add_argument("--merge", type=Path, nargs="+", metavar="FILE", help=help)
    add.set_defaults(verb=identity)
    add = verbs.add_parser("lint-image", help="look at a golden image before it is flashed")
    add.add_argument("root", type=_root_directory, metavar="ROOT", help="its root directory")
    add.add_argument("--json", action="store_true", help="for programs")
    add.set_defaults(verb=lint_image)
    return top


def main() -> int:
    """The whole process: it is short, and what it holds goes with it. Looking for garbage, while
    modules are loaded and once more at the end, would be a quarter of its CPU time."""
    gc.disable()
    try:
        return _main()
    finally:
        gc.freeze()


def _main() -> int:
    args = parser().parse_args()
    journal.setup(debug=args.debug)
    try:
        return int(args.verb(args))
    except AgentError as e:
        _explain(e)
        return e.status
    except Exception as e:
        log.exception("a bug of tpm2cloud:")
        _explain(AgentError(f"cannot go on: {type(e).__name__}"))
        return AgentError.status
    except KeyboardInterrupt:
        return 130


def _explain(e: AgentError) -> None:
    """Two lines on a terminal; in the journal one entry, which `journalctl -x` explains."""
    log.debug("where it happened:", exc_info=e)
    fields = {**e.fields, "step": e.step or "start", "code": e.code, "remedy": e.remedy}
    about = journal.about(events.failed(type(e)), **fields)
    at = f"{e.step}: " if e.step else ""
    log.error("%s%s [%s]\nRemedy: %s", at, e, e.code, e.remedy, extra=about)
    journal.tell_systemd(journal.one_line(f"STATUS={at}{e} [{e.code}]"))


if __name__ == "__main__":
    sys.exit(main())
