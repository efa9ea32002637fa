"""The manual pages: their sources beside this, and in them what the code itself knows."""

import argparse
import os
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from agent import RELEASED, __version__, cli, config, config_factory, events, lint
from agent.errors import AgentError, every_error
from docs import rst, settings

HERE = Path(__file__).parent
UNITS = HERE.parent / "systemd"
STATUSES = {
    os.EX_SOFTWARE: "A bug",
    os.EX_CONFIG: "The configuration or the image must be changed",
    os.EX_NOPERM: "Not permitted",
    os.EX_UNAVAILABLE: "No usable TPM",
    os.EX_TEMPFAIL: "Try later",
    os.EX_PROTOCOL: "A server said no",
}


def pages() -> Iterator[tuple[str, str]]:
    """File name and content of each manual page."""
    parts = {
        "version": lambda: __version__,
        "date": lambda: RELEASED.date().isoformat(),
        "settings": lambda: described(config.Config, "config.toml"),
        "factory_settings": lambda: described(config_factory.Factory, "manufacture.toml"),
        "synopsis": synopsis,
        "verbs": verbs,
        "options": lambda: options(cli.parser()),
        "fields": lambda: ", ".join(sorted(_fields())),
        "events": described_events,
        "failures": failures,
        "provisioned": lambda: events.PROVISIONED.message_id,
        "errors": errors,
        "checks": checks,
    }
    for source in sorted(HERE.glob("*.[58].rst")):
        yield source.stem, rst.page(source.read_text(), parts)
    for unit in sorted([*UNITS.glob("tpm2cloud*.service"), *UNITS.glob("tpm2cloud*.timer")]):
        yield f"{unit.name}.8", ".so man8/tpm2cloud.8\n"


def described(cls: type, example: str) -> str:
    return settings.described(cls, (HERE / example).read_text())


# --- the command line ---


def subcommands(top: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Each verb with its one line of help and its parser; then those below it ("receipt show")."""
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for shown in action._choices_actions:
                verb = action.choices[shown.dest]
                yield shown.dest, str(shown.help), verb
                for name, short, below in subcommands(verb):
                    yield f"{shown.dest} {name}", short, below


def arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Options and positional arguments, without --help and the verbs."""
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            yield action


def synopsis() -> str:
    top = cli.parser()
    general = _usage(top)
    lines = [
        f"| **tpm2cloud** {general} **{name}** {_usage(verb)}".rstrip()
        for name, _, verb in subcommands(top)
    ]
    return "\n".join(lines)


def _usage(parser: argparse.ArgumentParser) -> str:
    return " ".join(
        f"[{_term(action)}]" if action.option_strings else _term(action)
        for action in arguments(parser)
        if not isinstance(action, argparse._VersionAction)
    )


def _term(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else f"*{action.metavar or action.dest.upper()}*"
    names = ", ".join(f"**{name}**" for name in action.option_strings)
    return f"{names} {value}".strip()


def verbs() -> str:
    return rst.definitions(
        (
            f"**{name}** {_usage(verb)}".rstrip(),
            f"{rst.escaped(_sentence(verb.description or short))}\n\n{options(verb)}".rstrip(),
        )
        for name, short, verb in subcommands(cli.parser())
    )


def options(parser: argparse.ArgumentParser) -> str:
    return rst.definitions(
        (_term(action), rst.escaped(_sentence(action.help or ""))) for action in arguments(parser)
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


# --- errors, events, and what may be wrong with an image ---


def errors() -> str:
    found = sorted(every_error(), key=lambda kind: list(STATUSES).index(kind.status))
    return "\n\n".join(
        f"{rst.heading(f'{STATUSES[status]} (exit status {status})')}\n\n"
        + rst.definitions(_error(kind) for kind in kinds)
        for status, kinds in groupby(found, key=lambda kind: kind.status)
    )


def _error(kind: type[AgentError]) -> tuple[str, str]:
    remedy = rst.with_fields(kind.remedy)
    return f"**{kind.code}**", f"{rst.escaped(events.meaning(kind))}\n\nRemedy: {remedy}"


def checks() -> str:
    return rst.definitions(
        (
            f"**{rule.code}** ({rule.severity})",
            f"{rst.escaped(rule.meaning)}\n\nRemedy: {rst.with_fields(rule.remedy)}",
        )
        for rule in lint.every_code()
    )


def described_events() -> str:
    return rst.definitions(
        (f"{each.name}, {each.message_id}", rst.with_fields(f"{each.subject}. {each.meaning}"))
        for each in events.every_event()
    )


def failures() -> str:
    ids = {kind.code: events.failed(kind).message_id for kind in every_error()}
    width = max(map(len, ids))
    return "::\n\n" + rst.indented("\n".join(f"{code:{width}}  {ids[code]}" for code in ids))


def _fields() -> set[str]:
    """What the remedies name, as journal fields."""
    remedies = " ".join(kind.remedy for kind in every_error())
    return {rst.escaped(f"TPM2CLOUD_{each.upper()}") for each in re.findall(r"{(\w+)}", remedies)}
