"""Every reader of what others wrote is fuzzed for a minute, guided by coverage.

Longer, for one: `python -m tests.fuzz TARGET -max_total_time=36000`.
"""

from collections.abc import Callable
from pathlib import Path

from tests.fuzz import runner
from tests.fuzz.targets import TARGETS
from tests.matrices import Count, Report, Tell

TITLE = "Fuzzing"
SECONDS = 60


def prove(base: Path, tell: Tell, only: str = "") -> Report:
    wanted = {name: reader for name, reader in TARGETS.items() if only in name}
    runs = {name: _fuzzed(name, base, tell) for name in wanted}
    failed = [f"{name}:\n{run.bug}" for name, run in runs.items() if run.bug]
    counts = [
        Count(name, max(run.inputs, 1), 0 if run.bug else run.inputs) for name, run in runs.items()
    ]
    table = ["| What is read | Inputs |", "|---|---:|"]
    table += [f"| {_title(name, wanted[name])} | {run.inputs} |" for name, run in runs.items()]
    return Report(TITLE, counts, table, failed)


def _fuzzed(name: str, base: Path, tell: Tell) -> runner.Run:
    run = runner.fuzz(name, base / name, f"-max_total_time={SECONDS}")
    tell(f"{name}: {run.inputs} inputs{', AND A BUG' if run.bug else ''}")
    return run


def _title(name: str, reader: Callable[[bytes], object]) -> str:
    about = (reader.__doc__ or "").partition("\n")[0].rstrip(".")
    return f"`{name}`: {about}" if about else f"`{name}`"
