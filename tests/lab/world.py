"""All that is not the device: TPM maker, OEM, owner and operator with their CAs and servers."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from tests.lab import factory, nginx, pki, process, swtpm
from tests.lab.clock import Clock
from tests.lab.est import EstServer
from tests.lab.hub import REGISTRY, Hub
from tests.lab.provisioning import HUB, Dps
from tests.lab.renewing import RenewingEst

USER = "device"
HOST = "cloud.lab.test"  # what devices with a network of their own call this machine


class World:
    """CAs, EST servers and a provisioning service, running for the length of the `with`; many
    devices may live in it. Everything is below `directory`, all servers on 127.0.0.1, but for hubs,
    each of which has a loopback address of its own.

    The OEM's EST server issues IDevIDs, the owner's LDevIDs, the operator's the operational
    certificates. The latter two CAs are enrolled at the provisioning service.
    """

    def __init__(
        self,
        directory: Path,
        *,
        kind: pki.Kind = "ecc256",
        owner_lasts: timedelta = 5 * pki.YEAR,
        operations_lasts: timedelta = 5 * pki.YEAR,
        owner_root_lasts: timedelta = 10 * pki.YEAR,
        clock: Clock | None = None,
        renewing: bool = False,
        hub: bool | str = False,
    ) -> None:
        """`kind`: keys of the CAs. The EST servers issue for 90 days, or as long as their CA is
        valid: `owner_lasts` and `operations_lasts` make shorter certificates; a CA does not
        work when its root has expired. `clock`: the time of the servers, and of every device in
        this world; without one it is ours. `renewing`: the EST servers of owner and operator are
        `owner_server` and `operations_server`. `hub`: there is an IoT Hub, too, `hub`, to which
        the provisioning service assigns devices; a name: under this, on 127.0.0.1."""
        directory.mkdir(parents=True)
        self.directory, self.clock = directory, clock
        vendor = pki.root("OEM CA root", kind, lasts=30 * pki.YEAR)
        self.oem = vendor.below("OEM CA", kind, lasts=25 * pki.YEAR)  # an IDevID is for life
        self.owner_root = pki.root("Owner CA root", kind, lasts=owner_root_lasts)
        self.owner = self.owner_root.below("Owner CA", kind, lasts=owner_lasts)
        self.operations_root = pki.root("Operations CA root", kind)
        self.operations = self.operations_root.below("Operations CA", kind, lasts=operations_lasts)
        self.stations = pki.authority("Factory stations CA", kind)
        self.vouch = pki.authority("TLS CA", kind, lasts=10 * pki.YEAR)
        self.tls = self.vouch.server(directory / "tls", also=[HOST], lasts=9 * pki.YEAR)
        self.maker = directory / "maker"
        self.est_password, self.est_secret, self.operational_password = _secrets(3)
        self.factory_password, self.factory_secret = _secrets(2)
        self._renewing: dict[str, RenewingEst] = {}
        self._hubs: list[Hub] = []
        self._servers(renewing=renewing, hub=hub)
        self._boards: dict[factory.Board, Path] = {}
        self._stack = ExitStack()

    def _servers(self, *, renewing: bool, hub: bool | str) -> None:
        at, tls = self.directory, self.tls
        self.oem_est = EstServer(at / "oem-est", self.oem, tls)
        self._owner_est = EstServer(at / "owner-est", self.owner, tls)
        self._operations_est = EstServer(at / "operations-est", self.operations, tls)
        self.factory_est = nginx.Site(
            name="factory",
            port=process.free_port(),
            behind=self.oem_est.port,
            clients=[self.stations],
            user=USER,
            password=self.factory_password,
            secret=self.factory_secret,
        )
        self.owner_est = nginx.Site(
            name="owner",
            port=process.free_port(),
            behind=self._owner_est.port,
            clients=[self.oem],
            user=USER,
            password=self.est_password,
            secret=self.est_secret,
        )
        self.operations_est = nginx.Site(
            name="operations",
            port=process.free_port(),
            behind=self._operations_est.port,
            clients=[self.owner, self.operations],  # LDevID, and the certificate that renews itself
            user=USER,
            password=self.operational_password,
            secret=_secrets(1)[0],
        )
        if renewing:
            self._renewing = {ca: self._renewing_est(ca) for ca in ("owner", "operations")}
        sites = [self.factory_est, self.owner_est, self.operations_est]
        behind = [site for site in sites if site.name not in self._renewing]
        self._front = nginx.Front(at / "nginx", tls, behind, self.clock)
        self._enrolled = [ca.save(at / name).root for name, ca in self._issuers().items()]
        hubs = [self._make_hub(hub if isinstance(hub, str) else None).host if hub else HUB]
        self.dps = Dps(at / "dps", tls, self._enrolled, clock=self.clock, hubs=hubs)
        self.dps.behave(retry_after=0)

    def _renewing_est(self, ca: str) -> RenewingEst:
        root, issuer = getattr(self, f"{ca}_root"), getattr(self, ca)
        site: nginx.Site = getattr(self, f"{ca}_est")
        makers = [swtpm.roots(self.maker), self.maker / "issuercert.pem"]
        where = self.directory / f"renewing-{ca}"
        return RenewingEst(where, root, issuer, self.tls, site, makers, self.clock)

    @property
    def owner_server(self) -> RenewingEst:
        """The server at `owner_est`, if it is one that renews."""
        return self._renewing["owner"]

    @property
    def operations_server(self) -> RenewingEst:
        return self._renewing["operations"]

    def _make_hub(self, name: str | None = None) -> Hub:
        """It knows whom the provisioning service registers there."""
        where = self.directory / f"hub-{len(self._hubs)}"
        registry = self.directory / "dps" / REGISTRY
        more: Any = {"enrolled": self._enrolled, "clock": self.clock, "name": name}
        self._hubs.append(Hub(where, self.vouch, registry, **more))
        return self._hubs[-1]

    @property
    def hub(self) -> Hub:
        return self._hubs[0]

    @contextmanager
    def another_hub(self) -> Iterator[Hub]:
        """To which devices may be moved."""
        with self._make_hub().running() as hub:
            yield hub

    def _issuers(self) -> dict[str, pki.Authority]:
        return {"owner": self.owner, "operations": self.operations}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            behind = [] if self._renewing else [self._owner_est, self._operations_est]
            for est in (self.oem_est, *behind):
                stack.enter_context(est.running())
            stack.enter_context(self.dps.running())
            for hub in self._hubs:
                stack.enter_context(hub.running())
            self._est = stack.enter_context(ExitStack())
            self._start_est()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _start_est(self) -> None:
        self._est.enter_context(self._front.running())
        for server in self._renewing.values():
            self._est.enter_context(server.running())

    @contextmanager
    def without_est(self) -> Iterator[None]:
        """Nobody listens where the EST servers were, for the length of the `with`."""
        self._est.close()
        try:
            yield
        finally:
            self._start_est()

    def requests(self, site: nginx.Site) -> list[nginx.Request]:
        """What `owner_est` or `operations_est` was asked so far, oldest first."""
        if site.name in self._renewing:
            return self._renewing[site.name].requests()
        return self._front.requests(site)

    def issued(self, site: nginx.Site) -> list[nginx.Request]:
        """The requests for which a certificate was issued."""
        asked = [r for r in self.requests(site) if r.uri.endswith("enroll")]
        return [r for r in asked if r.status == 200]

    def board(self, board: factory.Board) -> Path:
        """The TPM state of such a board; made once (about a second), to be copied."""
        if board not in self._boards:
            state = self.directory / "boards" / str(len(self._boards))
            swtpm.make(state, self.maker)
            if not board.virgin:
                with swtpm.running(state) as tcti:
                    factory.make(tcti, self.oem, board)
            self._boards[board] = state
        return self._boards[board]

    def solder(self, board: factory.Board, state: Path) -> None:
        """A copy of such a board's TPM state, in the directory `state`."""
        leave = shutil.ignore_patterns("*.sock*", ".lock", "*.log")
        shutil.copytree(self.board(board), state, ignore=leave)

    def maker_roots(self, directory: Path) -> None:
        """The TPM maker's root and intermediate certificates, into `directory`."""
        directory.mkdir(parents=True)
        for certificate in (swtpm.roots(self.maker), self.maker / "issuercert.pem"):
            shutil.copy(certificate, directory)


def _secrets(count: int) -> list[str]:
    return [secrets.token_urlsafe(18) for _ in range(count)]
