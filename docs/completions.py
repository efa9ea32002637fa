"""Completions for bash and zsh, from the command line's own parser."""

import argparse

import shtab

from agent import cli
from docs import manual


def completions() -> dict[str, str]:
    """The script of each shell."""
    top = cli.parser()
    for _, short, verb in manual.subcommands(top):
        verb.description = short  # one line in zsh's menu
        _arguments(verb)
    _arguments(top)
    return {shell: f"{shtab.complete(top, shell)}\n" for shell in ("bash", "zsh")}


def _arguments(parser: argparse.ArgumentParser) -> None:
    """What is a file or a directory is completed as one."""
    kinds = {"FILE": shtab.FILE, "ROOT": shtab.DIRECTORY, "DIR": shtab.DIRECTORY}
    for action in manual.arguments(parser):
        if action.metavar in kinds:
            action.complete = kinds[action.metavar]  # type: ignore[attr-defined]
