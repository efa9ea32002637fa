"""A whole first boot by tpm2cloud, and the same by hand with tpm2-tools, tpm2_ptool, openssl and
curl (tests/bench/seed-steps): on devices with copies of the same TPM, whose factory part is done
(EK certificate, EK, IDevID key and certificate), with the same servers, alternated.

Told apart is what the stand-in for IoT Edge takes. The TPM is swtpm: its CPU time is the TPM's
time. By hand the TPM is behind tpm2-abrmd, as tpm2_ptool needs it and the scripts install it; the
agent goes straight to the TPM, and in a row of its own through tpm2-abrmd, too.

And what comes after: `tpm2cloud health` with nothing due, as a device runs it every hour.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.bench import report
from tests.bench.sides import Side, bench
from tests.lab.world import World

SCRIPTS = Side("by hand, RSA, Basic", "scripts", "rsa2048", managed=True)
RSA = Side("agent, RSA, Basic", "agent", "rsa2048")
ECC = Side("agent, ECC, Basic", "agent", "ecc256")
MANAGED = Side("agent, RSA, Basic, tpm2-abrmd", "agent", "rsa2048", managed=True)
MTLS = Side("agent, ECC, mutual TLS by IDevID", "agent", "ecc256", "mtls")
SIDES = (SCRIPTS, RSA, ECC, MANAGED, MTLS)


class Rounds:
    """All sides once a round, each time on new devices; every other round backwards."""

    def __init__(self, world: World, directory: Path) -> None:
        self._world, self._directory, self._devices = world, directory, 0
        self.first = {side: report.Row(side.name) for side in SIDES}
        self.second = report.Row("agent, second run, ECC")
        self.identity = report.Row("agent, identity")
        self.health = report.Row("agent, health, nothing due")
        self.network = 0

    def run(self, count: int) -> None:
        for n in range(count):
            for side in SIDES[:: -1 if n % 2 else 1]:
                self._say(f"round {n + 1} of {count}: {side.name}")
                self._measure(side)
        for side in (SCRIPTS, ECC):
            self._say(f"counting processes: {side.name}")
            self._count(side)
        self._say("")

    def _say(self, what: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)

    def _measure(self, side: Side) -> None:
        with bench(self._world, side, self._device()) as device:
            self.first[side].samples.append(device.run())
            if side is ECC:
                self.second.samples.append(device.run())
                self.identity.samples.append(device.identity())
                if not self.health.samples:
                    self.network = device.health_network()
                self.health.samples.append(device.health())

    def _count(self, side: Side) -> None:
        with bench(self._world, side, self._device()) as device:
            self.first[side].count = device.processes()

    def _device(self) -> Path:
        self._devices += 1
        return self._directory / f"bench-{self._devices:04}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="tests/bench/run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-n", type=int, default=5, metavar="ROUNDS", help="(default: 5)")
    rounds = parser.parse_args().n
    load = os.getloadavg()[0]
    directory = Path(tempfile.mkdtemp(prefix="tpm2cloud-bench-"))
    try:
        with World(directory / "world") as world:
            done = Rounds(world, directory)
            done.run(rounds)
    finally:
        shutil.rmtree(directory)
    first = done.first
    rows = [*first.values(), done.second, done.identity, done.health]
    print(report.table(rows, rounds, load), end="\n\n")
    others = [first[MANAGED], first[MTLS]]
    print(report.verdicts(first[SCRIPTS], first[RSA], first[ECC], done.second, others))
    print(report.identity(done.identity))
    print(report.health(done.health, done.network))


if __name__ == "__main__":
    main()
