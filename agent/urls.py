"""What an address may look like: judged before anybody is asked."""

import re
from urllib.parse import urlsplit

HOST = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*(:[0-9]{1,5})?")
HOST_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}|[0-9A-Fa-f:]+")  # RFC 1123, 2.1; IPv6


def https_problem(url: str) -> str | None:
    """What is wrong with an https URL, or None."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as e:
        return f"is not a URL: {e}"
    if parts.scheme != "https" or not parts.hostname:
        return f"must be https://HOST..., not {url!r}"
    if not all(map(HOST_LABEL.fullmatch, parts.hostname.removesuffix(".").split("."))):
        return f"must name a host, not {parts.hostname!r}"
    if not url.isascii() or not url.isprintable() or " " in url:
        return "must be plain ASCII without blanks"
    if parts.username or parts.query or parts.fragment:
        return "must not contain a user, a query or a fragment"
    return None


def proxy_problem(url: str) -> str | None:
    """What is wrong with a proxy's URL, or None."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as e:
        return f"is not a URL: {e}"
    if parts.scheme != "http" or not HOST.fullmatch(parts.netloc) or parts.path not in ("", "/"):
        return "must be http://HOST:PORT, without a user or a password"
    return None
