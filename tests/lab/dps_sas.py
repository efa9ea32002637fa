"""What a shared access signature is worth: the service's look at it, with the key it gave out.

    Authorization: SharedAccessSignature sr=SCOPE%2Fregistrations%2FID&sig=...&se=...&skn=...

The signature is HMAC-SHA256 over `sr` as sent, a newline, and `se` (seconds since 1970).
"""

import base64
import binascii
import hashlib
import hmac
import re
from urllib.parse import unquote

SCHEME = "SharedAccessSignature "
# The longest any SDK asks for is a day, and clocks differ.
FARTHEST = 2 * 24 * 3600


def fields(token: str) -> dict[str, str] | None:
    """The fields as sent, still quoted, or None for what is no token."""
    if not token.startswith(SCHEME):
        return None
    pairs = [part.split("=", 1) for part in token.removeprefix(SCHEME).split("&")]
    if any(len(pair) != 2 for pair in pairs):
        return None
    found = {name: value for name, value in pairs}  # noqa: C416
    wanted = set(found) in ({"sr", "sig", "se"}, {"sr", "sig", "se", "skn"})
    return found if wanted and len(found) == len(pairs) else None


def verdict(token: str, audience: str, key: bytes, key_name: str | None, now: float) -> str:
    """In a few words why it is refused, or "good". `audience` in any case of letters; `key_name`:
    what `skn` must be, None for tokens that have none; `now`: seconds since 1970."""
    found = fields(token)
    if found is None:
        return "not a token"
    if unquote(found["sr"]).lower() != audience.lower():
        return "for another audience"
    if found.get("skn") != key_name:
        return "another key's name"
    if not re.fullmatch("[0-9]{1,12}", found["se"]) or int(found["se"]) > now + FARTHEST:
        return "expires too late"
    if int(found["se"]) <= now:
        return "expired"
    return "good" if _signed(found, key) else "wrong signature"


def _signed(found: dict[str, str], key: bytes) -> bool:
    text = f"{found['sr']}\n{found['se']}".encode()
    try:
        signature = base64.b64decode(unquote(found["sig"]), validate=True)
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(signature, hmac.digest(key, text, hashlib.sha256))
