"""Some values of a TOML text changed; comments, order and everything else stay as they are."""

import tomllib
from collections.abc import Callable, Collection, Mapping, MutableMapping
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

Key = tuple[str, ...]


def edit(text: str, wanted: Mapping[Key, Any], gone: Collection[Key]) -> str:
    """`text` with the values `wanted` and without the keys `gone`, or `text` itself if it is so.

    A key is the path of names to it; a table in `wanted` replaces what is there as a whole. Raises
    tomllib.TOMLDecodeError if `text` is no TOML.

    What the result must mean is worked out on plain dictionaries. tomlkit, which has its trouble
    with dotted keys and scattered tables, is believed only if its text means just that. If not,
    the tables concerned are written anew; if even that fails, the values are right, and the
    comments lost.
    """
    before, meaning = tomllib.loads(text), tomllib.loads(text)
    _change(meaning, wanted, gone)
    if meaning == before:
        return text

    def in_place(document: tomlkit.TOMLDocument) -> None:
        _change(document, wanted, gone)

    def anew(document: tomlkit.TOMLDocument) -> None:
        for name in {first for first, *_ in [*wanted, *gone]} & before.keys():
            del document[name]
        document.update({name: meaning[name] for name in meaning if name not in document})

    for change in (in_place, anew):
        edited = _edited(text, change)
        if _means(edited, meaning):
            return edited
    return tomlkit.dumps(meaning)


def _edited(text: str, change: Callable[[tomlkit.TOMLDocument], None]) -> str:
    """What tomlkit makes of it; nothing at all if it stumbles."""
    try:
        document = tomlkit.parse(text)
        change(document)
        return tomlkit.dumps(document)
    except (TOMLKitError, LookupError):
        return ""


def _means(text: str, meaning: dict[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == meaning
    except tomllib.TOMLDecodeError:
        return False


def _change(
    table: MutableMapping[str, Any], wanted: Mapping[Key, Any], gone: Collection[Key]
) -> None:
    for key in gone:
        _remove(table, key)
    for key, value in wanted.items():
        _set(table, key, value)


def _remove(table: MutableMapping[str, Any], key: Key) -> bool:
    """Remove the key, and a table above it that became empty by that; False if it was not there."""
    first, *rest = key
    if first not in table:
        return False
    if rest:
        below = table[first]
        if not isinstance(below, MutableMapping) or not _remove(below, tuple(rest)) or below:
            return False
    del table[first]
    return True


def _set(table: MutableMapping[str, Any], key: Key, value: Any) -> None:
    first, *rest = key
    if rest:
        if not isinstance(table.get(first), MutableMapping):
            table[first] = {}
        _set(table[first], tuple(rest), value)
    elif table.get(first) != value:
        if isinstance(value, dict):
            table.pop(first, None)
        table[first] = value
