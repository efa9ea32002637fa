"""What targets have in common: what a reader may raise, and files and servers in memory."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from agent.errors import AgentError
from agent.http import Https, Reply

Target = Callable[[bytes], object]
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@contextlib.contextmanager
def refused(*kinds: type[Exception]) -> Iterator[None]:
    """What a reader says that it raises; never a bug of ours, though that is an AgentError, too."""
    try:
        yield
    except kinds as e:
        if type(e) is AgentError:
            raise


@cache
def directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


def file(data: bytes, name: str = "file") -> Path:
    path = directory() / name
    path.write_bytes(data)
    return path


class Said(Https):
    """Any request has this reply. Real servers that lie are in tests/lab/hostile.py; these lies
    are many."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Reply:
        return self._reply


def reply(data: bytes, kind: str, status: int = 200) -> Reply:
    return Reply(status, {"Content-Type": kind}, data)
