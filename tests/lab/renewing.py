"""An EST server that issues for years, and errs as a test wants: GlobalSign's library on a CA of
ours (tests/lab/estserver/renewing). It ends TLS itself, so `simplereenroll` works.

    with World(tmp_path / "world", clock=clock, renewing=True) as world:
        est = world.owner_server  # and world.operations_server
        est.lifetime(timedelta(days=30))
        est.behave("pending", "simplereenroll", retry_after=60)  # est.behave(): well again
        [last] = world.issued(world.owner_est)[-1:]  # .issued is the serial number, hexadecimal

A roll-over of the CA goes step by step, each as long as a test likes:

    new = est.successor("Owner CA G2")
    est.announce(new)  # /cacerts: both roots, OldWithNew and NewWithOld (RFC 4210, 4.4)
    est.issue_from(new.authority)
    est.tls_below(new.authority)  # the server's own certificate
    est.retire(new)  # /cacerts: only the new ones
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from cryptography import x509

from tests.lab import nginx, pki, process
from tests.lab.clock import Clock
from tests.lab.est import BINARIES

Kind = Literal[
    "ok",
    "pending",  # 202, Retry-After
    "refuse",  # 403
    "broken",  # 500
    "busy",  # 503, Retry-After
    "slow",  # well, after `seconds`
    "other-key",  # certificates nobody asked for
    "other-name",
    "unknown-ca",  # of the CA's name
    "expired",
    "not-yet",
]
ENROLLING = ("simpleenroll", "simplereenroll", "tpmenroll")
NAMES = ("localhost", "cloud.lab.test")


@dataclass(frozen=True)
class Successor:
    """The CA after a CA: a new root, and a new intermediate that issues."""

    root: pki.Authority
    authority: pki.Authority
    new_with_old: x509.Certificate  # the new root's key, signed by the old root
    old_with_new: x509.Certificate


class RenewingEst:
    """`site` says where it listens and who may log in how, as for nginx; a certificate that renews
    itself needs no other login. `issuer` is the CA, its certificate below `root`."""

    def __init__(
        self,
        directory: Path,
        root: pki.Authority,
        issuer: pki.Authority,
        tls: pki.Tls,
        site: nginx.Site,
        makers: Sequence[Path] = (),
        clock: Clock | None = None,
    ) -> None:
        directory.mkdir(parents=True)
        self.directory, self.site, self.root, self.issuer = directory, site, root, issuer
        self._tls, self._first, self._clock = tls, tls, clock
        self._log, self._file = directory / "log.jsonl", directory / "control.json"
        self._log.touch()
        self._saved = 0
        clients = [c for ca in site.clients for c in ca.chain]
        self._control: dict[str, Any] = {
            "lifetime": int(timedelta(days=90).total_seconds()),
            "clients": self._save("clients", clients),
            "makers": [str(path) for path in makers],
            "user": site.user,
            "password": site.password,
            "secret": site.secret,
        }
        self._certify(issuer, issuer.chain)
        self._serve(tls)

    # --- what it does ---

    def lifetime(self, of: timedelta) -> None:
        """That of certificates from now on; none outlives the CA's own."""
        self._set(lifetime=int(of.total_seconds()))

    def behave(
        self, kind: Kind = "ok", *operations: str, retry_after: int = 0, seconds: int = 0
    ) -> None:
        """From now on, for these operations (all that enroll, if none is named); others well."""
        manner = {"kind": kind, "retry_after": retry_after, "seconds": seconds}
        self._set(behaviour=dict.fromkeys(operations or ENROLLING, manner))

    # --- roll-over of the CA ---

    def successor(self, title: str, kind: pki.Kind = "ecc256") -> Successor:
        """The CA to come, valid from now on for ten years; nobody is told of it yet."""
        starts = self._now() - timedelta(hours=1)
        root = pki.root(f"{title} root", kind, starts=starts)
        return Successor(
            root,
            root.below(title, kind, starts=starts, lasts=9 * pki.YEAR),
            new_with_old=_vouch(self.root, root, starts),
            old_with_new=_vouch(root, self.root, starts),
        )

    def announce(self, new: Successor) -> None:
        """In /cacerts: what is valid still, what is going to be, and each vouched for by both."""
        links = (new.new_with_old, new.old_with_new)
        self.cacerts(*self.issuer.chain, *new.authority.chain, *links)

    def retire(self, new: Successor) -> None:
        """In /cacerts: the new ones alone. What the old CA issued cannot renew itself any more."""
        self.cacerts(*new.authority.chain)

    def cacerts(self, *certificates: x509.Certificate) -> None:
        """From now on the answer to /cacerts, and who may renew."""
        self._set(cacerts=self._save("cacerts", certificates))

    def issue_from(self, authority: pki.Authority) -> None:
        self._certify(authority, None)

    def let_in(self, *authorities: pki.Authority) -> None:
        """Whose certificates log in here, besides those that renew themselves."""
        self._set(clients=self._save("clients", [c for ca in authorities for c in ca.chain]))

    def tls_below(
        self,
        authority: pki.Authority,
        lasts: timedelta = 5 * pki.YEAR,
        links: Sequence[x509.Certificate] = (),
    ) -> None:
        """A new certificate of the server itself. `links`: shown besides, for those who know but
        the CA before (NewWithOld)."""
        self._saved += 1
        where, starts = self.directory / f"tls{self._saved}", self._now() - timedelta(hours=1)
        tls = authority.server(where, also=NAMES[1:], starts=starts, lasts=lasts)
        tls.chain.write_bytes(tls.chain.read_bytes() + pki.pem(*links))
        self._serve(tls)

    def tls_before(self) -> None:
        """That of the beginning."""
        self._serve(self._first)

    def _certify(self, ca: pki.Authority, told: Sequence[x509.Certificate] | None) -> None:
        self._saved += 1
        files = ca.save(self.directory / f"ca{self._saved}")
        issuer = {"chain": str(files.chain), "key": str(files.key)}
        if told is None:
            self._set(issuer=issuer)
        else:
            self._set(issuer=issuer, cacerts=self._save("cacerts", told))

    def _serve(self, tls: pki.Tls) -> None:
        self._tls = tls
        self._set(tls={"chain": str(tls.chain), "key": str(tls.key)})

    def _save(self, name: str, certificates: Sequence[x509.Certificate]) -> str:
        """In a new file each time: a request that is being answered keeps the old one."""
        self._saved += 1
        path = self.directory / f"{name}{self._saved}.pem"
        path.write_bytes(pki.pem(*certificates))
        return str(path)

    def _set(self, **changes: Any) -> None:
        self._control |= changes
        new = self._file.with_suffix(".new")
        pki.write_private(new, json.dumps(self._control, indent=4).encode())
        new.rename(self._file)

    def _now(self) -> timedelta:
        """As dates of certificates are given: relative to our own time."""
        return self._clock.now() - datetime.now(UTC) if self._clock else timedelta()

    # --- the program ---

    @contextmanager
    def running(self) -> Iterator[None]:
        program = BINARIES / "renewing"
        assert program.exists(), "run ./tests/setup first"
        command = [str(program), str(self.site.port), str(self._file), str(self._log)]
        clock = [str(self._clock.file)] if self._clock else []
        with process.running(command + clock, self.directory / "est.out", self.answers):
            yield

    def answers(self) -> bool:
        return process.speaks_tls(self.site.port, self._tls.trust)

    def requests(self) -> list[nginx.Request]:
        """All so far, oldest first. A certificate that was refused in the TLS handshake has a line
        with status 0 and the reason in `verify`."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        return [nginx.Request(**line) for line in lines]


def _vouch(by: pki.Authority, root: pki.Authority, starts: timedelta) -> x509.Certificate:
    """A root's key and name, signed by another root."""
    key, lasts = root.key.public_key(), 5 * pki.YEAR
    return by.issue(key, root.root.subject, starts=starts, lasts=lasts, ca=True, usages=())
