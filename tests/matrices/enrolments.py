"""Ten thousand devices are enrolled in the lab's Azure, which wants fewer requests, loses answers
and fails now and then: each of them once, with the memory of one thousand, whoever kills the tool.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.lab import pki, process
from tests.lab.azure import Azure
from tests.lab.desk import DPS, Desk, exported, made_up
from tests.matrices import Count, Report, Tell

TITLE = "Ten thousand enrolments"
FEW, MANY = 1_000, 10_000
LOOK_EVERY = 0.05  # seconds
ROOM = 16 << 10  # KiB that ten times as many may take besides
BAD = {"throttle_every": 7, "fail_every": 31, "cut_at": [40, 333, 700], "polls": 0}


@dataclass
class Place:
    """An operator's desk, and the files of few and of many devices."""

    desk: Desk
    azure: Azure
    few: Path
    many: Path

    def start(self, *words: str | Path) -> subprocess.Popen[bytes]:
        """What it says is in the file `said`."""
        command = [sys.executable, "-m", "agent.operator.cli", "--config", self.desk.file, *words]
        environment = {**os.environ, **self.desk.environment}
        with (self.desk.directory / "said").open("wb") as out:
            return subprocess.Popen(
                list(map(str, command)), cwd=process.TOP, env=environment, stdout=out, stderr=out
            )

    def run(self, *words: str | Path) -> tuple[str, int]:
        """The last line it said, and the most memory it had, KiB; raises for any failure."""
        begun, most = self.start(*words), 0
        while begun.poll() is None:
            most = max(most, peak(begun.pid))
            time.sleep(LOOK_EVERY)
        said = (self.desk.directory / "said").read_text()
        if begun.returncode != 0:
            raise RuntimeError(f"{words[0]} ended with {begun.returncode}: {said[-2000:]}")
        return said.splitlines()[-1], most

    def anew(self) -> None:
        """A cloud without any enrolment."""
        self.azure.behave(polls=0)
        self.run("destroy", "-y")
        self.run("deploy")
        self.azure.forget()

    def enrolled(self) -> int:
        """So many, each once; raises if one is there twice, or with another's key."""
        found = self.azure.enrolments(DPS)
        names = Counter(each["registrationId"] for each in found)
        keys = Counter(each["attestation"]["tpm"]["endorsementKey"] for each in found)
        if set((names + keys).values()) > {1}:
            raise RuntimeError("enrolled twice")
        return len(names)


def peak(pid: int) -> int:
    """VmHWM in proc(5), KiB; 0 of a process that has none any more. What wait4(2) tells is that of
    who started it, too."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def memory(place: Place, tell: Tell) -> int:
    """Those of many that are enrolled, with no more memory than few need."""
    place.anew()
    _, few = place.run("enrol", place.few)
    place.anew()
    place.azure.behave(**BAD)
    said, many = place.run("enrol", place.many)
    tell(f"{said}; {few} KiB for {FEW} devices, {many} KiB for {MANY}")
    if many > few + ROOM:
        raise RuntimeError(f"{many} KiB for {MANY} devices, {few} KiB for {FEW}")
    return place.enrolled()


def again(place: Place, tell: Tell) -> int:
    """Those that a second run finds as they should be; it writes nothing."""
    place.azure.forget()
    said, _ = place.run("enrol", place.many)
    tell(said)
    if wishes := place.azure.wishes():
        raise RuntimeError(f"{len(wishes)} writes, though all was there: {wishes[0]}")
    return int(said.split(" unchanged")[0].split()[-1])


def killed(place: Place, tell: Tell) -> int:
    """Those that are enrolled after a run that was killed, and the next one."""
    place.anew()
    place.azure.behave(**BAD)
    begun = place.start("enrol", place.many)
    while begun.poll() is None and len(place.azure.wishes()) <= MANY // 30:
        time.sleep(LOOK_EVERY)
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    before = place.enrolled()
    place.azure.behave(**BAD)  # counted from here on
    said, _ = place.run("enrol", place.many)
    tell(f"killed after {before}; then {said}")
    if not 0 < before < MANY:
        raise RuntimeError(f"killed after {before} of {MANY}")
    return place.enrolled()


ROUNDS: dict[str, Callable[[Place, Tell], int]] = {
    "enrolled, throttled and failing, in the memory of a tenth of them": memory,
    "found the next time, nothing written": again,
    "enrolled after a kill": killed,
}


def prove(base: Path, tell: Tell, only: str = "") -> Report:
    tls = pki.authority("TLS").server(base / "tls")
    counts, failed = [], []
    with Azure(base / "azure", tls).running() as azure:
        place = Place(Desk(base / "desk", azure), azure, base / "few.json", base / "many.json")
        place.few.write_text(exported(made_up(n) for n in range(FEW)))
        place.many.write_text(exported(made_up(n) for n in range(MANY)))
        for name, play in ROUNDS.items():
            if only not in name:
                continue
            try:
                done = play(place, tell)
            except (RuntimeError, TimeoutError) as e:
                done = 0
                failed.append(f"{name}: {e}")
            counts.append(Count(name, MANY, done))
    return Report(TITLE, counts, failed=failed)
