"""The settings: types and defaults from the code, what they mean from the example files."""

import dataclasses
import re
import types
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from agent import config_files
from docs import rst

KINDS = {
    str: "text",
    int: "number",
    bool: "true or false",
    Path: "path",
    timedelta: "duration",
    tuple[Path, ...]: "list of paths",
    tuple[str, ...]: "list of texts",
}


@dataclass
class Table:
    name: str
    comment: str
    settings: dict[str, str] = field(default_factory=dict)  # by name, what is said above each


def tables(text: str) -> Iterator[Table]:
    """config.toml, read for its comments: each belongs to the line it stands above."""
    table, comment = Table("", ""), ""
    for line in text.splitlines():
        if line.startswith("# "):
            comment = f"{comment} {line[2:]}".lstrip()
            continue
        if found := re.fullmatch(r"#?\[([a-z0-9_.]+)\]", line):
            table = Table(found[1], comment)
            yield table
        elif found := re.match(r"#?([a-z0-9_]+) = ", line):
            table.settings[found[1]] = comment
        comment = ""


def section(cls: Any, name: str) -> Any:
    """The class that is the table, of the class that is the whole file."""
    for part in name.split("."):
        cls = _bare(get_type_hints(cls)[part])
    return cls


def described(cls: Any, text: str) -> str:
    """All settings of a file that is a `cls`, as reStructuredText."""
    return "\n\n".join(
        f"{rst.heading(f'[{table.name}]')}\n\n{rst.with_literals(table.comment)}\n\n"
        + rst.definitions(_setting(cls, table, name) for name in table.settings)
        for table in list(tables(text))
    )


def _setting(whole: Any, table: Table, name: str) -> tuple[str, str]:
    cls = section(whole, table.name)
    [default] = [each.default for each in dataclasses.fields(cls) if each.name == name]
    hint = get_type_hints(cls)[name]
    comment = rst.with_literals(table.settings[name])
    return f"**{name}** ({_kind(_bare(hint))}{_default(default)})", comment


def _bare(hint: Any) -> Any:
    """X, of `X | None`; where X is a Literal, Python 3.11 makes a Union of the older kind of it."""
    if get_origin(hint) in (types.UnionType, Union):
        return next(each for each in get_args(hint) if each is not type(None))
    return hint


def _kind(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(f'``"{each}"``' for each in get_args(hint))
    if get_origin(hint) is tuple and get_origin(get_args(hint)[0]) is Literal:
        return f"list of {_kind(get_args(hint)[0])}"
    return KINDS[hint]


def _default(value: Any) -> str:
    if value is MISSING:
        return ", required"
    return "" if value is None else f", default ``{_written(value)}``"


def _written(value: Any) -> str:
    if isinstance(value, timedelta):
        units = {"d": 86400, "h": 3600, "min": 60, "s": 1}
        seconds = round(value.total_seconds())
        return next(f'"{seconds // n}{unit}"' for unit, n in units.items() if seconds % n == 0)
    return config_files.written(value)
