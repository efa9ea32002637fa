"""What tests have to tell besides passed or failed: tables of what they tried and what came of it.

It is collected, and shown below the results: tests may run in several processes (pytest-xdist), of
which only one writes to the terminal.
"""

import contextlib
from collections.abc import Iterator

import pytest

Rows = list[tuple[str, str]]
TOLD = pytest.StashKey[list[str]]()


def told(config: pytest.Config) -> list[str]:
    """What was told so far in this process; to tell more, append."""
    return config.stash.setdefault(TOLD, [])


@contextlib.contextmanager
def shown(config: pytest.Config, *head: str) -> Iterator[Rows]:
    """Rows that are added are told at the end."""
    rows: Rows = []
    yield rows
    told(config).append("\n".join(f"{left:<64} {right}" for left, right in [head, *rows]))
