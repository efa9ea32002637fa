"""One first boot, by the agent or by hand, on a new device of the same world, and what it cost."""

import json
import shlex
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent import aziot_identity
from tests.bench import manager, meter, strace
from tests.lab import cryptoki, pki
from tests.lab.device import Device, Wish
from tests.lab.world import USER, World

HERE = Path(__file__).parent

# What `iotedge` takes is told apart from the rest: it stands before the real one in $PATH, and
# notes per call: start, end, the TPM's CPU time at both; then what bash's `times` says.
IOTEDGE = """\
#!/bin/bash
read -r busy _ </proc/{tpm}/schedstat; started=$EPOCHREALTIME
{program} "$@"; status=$?
ended=$EPOCHREALTIME; read -r idle _ </proc/{tpm}/schedstat
{{ echo "$started $ended $busy $idle"; times; }} >>{log}
exit "$status"
"""


@dataclass(frozen=True)
class Cost:
    """Of a whole run, or of IoT Edge's part of it: seconds; `tpm` is CPU time of the TPM."""

    wall: float
    cpu: float
    tpm: float

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.wall - other.wall, self.cpu - other.cpu, self.tpm - other.tpm)

    @property
    def waiting(self) -> float:
        """All that was not the TPM computing."""
        return self.wall - self.tpm


@dataclass(frozen=True)
class Sample:
    """`iotedge` is the part of `whole` that was spent in calls of `iotedge`; `peak` in MiB."""

    whole: Cost
    iotedge: Cost
    peak: float

    @property
    def own(self) -> Cost:
        return self.whole - self.iotedge


@dataclass(frozen=True)
class Side:
    """`managed`: the TPM is reached through tpm2-abrmd. tpm2_ptool needs it, the agent does not."""

    name: str
    by: Literal["scripts", "agent"]
    key: pki.Kind
    auth: Literal["basic", "mtls"] = "basic"
    managed: bool = False


