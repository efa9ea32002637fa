"""Shared access signatures, by which a device logs in to DPS and to its hub; pure."""

import base64
from collections.abc import Callable
from urllib.parse import quote


def token(
    resource: str, sign: Callable[[bytes], bytes], expires: int, key_name: str | None = None
) -> str:
    """What goes into Authorization, or is the password of MQTT; a secret while it is valid.

    `resource`: "SCOPE/registrations/ID" or "HUB/devices/ID", as it is, not URL-encoded. `sign`:
    HMAC-SHA256 (32 bytes) by the key that both sides know. `expires`: seconds since 1970.
    `key_name`: which key that is; DPS wants to be told, a hub does not.
    (IoT Hub and DPS documentation, "Control access with shared access signatures".)
    """
    sr = quote(resource, safe="")
    sig = quote(base64.b64encode(sign(f"{sr}\n{expires}".encode())).decode(), safe="")
    name = f"&skn={quote(key_name, safe='')}" if key_name else ""
    return f"SharedAccessSignature sr={sr}&sig={sig}&se={expires}{name}"
