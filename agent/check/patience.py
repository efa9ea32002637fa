"""How long a server may take, all its answers together."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SECONDS = 12.0
LEAST = 0.1


@dataclass
class Patience:
    """What is left of the seconds."""

    left: float = SECONDS

    @contextmanager
    def spent(self) -> Iterator[float]:
        """The time that the `with` takes is; it is given how much there is."""
        began = time.monotonic()
        try:
            yield max(self.left, LEAST)
        finally:
            self.left -= time.monotonic() - began
