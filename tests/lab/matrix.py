"""A table of what a test file handed in and what came of it, shown where the tests ran."""

import contextlib
from collections.abc import Iterator

import pytest

Rows = list[tuple[str, str]]


@contextlib.contextmanager
def shown(config: pytest.Config, *head: str) -> Iterator[Rows]:
    """Rows that are added are printed at the end, whatever pytest captures."""
    rows: Rows = []
    yield rows
    capture = config.pluginmanager.get_plugin("capturemanager")
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if capture is not None and reporter is not None:
        with capture.global_and_fixture_disabled():
            reporter.write_line("")
            for left, right in [head, *rows]:
                reporter.write_line(f"{left:<64} {right}")
