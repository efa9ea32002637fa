"""A device at the point where it asks an EST server, or DPS, and in the place of that server one
that misbehaves: what comes of it is measured, the verdict, memory, time, and what is lost.

A way to misbehave is a `Row`; the rows are in hostile_http, hostile_tls, hostile_est,
hostile_certs, hostile_dps and hostile_tpm.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from agent.errors import every_error
from tests.lab import pki, snapshot
from tests.lab.clock import Clock
from tests.lab.device import Device, Wish
from tests.lab.factory import Board
from tests.lab.process import free_port
from tests.lab.ready import Cost, Ready
from tests.lab.world import World

WELL: dict[str, Any] = {"polls": 0, "retry_after": 0}
Place = Literal["est", "dps", "tpm"]
PLACES: tuple[Place, ...] = ("est", "dps", "tpm")
Held = tuple[dict[str, bytes], snapshot.Snapshot]
ASKED = {"est": "EST", "dps": "DPS, by X.509", "tpm": "DPS, by TPM"}
SAID = re.compile(r"^(?P<step>[a-z-]+): (?P<why>.*) \[(?P<code>[a-z0-9-]+)\]$", re.MULTILINE)
# What a run that fails may leave in the state directory: why, when it may ask again, what it heard
# of the time, a certificate that may be good at another time.
WAITS = {"enrolment.json", "turn.json"}
NOTED = {"failure.json", "clock.json", "ldevid-issued.pem", *WAITS}
SPARE = 25.0  # seconds that a run may take besides waiting: two cores for all of us
MOST = 32 << 10  # kilobytes more than a quiet run
USUAL, SHORT = (
    30.0,
    2.0,
)  # seconds: what the agent has for one exchange; as a slow row configures it
EXCHANGES = 3  # with an EST server, in one run; with DPS, while nothing comes back, one


@dataclass(frozen=True)
class Row:
    """`what` the server does, against this section `of` a standard, or at its edge. `how`: that
    server, for the length of the `with`; yields its port. `code`: of the error it ends with, ""
    where there is none. `why` it is accepted, even if that does not get the device to its hub.
    `settings`: besides; `slow`: it takes as long as an exchange may."""

    what: str
    of: str
    code: str
    how: Callable[["Bench"], AbstractContextManager[int]]
    why: str = ""
    at: Place = "est"
    slow: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.at}: {self.what}"

    @property
    def status(self) -> int:
        kinds = {kind.code: kind for kind in every_error()}
        return kinds[self.code].status if self.code else 0


@dataclass(frozen=True)
class Found:
    """What came of it. `cost`: memory is that above a quiet run. `odd`: what should not be."""

    status: int
    code: str
    said: str
    cost: Cost
    odd: Sequence[str]

    @property
    def verdict(self) -> tuple[int, str]:
        return self.status, self.code


class Bench:
    """Devices for all rows, one after the other. `ca` issues for servers, and all trust it."""

    def __init__(self, directory: Path, world: World, ready: Ready) -> None:
        self.directory, self.world, self.ready = directory, world, ready
        self.ca = pki.root("Public CA", lasts=10 * pki.YEAR)
        self.devices: dict[str, Device] = {}
        self.quiet: dict[Place, int] = {}
        self._count = 0

    def new(self) -> Path:
        """A directory that nobody has."""
        self._count += 1
        made = self.directory / f"made-{self._count}"
        made.mkdir(parents=True)
        return made

    @property
    def issuer(self) -> pki.Authority:
        return self.world.owner

    @property
    def tls(self) -> pki.Tls:
        return self.world.tls

    def device(self, place: Place) -> Device:
        return self.devices["tpm" if place == "tpm" else "x509"]

    # --- preparing ---

    def prepare(self) -> None:
        """Brings the devices to where they ask, keeps them so; and then on, as they should."""
        nobody = f"https://localhost:{free_port()}"
        for place in PLACES:
            changes: dict[str, Any] = {"dps": {"endpoint": nobody}}
            if place == "est":
                changes = {"ldevid": {"est": {"url": f"{nobody}/.well-known/est"}}}
            self.configure(place, changes)
            assert self._run(place)[0] == 75
            self._keep(place)
        for place in PLACES:
            self.heal(place)
            self.quiet[place] = self.ready.cost.kilobytes

    def _keep(self, place: Place) -> None:
        device = self.device(place)
        for name in ("state", "pkcs11"):
            if (device.directory / name).exists():
                shutil.copytree(device.directory / name, self._kept(place) / name)

    def _kept(self, place: Place) -> Path:
        return self.directory / "kept" / place

    def restore(self, place: Place) -> None:
        device = self.device(place)
        for name in ("state", "pkcs11"):
            shutil.rmtree(device.directory / name, ignore_errors=True)
            if (self._kept(place) / name).exists():
                shutil.copytree(self._kept(place) / name, device.directory / name)

    def heal(self, place: Place) -> None:
        """With servers as they should be, it gets from there to its hub."""
        self.restore(place)
        self.configure(place, {})
        status, said = self._run(place)
        assert status == 0, said

    def goes_on(self, place: Place) -> str:
        """Where it was left, and now that the servers are as they should be and its pause is over,
        it gets to its hub; or what it says."""
        self.configure(place, {})
        for name in WAITS:
            (self.device(place).state / name).unlink(missing_ok=True)
        status, said = self._run(place)
        return said[-300:] if status else ""

    def configure(self, place: Place, changes: Mapping[str, Any]) -> None:
        device = self.device(place)
        trust = device.etc / "servers-ca.pem"
        trust.write_bytes(self.tls.trust.read_bytes() + pki.pem(self.ca.root))
        usual: dict[str, Any] = {"dps": {"trust": str(trust), "fleet": 1}}
        if place != "tpm":
            usual["ldevid"] = {"est": {"trust": str(trust)}}
        device.configure(laid(usual, changes))

    # --- trying ---

    def tried(self, row: Row) -> Found:
        self.restore(row.at)
        device, before = self.device(row.at), self._held(row.at)
        with row.how(self) as port:
            self.configure(row.at, laid(_asking(row, port), row.settings))
            status, said = self._run(row.at)
            cost = self.ready.cost
        last = list(SAID.finditer(said))
        code = last[-1]["code"] if last and status else ""
        above = Cost(max(0, cost.kilobytes - self.quiet[row.at]), cost.seconds)
        odd = list(_odd(row, said, above))
        if status and not row.why:
            odd += _changed(before, self._held(row.at))
        if device.world.est_password in said:
            odd.append("it tells a secret")
        if status and not row.why and (stuck := self.goes_on(row.at)):
            odd.append(f"it does not get over it: {stuck}")
        return Found(status, code, last[-1]["why"] if code else said[-300:], above, odd)

    def _run(self, place: Place) -> tuple[int, str]:
        done = self.ready(self.device(place), "provision")
        return done.returncode, done.stderr

    def _held(self, place: Place) -> Held:
        """What must not change where nothing was accepted: files, and all that the TPM holds."""
        device = self.device(place)
        files = {
            str(path.relative_to(device.directory)): path.read_bytes()
            for name in ("state", "pkcs11", "etc/aziot")
            for path in sorted((device.directory / name).rglob("*"))
            if path.is_file() and path.name not in NOTED
        }
        return files, snapshot.take(device.tcti)


def laid(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged; a None stays, for who takes it out."""
    tables = {k: laid(under.get(k, {}), v) for k, v in over.items() if isinstance(v, Mapping)}
    return {**under, **over, **tables}


