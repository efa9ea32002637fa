"""tpm2cloud-operator, the command line of the operator's workstation: parse, dispatch, print."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent import __version__
from agent.errors import AgentError, OperatorSoftware
from agent.terminal import Parser

log = logging.getLogger(__name__)
FILE = Path("operator.toml")


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tpm2cloud-operator",
        description="The cloud that devices come to: made, filled, and taken away again.",
        epilog="Exit status: 0 done; 2 usage; 3 something is to be done (plan); 4 some were "
        "refused (enrol); 75 try later; 76 a server said no; 78 configuration.",
    )
    version = f"%(prog)s {__version__}"
    top.add_argument("--version", action="version", version=version, help="print the version")
    help = "the configuration, instead of operator.toml in the current directory"
    top.add_argument("--config", type=Path, default=FILE, metavar="FILE", help=help)
    top.add_argument("--debug", action="store_true", help="say more, show tracebacks")
    commands = top.add_subparsers(metavar="COMMAND", required=True, dest="verb")
    for add in (_plan, _deploy, _enrol, _destroy):
        add(commands)
    return top


def _plan(commands: Any) -> None:
    add = commands.add_parser(
        "plan",
        help="what deploy would do",
        description="What deploy would do, step by step; nothing is changed.",
    )
    add.add_argument("--json", action="store_true", help="for programs")


def _deploy(commands: Any) -> None:
    add = commands.add_parser(
        "deploy",
        help="resource group, IoT hub, DPS, CA certificates, enrolment group",
        description="Make what is missing: resource group, IoT hub, DPS with the hub linked, the "
        "operational CA's certificates in it, and the enrolment group; then print the lines that a "
        "device's config.toml needs. A second run changes nothing; one that was cut off is gone on "
        "with by the next.",
    )
    add.add_argument("--json", action="store_true", help="for programs")


def _enrol(commands: Any) -> None:
    add = commands.add_parser(
        "enrol",
        help="enrol devices by their TPMs",
        description="Enrol the devices, by their TPMs, that are in files of 'tpm2cloud identity' "
        "or 'tpm2cloud manufacture' (JSON, one or many in a file, or CSV). Says of each what "
        "became of it; of those that are enrolled already, only their number.",
    )
    add.add_argument("files", type=Path, nargs="+", metavar="FILE", help="JSON or CSV")
    help = "for devices enrolled with another endorsement key, too: their boards were changed"
    add.add_argument("--replace", action="store_true", help=help)
    add.add_argument("--json", action="store_true", help="for programs: a line of JSON for each")


def _destroy(commands: Any) -> None:
    add = commands.add_parser(
        "destroy",
        help="remove what deploy has made",
        description="Remove what deploy has made, and with it all devices and enrolments in it. "
        "What was there before stays. Asks first.",
    )
    add.add_argument("-y", "--yes", action="store_true", help="do not ask")
    add.add_argument("--json", action="store_true", help="for programs")


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    level = logging.DEBUG if args.debug else logging.INFO
    talk = logging.StreamHandler()
    logger = logging.getLogger("agent")
    logger.addHandler(talk)
    logger.setLevel(level)
    try:
        return _run(args)
    except AgentError as e:
        log.debug("where it happened:", exc_info=e)
        at = f"{e.step}: " if e.step else ""
        log.error("%s%s [%s]\nRemedy: %s", at, e, e.code, e.remedy)
        return e.status
    except KeyboardInterrupt:
        return 130
    except Exception:
        log.exception(
            "a bug of tpm2cloud: please report it, with these lines [%s]", AgentError.code
        )
        return AgentError.status
    finally:
        logger.removeHandler(talk)


def _run(args: argparse.Namespace) -> int:
    try:
        from agent.operator import verbs
    except ModuleNotFoundError as e:
        if not (e.name or "").startswith("azure"):
            raise
        raise OperatorSoftware(f"cannot talk to Azure: there is no {e.name}") from e
    return int(verbs.VERBS[args.verb](args))


if __name__ == "__main__":
    sys.exit(main())
