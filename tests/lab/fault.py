"""A device in trouble: a fault that is really there, what the agent says of it, what a person does
about it, and the device that provisions then.

A fault is a generator, a function of the `Case`: up to its `yield` the trouble comes about, after
it somebody does what the remedy says.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from tests.lab import canaries, pki
from tests.lab.apart import Apart
from tests.lab.clock import Clock
from tests.lab.device import Device, Wish
from tests.lab.factory import Board
from tests.lab.fault_relay import Relay
from tests.lab.hub import Hub
from tests.lab.tools import Tools
from tests.lab.world import HOST, USER, World

WELL: dict[str, Any] = {"polls": 0, "retry_after": 0}
SAID = re.compile(r"\[(?P<code>[a-z0-9-]+)\]\nRemedy: (?P<remedy>.*)")
Server = Literal["est", "operational", "dps"]
KINDS: dict[str, Mapping[str, Any]] = {
    "edge": {},
    "edge, password": {"auth": "basic", "operational_auth": "basic"},
    "edge, secret": {"auth": "secret", "operational_auth": "basic"},
    "edge, TPM": {"attestation": "tpm"},
    "device": {"target": "device"},
    "device, TPM": {"target": "device", "attestation": "tpm", "board": Board(virgin=True)},
}


@dataclass(frozen=True)
class Said:
    """What a run of the agent came to; `text` is all that anybody was told by it."""

    status: int
    text: str
    code: str = ""
    remedy: str = ""


Fault = Callable[["Case"], Generator[None, None, None]]


@dataclass(frozen=True)
class Row:
    """`code`: of `provision`, which `check` must come to as well, unless its verdict is another
    (`verdict`). `told`: words of the remedy that tell somebody to do what `does` says."""

    name: str
    on: str
    code: str
    fault: Fault
    told: str
    does: str
    verdict: str = ""
    wish: Mapping[str, Any] = field(default_factory=dict)

    @property
    def expected(self) -> str:
        return self.verdict or self.code


class Town:
    """One world for many cases, one after the other."""

    def __init__(self, directory: Path) -> None:
        self.world = World(directory / "world", hub=True)
        self.directory, self._count = directory, 0

    def __enter__(self) -> Self:
        self.world.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.world.__exit__(*error)

    @contextmanager
    def case(self, row: Row) -> Iterator["Case"]:
        """A device that has not run yet; its directory is gone afterwards."""
        self._count += 1
        self.world.dps.behave(**WELL)
        self.world.hub.behave()
        directory = self.directory / f"case{self._count}"
        with Case(self.world, directory, row, f"case-{self._count}") as case:
            yield case
        shutil.rmtree(directory)


class Case:
    """`stack`: what ends with it. `variables`: of the agent's environment. `prefix`: before the
    agent's command."""

    def __init__(self, world: World, directory: Path, row: Row, name: str) -> None:
        self.world, self.row = world, row
        wish = {"id": name, **KINDS[row.on], **row.wish}
        self.device = Device(world, directory, Wish(**wish))
        self.watched = directory / "watched"
        for each in ("tmp", "traces"):
            (self.watched / each).mkdir(parents=True)
        self.variables: dict[str, str] = {"TMPDIR": str(self.watched / "tmp")}
        self.prefix: list[str] = []
        self.secrets: set[bytes] = set()
        self.said: list[bytes] = []
        self.stack, self.changes, self._runs = ExitStack(), dict[str, Any](), 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.device)
            self.apart = stack.enter_context(Apart())
            self.journal = stack.enter_context(canaries.Journal(self.device.directory / "journal"))
            self.apart.mount("tmpfs", "/run", "tmpfs")
            self.apart.make("/run/systemd/journal/socket")
            self.apart.mount(self.journal.path, "/run/systemd/journal/socket", flags=4096)
            if self.row.on == "edge, TPM":
                self.device.enrol()
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    # --- the agent ---

    def provision(self, *arguments: str) -> Said:
        """As systemd starts it: it writes to the journal."""
        return self._run("provision", *arguments, service=True)

    def check(self) -> Said:
        """Its verdict; no code if nothing is wrong."""
        done = self._run("check", "--json")
        assert done.text.startswith("{"), done.text
        found = json.JSONDecoder().raw_decode(done.text)[0]["verdict"]
        code, remedy = (found["code"], found["remedy"]) if found else ("", "")
        return Said(done.status, done.text, code, remedy)

    def agent(self, verb: str, *arguments: str) -> Said:
        return self._run(verb, *arguments)

    def _run(self, verb: str, *arguments: str, service: bool = False) -> Said:
        self._runs += 1
        trace, out, err = (
            self.watched / "traces" / f"{self._runs}.{name}" for name in ("trace", "out", "err")
        )
        with out.open("wb") as stdout, err.open("wb") as stderr:
            env = {**self.device.environment(), **self.variables}
            if service:
                found = err.stat()
                env["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
            command = [*self.prefix, *self.device.agent_command(verb, *arguments)]
            done = subprocess.run(
                [*self.apart.enter, *canaries.strace(trace), *command],
                env=env, cwd=self.watched, timeout=120, check=False,
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            )  # fmt: skip
        entries = self.journal.taken()
        text = out.read_bytes() + err.read_bytes() + b"\n".join(entries)
        for each in (out, err):
            each.unlink()
        self.said.append(text)
        self.secrets |= canaries.planted(self.device)
        return self._understood(done.returncode, text.decode(errors="replace"))

    def _understood(self, status: int, text: str) -> Said:
        assert "Traceback" not in text, text
        found = SAID.search(text)
        return Said(status, text, *(found["code"], found["remedy"]) if found else ("", ""))

    # --- what faults are made of ---

    def configure(self, **tables: Any) -> None:
        """These settings too; None takes one out."""
        self.changes = overlaid(self.changes, tables)
        self.device.configure(self.changes)

    def unconfigure(self) -> None:
        """As the image had it."""
        self.changes = {}
        self.device.configure({})

    def credential(self, name: str, text: str) -> None:
        path = self.device.credentials / name
        path.unlink(missing_ok=True)
        pki.write_private(path, text.encode())

    @property
    def tools(self) -> Tools:
        """tpm2-tools."""
        directory = self.device.directory / "watched" / "tools"
        directory.mkdir(exist_ok=True)
        return Tools(self.device.tcti, directory)

    def relay(self, server: Server) -> Relay:
        """From now on the way to this server leads through it."""
        return self.lead(server, self._site(server).port)

    def lead(self, server: Server, port: int) -> Relay:
        relay = self.stack.enter_context(Relay(port))
        self.configure(**self.at(server, f"localhost:{relay.port}"))
        return relay

    def _site(self, server: Server) -> Any:
        world = self.world
        return {"est": world.owner_est, "operational": world.operations_est, "dps": world.dps}[
            server
        ]

    def at(self, server: Server, host: str) -> dict[str, Any]:
        """Settings by which the server is at "HOST:PORT"."""
        wish = self.device.wish
        if server == "dps":
            return {"dps": {"endpoint": f"https://{host}"}}
        if server == "est":
            url = f"https://{host}/.well-known/est/{wish.auth}"
            return {"ldevid": {"est": {"url": url}}}
        return {"operational": {"url": f"https://{host}/.well-known/est/{wish.operational_auth}"}}

    def named(self, server: Server) -> dict[str, Any]:
        """The same, by a name that has to be looked up."""
        return self.at(server, f"{HOST}:{self._site(server).port}")

    def clock(self) -> Clock:
        """One for this device's agent alone."""
        clock = Clock(self.watched / "clock")
        self.variables |= clock.environment()
        return clock

    @property
    def user(self) -> str:
        """At servers that ask for a password."""
        return USER

    @property
    def hub(self) -> Hub:
        return self.world.hub


def overlaid(changes: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """As `merged`, but a None stays: it is for the settings that both are laid over."""
    result = dict(changes)
    for key, new in more.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(new, Mapping)
        result[key] = overlaid(old, new) if both else new  # type: ignore[arg-type]
    return result
