"""The LDevID of this device: what there is of it, and whether it works."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.x509 import Certificate

from agent import anchors as trusted
from agent import config, inputs, store, x509, x509_issued
from agent.clock import Times
from agent.config import Config
from agent.errors import IssuedWrong
from agent.state import State
from agent.steps import enrol, ldevid_key
from agent.tpm import Public, Tpm

if TYPE_CHECKING:
    from agent.est import Basic, Secret


@dataclass(frozen=True)
class Ldevid:
    """`state`: of the slot in use, whichever that is at the moment."""

    tpm: Tpm
    whole: Config
    state: State
    who: Callable[[], str]

    @property
    def conf(self) -> config.Ldevid:
        if self.whole.ldevid is None:
            raise RuntimeError("the configuration has [ldevid], for dps.attestation = 'x509'")
        return self.whole.ldevid

    @property
    def url(self) -> str:
        """Of the EST server; empty if there is none."""
        return self.conf.est.url if self.conf.est else ""

    @property
    def roots(self) -> list[Certificate]:
        return anchors(self.conf, self.state)

    def key(self) -> Public | None:
        return self.tpm.public(ldevid_key.HANDLE)

    def chain(self) -> list[Certificate]:
        """What is in use, leaf first; empty if it is missing or damaged."""
        return x509.kept(store.read(self.state.ldevid_cert))

    def works(self) -> bool:
        """It is there, for the key that is there, and whoever trusts our CA accepts it now."""
        return self.good(self.chain(), self.key())

    def good(self, chain: Sequence[Certificate], key: Public | None) -> bool:
        """These are a certificate for this key, with our name, valid now, and its issuers."""
        if not chain or key is None:
            return False
        now = datetime.now(UTC)
        with suppress(IssuedWrong, x509.Untrusted, *x509.NONSENSE):
            if chain[0].public_key() != key.key:
                return False
            x509_issued.check(chain[0], self.who(), now)
            x509.chain(chain[0], self.roots, chain[1:], max(now, chain[0].not_valid_before_utc))
            return True
        return False


def anchors(conf: config.Ldevid, state: State) -> list[Certificate]:
    """The CAs that may have issued the certificate."""
    if conf.est is not None:
        return trusted.effective(trusted.issuance(conf.est, state), datetime.now(UTC))
    return x509.anchors(local_ca(conf).certificate)


def dated(conf: Config, state: State) -> Path | None:
    """The file of the certificate by which it is known what time it is at least. What a CA on this
    device has issued was dated by its own clock, that may have been ahead."""
    return state.ldevid_cert if conf.ldevid is not None and conf.ldevid.est is not None else None


def local_ca(conf: config.Ldevid) -> config.LdevidCa:
    if conf.ca is None:
        raise RuntimeError("the configuration has either [ldevid.est] or [ldevid.ca]")
    return conf.ca


@dataclass(frozen=True)
class Login:
    """How to log in to an EST server: by HTTP, by TLS (what `Https` takes), or both."""

    credential: "Basic | Secret | None" = None
    client: dict[str, Any] = field(default_factory=dict)


def server(ours: Ldevid, login: Login) -> enrol.Server:
    """The owner's EST server, who logs in there, and what vouches for it."""
    est = ours.conf.est
    if est is None:
        raise RuntimeError("a local CA is no server")
    seconds = est.timeout.total_seconds()
    more = trusted.successors(trusted.tls(est, ours.state), datetime.now(UTC))
    proxy = inputs.proxy(ours.whole)
    times = Times(ours.state.clock)
    return enrol.Server(
        est.url, est.trust, seconds, login.credential, login.client, more, proxy, times
    )
