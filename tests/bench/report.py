"""The table and the verdicts."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from tests.bench.sides import Cost, Sample

HEAD = (
    f"{'':34} {'whole':>6} {'IoT Edge':>8} | {'wall':>6} {'min':>6} {'max':>6} {'CPU':>6}"
    f" {'TPM':>6} {'wall-TPM':>8} | {'peak':>5} {'processes':>9} {'programs':>8}"
)
QUIET = 0.3  # processes that want to run, for each CPU


@dataclass
class Row:
    """One way of doing it; `count` as of `Bench.processes`."""

    name: str
    samples: list[Sample] = field(default_factory=list)
    count: tuple[int, int] | None = None

    def median(self, figure: Callable[[Sample], float]) -> float:
        return median(figure(sample) for sample in self.samples)

    def own(self, figure: Callable[[Cost], float]) -> float:
        return self.median(lambda sample: figure(sample.own))

    def whole(self, figure: Callable[[Cost], float]) -> float:
        return self.median(lambda sample: figure(sample.whole))

    @property
    def peak(self) -> float:
        return max(sample.peak for sample in self.samples)

    def __str__(self) -> str:
        walls = [sample.own.wall for sample in self.samples]
        edge = self.median(lambda sample: sample.iotedge.wall)
        own = [self.own(wall), min(walls), max(walls), self.own(cpu), self.own(lambda c: c.tpm)]
        figures = " ".join(f"{seconds:6.2f}" for seconds in own)
        processes, programs = self.count or ("", "")
        return (
            f"{self.name:34} {self.whole(wall):6.2f} {edge:8.2f} | {figures} "
            f"{self.own(waiting):8.2f} | {self.peak:5.0f} {processes:>9} {programs:>8}"
        )


def wall(cost: Cost) -> float:
    return cost.wall


def cpu(cost: Cost) -> float:
    return cost.cpu


def waiting(cost: Cost) -> float:
    return cost.waiting


def table(rows: Sequence[Row], count: int, load: float) -> str:
    """`load`: the machine's when it began; what waits for a processor waits in `wall`, too."""
    cpus = len(os.sched_getaffinity(0))
    quiet = "" if load < QUIET * cpus else ": not quiet, wall times and their ratios say little"
    notes = f"""\
Medians of {count} runs, seconds; peak: the largest, MiB. `whole` is from power on to provisioned.
The columns right of the first bar leave out `IoT Edge`: what the stand-in takes for `iotedge config
apply` and `iotedge system reprovision`, the same work on all sides, and none of it ours.
The load when it began was {load:.1f} on {cpus} CPUs{quiet}."""
    return "\n".join([notes, "", HEAD, *map(str, rows)])


def verdicts(scripts: Row, rsa: Row, ecc: Row, second: Row, others: Sequence[Row]) -> str:
    """The targets. Ratios are judged without IoT Edge's part; with it they are told as well."""
    agent = [rsa, ecc, second, *others]
    largest_cpu = max(row.own(cpu) for row in agent)
    peak = max(row.peak for row in agent)
    seconds = second.own(cpu)
    lines = [
        _ratio("wall-TPM, RSA: scripts / agent", scripts, rsa, waiting, 5),
        _ratio("wall: scripts with RSA / agent with ECC", scripts, ecc, wall, 6),
        _verdict(
            "agent's CPU, largest of the rows", f"{largest_cpu:.2f} s", "< 1", largest_cpu < 1
        ),
        _verdict("agent's peak memory", f"{peak:.0f} MiB", "< 90", peak < 90),
        _verdict("agent's CPU, second run", f"{seconds:.2f} s", "< 0.6", seconds < 0.6),
    ]
    return "\n".join(lines)


def identity(row: Row) -> str:
    """A discrete TPM takes seconds more for the EK that it has to make."""
    seconds = row.whole(wall)
    return _verdict("agent's identity, wall", f"{seconds:.2f} s", "< 1", seconds < 1)


def health(row: Row, network: int) -> str:
    """Of the companion when nothing is due. `network`: sockets that are not Unix sockets."""
    seconds = row.own(cpu)
    lines = [
        _verdict("agent's CPU, health", f"{seconds:.2f} s", "< 0.35", seconds < 0.35),
        _verdict("agent's peak memory, health", f"{row.peak:.0f} MiB", "< 60", row.peak < 60),
        _verdict("agent's network sockets, health", f"{network}", "0", network == 0),
    ]
    return "\n".join(lines)


def _ratio(what: str, slow: Row, fast: Row, figure: Callable[[Cost], float], target: float) -> str:
    own = slow.own(figure) / fast.own(figure)
    whole = slow.whole(figure) / fast.whole(figure)
    told = f"{own:.1f}x ({whole:.1f}x with IoT Edge's part)"
    return _verdict(what, told, f">= {target:g}", own >= target)


def _verdict(what: str, value: str, target: str, met: bool) -> str:
    return f"{'met   ' if met else 'MISSED'}  {what:41} {target:>6}  {value}"
