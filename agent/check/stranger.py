"""Whoever answers in the place of a server that we cannot trust, or that does not answer.

Nothing is believed of it, and nothing told to it but the path that is asked for: it only matters
whether it looks like the login page of a network.
"""

from urllib.parse import urlsplit

from agent import fetch
from agent.errors import AgentError
from agent.http import Proxy, printable

SECONDS = 3.0
LIMIT = 1 << 20  # bytes; login pages bring their pictures along
LOGIN = 511  # Network Authentication Required (RFC 6585, 6)


def instead(url: str, host: str, proxy: Proxy | None) -> str | None:
    """In words, what comes at `url` (http or https) instead of an answer of `host`: a web page, or
    a redirect to elsewhere; None if nothing of the kind does."""
    try:
        return _told(*fetch.asked(url, timeout=SECONDS, limit=LIMIT, proxy=proxy), host)
    except AgentError:  # no HTTP, or too much of it: that is no login page, either
        return None


def _told(status: int, location: str | None, body: bytes, host: str) -> str | None:
    if status == LOGIN:
        return f"something in between wants a login ({status})"
    if 300 <= status < 400 and location is not None:
        there = _elsewhere(location, host)
        return f"we are sent to '{there}' ({status})" if there else None
    page = status < 300 and body.lstrip()[:1] == b"<"
    return f"a web page comes instead ({status})" if page else None


def _elsewhere(location: str, host: str) -> str | None:
    """The host, if it is another one."""
    try:
        there = urlsplit(location).hostname
    except ValueError:  # to nowhere
        return None
    return None if there is None or there.lower() == host.lower() else printable(there)
