"""TOML files onto frozen dataclasses: the types are the schema, every problem is told at once."""

import dataclasses
import difflib
import re
import tomllib
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from agent.errors import NoPermission

T = TypeVar("T")
UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True)
class Leaf:
    """A value, and the file that says so."""

    value: Any
    origin: Path


Tree = dict[str, Any]  # of Leaf and Tree


@dataclass
class Found:
    """What is wrong, in the order of the files; `main` is blamed for what is missing."""

    main: Path
    problems: list[str] = dataclasses.field(default_factory=list)

    def add(self, at: str, what: str, origin: Path | None = None) -> None:
        self.problems.append(f"{origin or self.main}: {at}: {what}")


def read(files: Sequence[Path], found: Found) -> Tree:
    """The files merged, later ones over earlier ones. Raises NoPermission."""
    tree: Tree = {}
    for path in files:
        try:
            _merge(tree, tomllib.loads(path.read_text("utf-8")), path)
        except PermissionError as e:
            raise NoPermission(f"cannot read '{path}': {e.strerror}", path=path) from e
        except OSError as e:
            found.problems.append(f"{path}: cannot be read: {e.strerror}")
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as e:
            found.problems.append(f"{path}: is not TOML: {e}")
    return tree


def _merge(tree: Tree, new: dict[str, Any], origin: Path) -> None:
    for key, value in new.items():
        if isinstance(value, dict):
            below = tree.get(key)
            tree[key] = below = below if isinstance(below, dict) else {}
            _merge(below, value, origin)
        else:
            tree[key] = Leaf(value, origin)


def leaves(tree: Tree, at: str = "") -> Iterator[tuple[str, Leaf]]:
    for key, value in tree.items():
        if isinstance(value, Leaf):
            yield at + key, value
        else:
            yield from leaves(value, f"{at}{key}.")


def build(cls: type[T], tree: Tree, found: Found, at: str = "") -> T | None:
    """A `cls` of a table, or None if something in it is wrong (it is in `found` then)."""
    before = len(found.problems)
    hints = get_type_hints(cls)
    _unknown(tree, list(hints), found, at)
    values = {}
    for field in dataclasses.fields(cast(Any, cls)):
        if field.name in tree:
            values[field.name] = _value(hints[field.name], tree[field.name], found, at + field.name)
        elif field.default is MISSING and field.default_factory is MISSING:
            found.add(at + field.name, "required")
    if len(found.problems) > before:
        return None
    section = cls(**values)
    for key, what in getattr(section, "problems", tuple)():
        found.add(at + key, what, _origin(tree, key))
    return section


def _origin(tree: Tree, key: str) -> Path | None:
    """The file that gave the setting `key` (dotted), or the last one to say a thing near it."""
    node: Any = tree
    for part in key.split("."):
        below = node.get(part) if isinstance(node, dict) else None
        if not below:
            break
        node = below
    if isinstance(node, Leaf):
        return node.origin
    return next((leaf.origin for _, leaf in reversed(list(leaves(node)))), None)


def _unknown(tree: Tree, known: list[str], found: Found, at: str) -> None:
    for key in tree.keys() - set(known):
        near = difflib.get_close_matches(key, known, 1)
        hint = f", did you mean {near[0]}?" if near else ""
        found.add(at + key, "unknown setting" + hint, _origin(tree, key))


def _value(hint: Any, raw: Any, found: Found, at: str) -> Any:
    if get_origin(hint) in (types.UnionType, Union):  # X | None; of a Literal, the latter
        hint = next(a for a in get_args(hint) if a is not type(None))
    if dataclasses.is_dataclass(hint):
        if isinstance(raw, Leaf):
            return found.add(at, "must be a table", raw.origin)
        return build(cast(type[Any], hint), raw, found, f"{at}.")
    if not isinstance(raw, Leaf):
        return found.add(at, "must not be a table", _origin(raw, ""))
    try:
        return _scalar(hint, raw.value)
    except (TypeError, ValueError) as e:
        return found.add(at, str(e), raw.origin)


def _scalar(hint: Any, raw: Any) -> Any:
    if get_origin(hint) is Literal:
        if raw not in get_args(hint):
            raise ValueError(f"must be one of {', '.join(map(repr, get_args(hint)))}, not {raw!r}")
        return raw
    if get_origin(hint) is tuple and isinstance(raw, list):
        return tuple(_scalar(get_args(hint)[0], each) for each in raw)
    if hint in TEXTS and isinstance(raw, str):
        return TEXTS[hint](raw)
    if type(raw) is not hint:
        raise TypeError(f"must be {_name(get_origin(hint) or hint)}, not {_name(type(raw))}")
    return raw


def _name(kind: Any) -> str:
    return NAMES.get(kind) or str(kind.__name__)


def absolute(text: str) -> Path:
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"must be an absolute path, not {text!r}")
    return Path(text)


def duration(text: str) -> timedelta:
    """'90s', '5min', '12h', '30d', '2w'."""
    for unit, seconds in UNITS.items():
        number = text.removesuffix(unit)
        if number != text and re.fullmatch("[0-9]{1,6}", number):
            return timedelta(seconds=int(number) * seconds)
    raise ValueError(f"must be a duration (like '30d' or '12h'), not {text!r}")


TEXTS: dict[Any, Callable[[str], Any]] = {timedelta: duration, Path: absolute}
NAMES: dict[Any, str] = {
    str: "a text",
    int: "a number",
    bool: "true or false",
    Path: "a path",
    list: "a list",
    tuple: "a list",
    timedelta: "a duration (like '30d' or '12h')",
}
