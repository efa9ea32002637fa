"""Replies read with less faith than http.client and urllib3 have in them.

These would wait for a final response only after 100 (Continue), take fields as many megabytes long
as they come, a trailer line of any length, a chunk of -1 bytes (all there is) and fields or chunks
that break off in the middle.
"""

import http.client
from typing import Any

LINE, HEAD = 1 << 16, 1 << 18  # bytes: of one line, and of all of them before the body


class _Stream:
    """Of a connection, as much as one reply is."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._head, self.in_head = stream, 0, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def readline(self, limit: int = -1) -> bytes:
        line: bytes = self._stream.readline(limit if limit >= 0 else LINE + 1)
        if len(line) > LINE:
            raise http.client.LineTooLong("a line")
        if not line and not (self.in_head and self._head == 0):
            raise http.client.IncompleteRead(b"")  # RFC 9112, 8
        if self.in_head:
            self._head += len(line)
            if self._head > HEAD:
                raise http.client.HTTPException(f"got more than {HEAD} bytes of headers")
        return line

    def read(self, *size: int) -> bytes:
        if size and size[0] < 0:
            raise http.client.HTTPException("a chunk of a negative size")
        data: bytes = self._stream.read(*size)
        return data


class Response(http.client.HTTPResponse):
    """Made by http.client for each request of a connection."""

    def begin(self) -> None:
        stream = _Stream(self.fp)
        self.fp = stream  # type: ignore[assignment]
        super().begin()
        while self.status in range(102, 200):  # on the way to the final one: RFC 9110, 15.2
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()
        stream.in_head = False
