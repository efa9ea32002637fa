"""What is proven about the agent point by point: all points there are, or all we could think of.

Each module here is a matrix, and has

    def prove(base: Path, tell: Callable[[str], None], only: str = "") -> Report

which tries every point whose name contains `only`, in the empty directory `base`, and says how it
gets on through `tell`. `./tests/prove` calls them; tests/test_*_matrix.py try some of their points.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Count:
    """Of one sort of points: how many there were, and how many of these came out as they should."""

    what: str
    points: int
    passed: int


@dataclass(frozen=True)
class Report:
    """Of one matrix. `table`: lines of Markdown, for the matrix's page in docs. `failed`: what went
    wrong, a text for each point, with its name."""

    title: str
    counts: Sequence[Count]
    table: Sequence[str] = ()
    failed: Sequence[str] = field(default=(), repr=False)

    @property
    def points(self) -> int:
        return sum(count.points for count in self.counts)

    @property
    def passed(self) -> int:
        return sum(count.passed for count in self.counts)

    @property
    def green(self) -> bool:
        """All passed, and there was something to pass."""
        return not self.failed and self.points == self.passed > 0