class Bench:
    """One device, powered on."""

    def __init__(self, device: Device, side: Side, env: dict[str, str]) -> None:
        """`env`: what the way to the TPM needs."""
        self.device, self.side = device, side
        self._log, self._tpm = device.directory / "iotedge.times", _listener(device.tpm)
        self.env = device.environment() | env
        self.env["PATH"] = f"{self._meter_iotedge()}:{self.env['PATH']}"
        if side.managed:
            device.configure({"tpm": {"tcti": manager.TCTI}})

    def _meter_iotedge(self) -> Path:
        """Gives a directory for the front of $PATH."""
        program = self.device.directory / "metered" / "iotedge"
        program.parent.mkdir()
        real = shlex.quote(str(self.device.bin / "iotedge"))
        log = shlex.quote(str(self._log))
        program.write_text(IOTEDGE.format(tpm=self._tpm, program=real, log=log))
        program.chmod(0o755)
        return program.parent

    @property
    def command(self) -> list[str]:
        if self.side.by == "agent":
            return self.device.agent_command("provision")
        return [str(HERE / "seed-steps"), str(self._settings())]

    def _settings(self) -> Path:
        """What seed-steps has to know, as assignments for the shell."""
        device, world = self.device, self.device.world
        credential = device.directory / "est.curlrc"
        pki.write_private(credential, f'user = "{USER}:{world.est_password}"\n'.encode())
        operations = world.operations_est
        roots = device.etc / "tpm-roots.d"
        settings = {
            "work": device.state / "install",
            "id": device.wish.id,
            "board": device.wish.board.id,
            "maker_root": roots / "swtpm-localca-rootca-cert.pem",
            "maker_intermediate": roots / "issuercert.pem",
            "oem_ca": device.etc / "idevid-ca.pem",
            "owner_ca": device.etc / "owner-ca.pem",
            "est_url": world.owner_est.url("basic"),
            "est_trust": device.etc / "est-ca.pem",
            "credential": credential,
            "store": device.pkcs11,
            "owner": device.settings()["pkcs11"]["owner"],
            "module": cryptoki.module(),
            "aziot": device.aziot,
            "operational_server": f"localhost:{operations.port}",
            "operational_url": operations.url("mtls"),
            "operational_trust": device.etc / "operational-ca.pem",
            "dps_url": world.dps.url,
            "id_scope": world.dps.scope,
        }
        path = device.directory / "seed-steps.conf"
        lines = [f"{name}={shlex.quote(str(value))}\n" for name, value in settings.items()]
        path.write_text("".join(lines))
        return path

    def identity(self) -> Sample:
        """What the back office wants to know, which is asked offline, and first."""
        return self.run(self.device.agent_command("identity", "--json"))

    def health(self) -> Sample:
        """The companion, when nothing is due: every hour, for years."""
        return self.run(self.device.agent_command("health"))

    def health_network(self) -> int:
        """Network sockets that such a run opens or uses."""
        calls = ["-e", "trace=socket,connect,sendto,sendmsg", "-e", "signal=none"]
        return len(strace.network(self._traced(calls, self.device.agent_command("health"))))

    def run(self, command: Sequence[str] = ()) -> Sample:
        """Raises RuntimeError if it fails, or if the device is not provisioned afterwards."""
        result = self.device.directory / "result.json"
        self._log.write_text("")
        metered = [sys.executable, "-I", "-S", meter.__file__, str(result), str(self._tpm)]
        done = self._execute([*metered, *(command or self.command)])
        found = json.loads(result.read_text()) if result.exists() else {}
        if found.get("status") != 0:
            raise RuntimeError(f"{self.side.name}: {found}\n{done.stdout}\n{done.stderr}")
        self._check()
        whole = Cost(found["wall"], found["cpu"], found["tpm"])
        return Sample(whole, _iotedge(self._log.read_text()), found["peak"])

    def _execute(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def _check(self) -> None:
        """Both did the job: the identity service and the provisioning service say so."""
        found = aziot_identity.provisioning(self.device.socket)
        name = self.device.wish.id
        if isinstance(found, aziot_identity.Unknown) or found.device_id != name:
            raise RuntimeError(f"{self.side.name}: not provisioned: {found}")
        if not self.device.world.dps.assigned(name):
            raise RuntimeError(f"{self.side.name}: nobody registered '{name}'")

    def processes(self) -> tuple[int, int]:
        """(processes started, programs executed) by such a run, without those of IoT Edge."""
        calls = ["-e", "trace=execve,clone,clone3,fork,vfork", "-e", "signal=none"]
        # The service that `iotedge` leaves behind would keep strace waiting.
        ends = ["bash", "-c", '"$@"; status=$?; iotedge system stop; exit $status', "bash"]
        return strace.processes(self._traced(calls, [*ends, *self.command]))

    def _traced(self, calls: Sequence[str], command: Sequence[str]) -> list[str]:
        """Lines of strace. Raises RuntimeError if the command fails."""
        trace = self.device.directory / "trace"
        done = self._execute(["strace", "-f", "-qq", *calls, "-o", str(trace), *command])
        if done.returncode != 0:
            raise RuntimeError(f"{self.side.name}: {done.stdout}\n{done.stderr}")
        return trace.read_text().splitlines()


@contextmanager
def bench(world: World, side: Side, directory: Path) -> Iterator[Bench]:
    """A new device; all of them have copies of one TPM."""
    with ExitStack() as stack:
        wish = Wish(id=directory.name, key=side.key, auth=side.auth)
        device = stack.enter_context(Device(world, directory, wish))
        env: dict[str, str] = {}
        if side.managed:
            front = manager.running(directory / "manager", device.tcti)
            env |= stack.enter_context(front)
        yield Bench(device, side, env)


def _listener(tpm: Path) -> int:
    """The process that listens on the TPM's socket, as the kernel says it (unix(7))."""
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(tpm / "tpm.sock.ctrl"))
        credentials = control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, _, _ = struct.unpack("3i", credentials)
    return int(pid)


def _iotedge(log: str) -> Cost:
    lines = log.splitlines()
    cost = Cost(0.0, 0.0, 0.0)
    for call, own, children in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        started, ended, busy, idle = map(float, call.split())
        cpu = sum(map(_seconds, [*own.split(), *children.split()]))
        cost -= Cost(started - ended, -cpu, (busy - idle) / 1e9)
    return cost


def _seconds(text: str) -> float:
    """bash's `0m0.012s`."""
    minutes, seconds = text.rstrip("s").split("m")
    return 60 * float(minutes) + float(seconds)
