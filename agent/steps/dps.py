"""DPS, asked whether it is there, before a registration that works is given up for another."""

import ssl
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

from agent.config import Config
from agent.errors import ServerBusy, TrustUnreadable

SECONDS, VERSION = 30, "2021-06-01"  # of DPS' API (Runtime Registration)

BUSY = HTTPStatus.TOO_MANY_REQUESTS


def there(conf: Config, who: str) -> None:
    """It would answer a registration: over TLS, with the CAs of the system, which are those that
    IoT Edge uses for it, and by no 429 or 5xx. Who does not log in is turned away by anything else.
    Where the system has no CAs in one file that we can read, nobody is asked. Raises what
    `Https.request` does, and ServerBusy."""
    trust = _system_cas()
    if trust is None:
        return
    with suppress(TrustUnreadable):
        _ask(conf, who, trust)


def _ask(conf: Config, who: str, trust: Path) -> None:
    from agent.http import Https, host_of, retry_after  # most runs ask nobody, and need it not

    at = f"{conf.dps.endpoint}/{conf.dps.id_scope}/registrations/{who}/operations/none"
    with Https(trust, timeout=SECONDS) as https:
        reply = https.request("GET", f"{at}?api-version={VERSION}")
    if reply.status < HTTPStatus.INTERNAL_SERVER_ERROR and reply.status != BUSY:
        return
    host = host_of(conf.dps.endpoint)
    raise ServerBusy(
        f"cannot register anew at {host}: it has trouble ({reply.status})",
        seconds=retry_after(reply.headers),
        host=host,
    )


def _system_cas() -> Path | None:
    """Where OpenSSL looks for them, or SSL_CERT_FILE says they are."""
    found: str | None = ssl.get_default_verify_paths().cafile  # None, unlike typeshed has it
    return Path(found) if found else None
