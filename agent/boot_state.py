"""The verb `boot-state`: what firmware this is, in the TPM's words, for its maker to approve.

The maker signs it (docs/factory.md), on whatever machine holds the key, and ships state and
signature with the firmware: an IDevID that works in approved boot states alone then works in this.
"""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import config, store, terminal
from agent.errors import BootStateInvalid

if TYPE_CHECKING:
    from agent.tpm.approved import State

log = logging.getLogger(__name__)
PCRS = "sha256:0,2,7"
FREE = (
    16,
    23,
)  # reset by whoever wants (TCG PC Client Platform TPM Profile, 4.6.2): debug, and apps


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "boot-state",
        help="what firmware has been started here, for its maker to approve",
        description="Tell the values that registers of the TPM (PCRs) have in this boot, as JSON. "
        "For a device whose IDevID works in approved boot states alone, the maker signs them; "
        "docs/factory.md says how. Nothing is changed, and no configuration is needed.",
    )
    source = parser.add_mutually_exclusive_group()
    help = f"the bank and the registers to tell, instead of {PCRS}"
    source.add_argument("--pcrs", metavar="BANK:N,...", help=help)
    help = (
        "no TPM: take the state from a file of such JSON, as for firmware whose values were "
        "computed before anything has started it"
    )
    source.add_argument("--state", type=Path, metavar="FILE", help=help)
    help = (
        "write NAME.json, the state, and NAME.tbs, of which the maker signs the SHA-256 into "
        "NAME.sig; NAME may have a path"
    )
    parser.add_argument("--out", type=Path, metavar="NAME", help=help)
    parser.set_defaults(verb=boot_state)


def boot_state(args: argparse.Namespace) -> int:
    state = _of_file(args.state) if args.state else _of_tpm(args)
    _warn(state)
    if args.out is None:
        terminal.say(state.as_json())
    else:
        text = f"{state.as_json()}\n"
        store.write(_beside(args.out, "json"), text.encode(), mode=0o644)
        store.write(_beside(args.out, "tbs"), state.to_sign, mode=0o644)
    return 0


def _beside(name: Path, suffix: str) -> Path:
    """Names of firmware have dots in them."""
    return name.with_name(f"{name.name}.{suffix}")


def _of_file(file: Path) -> "State":
    from agent.tpm.approved import State

    try:
        return State.of_json(file.read_bytes())
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else e
        raise BootStateInvalid(f"cannot take a boot state from '{file}': {why}") from e


def _of_tpm(args: argparse.Namespace) -> "State":
    from agent import verbs
    from agent.tpm import Tpm, pcr
    from agent.tpm.approved import State

    try:
        selection = pcr.Selection.parse(args.pcrs or PCRS)
    except ValueError as e:
        raise BootStateInvalid(f"cannot tell the boot state: --pcrs {e}") from e
    conf: config.Config = verbs.config_or_default(args)[1]
    with Tpm(conf.tpm.tcti) as tpm:
        return State(selection, pcr.read(tpm, selection))


def _warn(state: "State") -> None:
    """Who approves a register that nothing has measured into approves whatever measures nothing."""
    empty = [n for n, value in state.values.items() if set(value) <= {0} or set(value) <= {255}]
    if empty:
        which = ", ".join(f"PCR {each}" for each in empty)
        log.warning("nothing was measured into %s: that says nothing about this boot", which)
    if free := [n for n in FREE if n in state.values]:
        which = ", ".join(f"PCR {each}" for each in free)
        log.warning(
            "any program sets %s to what it wants: that says nothing about this boot", which
        )
