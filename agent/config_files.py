"""Files of settings, read over one another into frozen dataclasses; and where each came from."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from agent import schema
from agent.errors import ConfigError

T = TypeVar("T")


def files(path: Path, drop_ins: str = "config.d") -> list[Path]:
    """The file itself, then its drop-ins `config.d/*.toml` in the order of their names. Raises
    ConfigError: glob() would pass over a directory that may not be read."""
    try:
        found = sorted((path.parent / drop_ins).iterdir())
    except FileNotFoundError:
        found = []
    except OSError as e:
        raise ConfigError(f"cannot read '{e.filename}': {e.strerror}") from e
    return [path, *(each for each in found if each.suffix == ".toml")]


def of_files(
    cls: type[T], paths: Sequence[Path], error: type[ConfigError] = ConfigError
) -> tuple[T, schema.Tree]:
    """What these files say, later ones over earlier ones, as a `cls`; and which of them says what.
    Raises `error`."""
    found = schema.Found(paths[0])
    tree = schema.read(paths, found)
    config = None if found.problems else schema.build(cls, tree, found)
    if found.problems or config is None:
        raise error("cannot use the configuration:\n  " + "\n  ".join(found.problems))
    return config, tree


def effective(config: Any, tree: schema.Tree) -> Iterator[tuple[str, Any, str]]:
    """Each setting as it counts: path, value, and the file it comes from or 'default'."""
    origins = {at: str(leaf.origin) for at, leaf in schema.leaves(tree)}
    for at, value in _walk(config, ""):
        yield at, value, origins.get(at, "default")


def written(value: Any) -> str:
    """A setting as it could stand in the file."""
    if isinstance(value, timedelta):
        value = f"{value.total_seconds():g}s"
    if isinstance(value, tuple):
        return f"[{', '.join(map(written, value))}]"
    return json.dumps(value if isinstance(value, bool | int) else str(value), ensure_ascii=False)


def _walk(section: Any, at: str) -> Iterator[tuple[str, Any]]:
    for each in dataclasses.fields(section):
        value = getattr(section, each.name)
        if dataclasses.is_dataclass(value):
            yield from _walk(value, f"{at}{each.name}.")
        elif value is not None:
            yield at + each.name, value
