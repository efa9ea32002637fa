"""The command line: parse, dispatch, print; an AgentError becomes two lines and an exit status."""

import argparse
import gc
import logging
import re
import resource
import sys
from pathlib import Path
from typing import Any

from agent import __version__, boot_state, config_factory, events, journal, nap, schema, verbs
from agent.errors import AgentError, DeviceSoftware
from agent.receipt import verb as receipt_verb
from agent.reset import verb as reset_verb
from agent.terminal import Parser

log = logging.getLogger(__name__)


def _root_directory(text: str) -> Path:
    """argparse's: a usage error if it is none."""
    try:
        if (Path(text) / "etc").is_dir() and (Path(text) / "usr").is_dir():
            return Path(text)
    except OSError as e:
        raise argparse.ArgumentTypeError(f"cannot look at {text!r}: {e.strerror}") from e
    raise argparse.ArgumentTypeError(f"{text!r} is not a root directory: no etc and usr in it")


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tpm2cloud",
        description='From "there is a TPM 2.0" to "provisioned in Azure".',
        epilog="Exit status: 0 done; 1 not to be flashed (lint-image), not due (needs-renewal); "
        "2 usage; 3 not yet, 4 a person is needed (status, check, health); 69 no usable TPM; "
        "75 try later; 76 a server said no; 77 not permitted; "
        "78 configuration.",
    )
    version = f"%(prog)s {__version__}"
    top.add_argument("--version", action="version", version=version, help="print the version")
    help = f"the configuration, instead of {verbs.CONFIG}; its drop-ins are in config.d beside it"
    top.add_argument("--config", type=Path, default=verbs.CONFIG, metavar="FILE", help=help)
    top.add_argument("--debug", action="store_true", help="say more, show tracebacks")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for verb in (_provision, _status, _check, _health, _needs_renewal, _config):
        verb(commands)
    for verb in (_identity, _telemetry, _manufacture, _import_root, _lint_image):
        verb(commands)
    for module in (boot_state, receipt_verb, reset_verb):
        module.add(commands)
    return top


def _provision(commands: Any) -> None:
    add = commands.add_parser(
        "provision",
        help="do what is left to do (what the service runs)",
        description="Do what is left to do, step by step. Only one run is at work at a time. A "
        "step that fails ends the run; the next run goes on with it.",
    )
    add.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    help = (
        "ask DPS once more, though this device is registered, for its enrolment was changed or "
        "moved to another hub; the hub key and the hub in use stay, until the new ones have proven "
        "themselves there (for device.target = 'device')"
    )
    add.add_argument("--reregister", action="store_true", help=help)
    help = "though this device was reset, and its configuration is still that of the same owner"
    add.add_argument("--again", action="store_true", help=help)
    add.set_defaults(verb=verbs.provision)


def _status(commands: Any) -> None:
    add = commands.add_parser(
        "status",
        help="where this device is, step by step",
        description="Where this device is, step by step; what went wrong, with its code and "
        "remedy; how much room is left in the TPM. Nothing is changed, and no server is asked.",
    )
    add.add_argument("--json", action="store_true", help="for programs")
    add.set_defaults(verb=verbs.status)


def _check(commands: Any) -> None:
    add = commands.add_parser(
        "check",
        help="what is wrong with this device, and what to do first: one verdict",
        description="Look at everything that a provisioning needs, here and at the servers, and "
        "give one verdict: what is to be done first. Nothing is changed. Servers are asked, but "
        "for nothing that they would issue or register.",
    )
    add.add_argument("--json", action="store_true", help="for programs")
    add.set_defaults(verb=verbs.check)


def _health(commands: Any) -> None:
    add = commands.add_parser(
        "health",
        help="look after the certificates (what the timer runs)",
        description="Look at every certificate that this device lives by, renew the LDevID when it "
        "is due, get it back when it is lost, and help IoT Edge with a renewal that is stuck. When "
        "nothing is due, nothing is changed and no server is asked.",
    )
    add.add_argument("--json", action="store_true", help="for programs")
    add.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    add.set_defaults(verb=verbs.health)


def _needs_renewal(commands: Any) -> None:
    add = commands.add_parser(
        "needs-renewal",
        help="whether 'health' would have something to do, for ExecCondition=",
        description="Says nothing: exit status 0 if 'health' would have something to do, 1 if not.",
    )
    add.set_defaults(verb=verbs.needs_renewal)


def _config(commands: Any) -> None:
    add = commands.add_parser(
        "config",
        help="the settings in force, each with its origin",
        description="The settings in force, each with the file that it comes from, or 'default'; "
        "or all that is wrong with them.",
    )
    help = f"those of the factory step: of {config_factory.FILE}, or of what --config names"
    add.add_argument("--factory", action="store_true", help=help)
    add.set_defaults(verb=verbs.show_config)


