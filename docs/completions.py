"""Completions for bash and zsh, from the command line's own parser."""

import shtab

from agent import cli
from docs import manual


def completions() -> dict[str, str]:
    """The script of each shell."""
    top = cli.parser()
    for parser in [top, *(verb for _, _, verb in manual.subcommands(top))]:
        for action in manual.arguments(parser):
            kinds = {"FILE": shtab.FILE, "ROOT": shtab.DIRECTORY, "DIR": shtab.DIRECTORY}
            if action.metavar in kinds:
                action.complete = kinds[action.metavar]  # type: ignore[attr-defined]
    return {shell: shtab.complete(top, shell) for shell in ("bash", "zsh")}
