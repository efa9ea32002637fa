"""DPS, asked whether it is there, before a registration that works is given up for another."""

import ssl
from contextlib import suppress
from pathlib import Path

from agent import inputs, network
from agent.clock import Times
from agent.config import Config
from agent.errors import TrustUnreadable
from agent.state import State

SECONDS = 30


def there(conf: Config, state: State, who: str) -> None:
    """It would answer a registration by IoT Edge: over TLS, with the CAs of the system, which are
    those that IoT Edge uses for it, and by no 429 or 5xx. Who does not log in is turned away by
    anything else. Where the system has no CAs in one file that we can read, nobody is asked. Raises
    what `Dps.there` does."""
    trust = system_cas()
    if trust is None:
        return
    with suppress(TrustUnreadable):
        _ask(conf, state, who, trust)


def _ask(conf: Config, state: State, who: str, trust: Path) -> None:
    from agent.dps import Dps  # most runs ask nobody, and need it not

    dps, times = conf.dps, Times(state.clock)
    with network.https(trust, timeout=SECONDS, proxy=inputs.proxy(conf), times=times) as https:
        Dps(https, dps.endpoint, dps.id_scope, who, api_version=dps.api_version).there()


def system_cas() -> Path | None:
    """Where OpenSSL looks for them, or SSL_CERT_FILE says they are."""
    found: str | None = ssl.get_default_verify_paths().cafile  # None, unlike typeshed has it
    return Path(found) if found else None