def _identity(commands: Any) -> None:
    add = commands.add_parser(
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
    add.set_defaults(verb=verbs.identity)


def _manufacture(commands: Any) -> None:
    add = commands.add_parser(
        "manufacture",
        help="the factory step: a genuine TPM, an IDevID key in it, and its certificate",
        description="The factory step, once per board: see that the TPM is genuine, make the "
        "IDevID key in it, get its certificate and store it in the TPM; then print what the back "
        "office needs, JSON on one line (see identity --merge). A second run changes nothing.",
    )
    add.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    help = "get a new certificate for the key, though the one that is there is good"
    add.add_argument("--force", action="store_true", help=help)
    help = "for a CA out of reach: make the key, and write the request for its certificate"
    way = add.add_mutually_exclusive_group()
    way.add_argument("--csr-out", type=Path, metavar="FILE", help=help)
    help = "store the certificate that such a CA has issued: PEM or DER"
    way.add_argument("--cert-in", type=Path, metavar="FILE", help=help)
    help = "such a CA's challenge to the TPM, in the format of tpm2_makecredential"
    way.add_argument("--challenge-in", type=Path, metavar="FILE", help=help)
    help = "where the answer to the challenge goes"
    add.add_argument("--answer-out", type=Path, metavar="FILE", help=help)
    add.set_defaults(verb=verbs.manufacture)


def _import_root(commands: Any) -> None:
    add = commands.add_parser(
        "import-root",
        help="let a TPM maker's CA vouch for TPMs",
        description="Show the CA certificates of a file, and put them where they vouch for TPMs: a "
        "root only if its fingerprint is given, as the maker publishes it; others if they lead to "
        "a root that is there. Needs no configuration. All of the file is taken, or nothing.",
    )
    add.add_argument("file", type=Path, metavar="FILE", help="PEM (one or several), or DER")
    help = "the fingerprint of a root, as the maker publishes it; may be given more than once"
    add.add_argument(
        "--sha256", type=_fingerprint, action="append", metavar="HEX", default=[], help=help
    )
    help = "a directory, instead of the first writable one of tpm.manufacturer_roots"
    add.add_argument("--into", type=Path, metavar="DIR", help=help)
    add.set_defaults(verb=verbs.import_root)


def _fingerprint(text: str) -> str:
    from agent import import_root

    try:
        return import_root.fingerprint(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from e


def _lint_image(commands: Any) -> None:
    add = commands.add_parser("lint-image", help="look at a golden image before it is flashed")
    add.add_argument("root", type=_root_directory, metavar="ROOT", help="its root directory")
    add.add_argument("--json", action="store_true", help="for programs")
    add.set_defaults(verb=verbs.lint_image)


def _telemetry(commands: Any) -> None:
    add = commands.add_parser(
        "telemetry",
        help="send messages to the IoT hub, on a device without IoT Edge",
        description="Send each line of a file, or of standard input, to the IoT hub as a message, "
        "until the hub has acknowledged it; through lost connections, expired tokens, and, by "
        "asking DPS anew, a changed key or another hub. Exit status 0: all are acknowledged, or, "
        "with '--patience forever', kept: of a pipe, what was read and is not acknowledged is sent "
        "first by the next run.",
    )
    what = add.add_mutually_exclusive_group()
    what.add_argument("file", nargs="?", default="-", metavar="FILE", help="'-' is standard input")
    help = "instead of a file: so many messages, made up"
    what.add_argument("--count", type=_number, metavar="N", help=help)
    help = "between those; 1s, if not given"
    add.add_argument("--interval", type=_seconds, default=1.0, metavar="TIME", help=help)
    help = (
        "how long it is tried to get on, such as 5min (the default), or 'forever': for a service; "
        "one login may take a minute"
    )
    add.add_argument("--patience", type=_patience, default=300.0, metavar="TIME", help=help)
    add.set_defaults(verb=verbs.telemetry)


def _number(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _seconds(text: str) -> float:
    try:
        return schema.duration(text).total_seconds()
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from e


def _patience(text: str) -> float:
    return float("inf") if text == "forever" else _seconds(text)


def main() -> int:
    """The whole process: it is short, and what it holds goes with it. Looking for garbage, while
    modules are loaded and once more at the end, would be a quarter of its CPU time. Should it
    crash, no core is written, whoever started it: there are passwords and PINs in it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    gc.disable()
    try:
        return _main()
    finally:
        gc.freeze()


def _main() -> int:
    top = parser()
    args = top.parse_args()
    if args.verb is verbs.manufacture and bool(args.challenge_in) != bool(args.answer_out):
        top.error("manufacture: --challenge-in and --answer-out go together")
    if args.verb is verbs.manufacture and args.force and (args.csr_out or args.challenge_in):
        top.error("manufacture: --force is about a certificate: with --cert-in, or alone")
    journal.setup(debug=args.debug)
    try:
        return int(args.verb(args))
    except AgentError as e:
        _explain(e)
        if args.verb is verbs.provision:
            nap.after(e)
        return e.status
    except ModuleNotFoundError as e:
        _explain(DeviceSoftware(f"cannot go on: there is no {e.name}"))
        return DeviceSoftware.status
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