def _asking(row: Row, port: int) -> dict[str, Any]:
    """The configuration by which the device comes to that server."""
    if row.at != "est":
        return {"dps": {"endpoint": f"https://localhost:{port}"}}
    est = {"url": f"https://localhost:{port}/.well-known/est"}
    return {"ldevid": {"est": est | ({"timeout": f"{SHORT:g}s"} if row.slow else {})}}


def _changed(before: Held, after: Held) -> Iterator[str]:
    for name in sorted(before[0].keys() | after[0].keys()):
        if before[0].get(name) != after[0].get(name):
            yield f"'{name}' is not as it was"
    if before[1] != after[1]:
        yield "the TPM is not as it was"


def _odd(row: Row, said: str, cost: Cost) -> Iterator[str]:
    if "Traceback" in said:
        yield "a traceback"
    if cost.kilobytes > MOST:
        yield f"{cost.kilobytes >> 10} MB more than a quiet run"
    patience = EXCHANGES * SHORT if row.at == "est" and row.slow else USUAL
    if cost.seconds > patience + SPARE:
        yield f"{cost.seconds:.0f} seconds"


@contextmanager
def bench(directory: Path, world: World | None = None) -> Iterator[Bench]:
    """`world`: with a hub; a new one, if there is none yet."""
    with ExitStack() as stack:
        enter = stack.enter_context
        world = world or enter(World(directory / "world", hub=True))
        ready = enter(Ready(Clock(directory / "clock")))
        made = Bench(directory, world, ready)
        for kind in ("x509", "tpm"):
            wish = Wish(
                id=f"{directory.name}-{kind}",
                auth="basic",
                target="device",
                attestation=kind,
                board=Board(virgin=kind == "tpm"),
            )
            made.devices[kind] = enter(Device(world, directory / kind, wish))
        world.dps.behave(**WELL)
        made.prepare()
        yield made
