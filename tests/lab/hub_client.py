"""Clients of the lab's hub: their credentials, and one that speaks MQTT without a library, so that
it can say what it likes."""

import base64
import hashlib
import hmac
import json
import socket
import ssl
import struct
import time
from typing import Any, Self
from urllib.parse import quote

from tests.lab.hub import PORT, Hub

ID, KEY, HOUR = "device-0001", bytes(range(32)), 3600
EVENTS = f"devices/{ID}/messages/events/"


def register(
    hub: Hub,
    device: str = ID,
    key: bytes | None = None,
    thumbprint: str | None = None,
    enabled: bool = True,
) -> None:
    text = None if key is None else base64.b64encode(key).decode()
    entry = {"key": text, "thumbprint": thumbprint, "enabled": enabled}
    new = hub.registry.with_suffix(".new")
    new.write_text(json.dumps({hub.host: {device: entry}}))
    new.rename(hub.registry)


def token(
    hub: Hub, key: bytes = KEY, lasts: int = HOUR, resource: str | None = None, more: str = ""
) -> str:
    scope = quote(resource or f"{hub.host}/devices/{ID}", safe="")
    expires = int(time.time()) + lasts
    made = hmac.digest(key, f"{scope}\n{expires}".encode(), hashlib.sha256)
    signature = quote(base64.b64encode(made), safe="")
    return f"SharedAccessSignature sr={scope}&sig={signature}&se={expires}{more}"


def text(what: str) -> bytes:
    return struct.pack(">H", len(what.encode())) + what.encode()


def packet(first: int, body: bytes) -> bytes:
    length, coded = len(body), b""
    while True:
        length, low = length >> 7, length & 127
        coded += bytes([low | 0x80 if length else low])
        if not length:
            return bytes([first]) + coded + body


class Raw:
    """A connection; `code` is that of CONNACK."""

    def __init__(self, hub: Hub, password: str | None, **more: Any) -> None:
        context = ssl.create_default_context(cafile=str(hub.tls.trust))
        plain = socket.create_connection((hub.host, PORT), 10)
        self.line = context.wrap_socket(plain, server_hostname=hub.host)
        user = more.get("user", f"{hub.host}/{ID}/?api-version=2021-04-12")
        head = text("MQTT") + bytes([more.get("level", 4), 0xC2]) + struct.pack(">H", 60)
        body = head + text(more.get("client_id", ID)) + text(user) + text(password or "")
        self.line.sendall(packet(0x10, body))
        self.code = self.line.recv(4)[3]

    def publish(self, topic: str, qos: int = 1) -> bytes:
        """What the hub says to that; nothing, if it closes the connection."""
        number = struct.pack(">H", 7) if qos else b""
        self.line.sendall(packet(0x30 | qos << 1, text(topic) + number + b"hello"))
        return self.ended_with()

    def ended_with(self) -> bytes:
        """The next thing it says, or that the connection is over."""
        try:
            return self.line.recv(100)
        except (ConnectionResetError, ssl.SSLEOFError):
            return b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.line.close()
