"""Runs a program and says what it cost: a small process of its own, because the kernel counts to a
child's peak memory what its parent had when it forked.

meter.py RESULT TPM-PID PROGRAM ARGUMENT...

RESULT becomes JSON: status, wall, cpu (user and system, with all descendants that were waited
for) and tpm (the CPU time of the process TPM-PID meanwhile), in seconds; peak (the largest
resident set of any of the processes) in MiB.
"""

import json
import os
import sys
import time
from pathlib import Path


def cpu_of(pid: int) -> float:
    """Seconds that all threads of a process were on a CPU (proc(5), schedstat)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def measure(tpm: int, command: list[str]) -> dict[str, float]:
    busy, started = cpu_of(tpm), time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ)
    _, status, used = os.wait4(pid, 0)
    return {
        "wall": time.monotonic() - started,
        "tpm": cpu_of(tpm) - busy,
        "status": os.waitstatus_to_exitcode(status),
        "cpu": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss / 1024,
    }


if __name__ == "__main__":
    result, tpm, *command = sys.argv[1:]
    Path(result).write_text(json.dumps(measure(int(tpm), command)))
