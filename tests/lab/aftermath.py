"""What comes after the companion was cut off: it is run until it has nothing more to do, and the
device is asked whether it is provisioned.

This file is also the program that does so, on the device, or runs the verbs it is told. Each verb
is a process of its own, as ever; but what they load is loaded once, which is most of what a run
costs.
"""

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.lab.device import Device

RUNS, PATIENCE = 3, 30.0
LATER = 75


def content(device: "Device") -> dict[str, Any]:
    """The last report of `health`: all is well, and there was nothing to be done any more."""
    done = device.run([sys.executable, "-P", __file__, str(device.config)])
    assert done.returncode == 0, done.stderr
    *runs, status = json.loads(done.stdout)
    assert all("Traceback" not in run["stderr"] for run in runs), runs
    last, worked = runs[-1], [run for run in runs if did(run)]
    assert is_content(last), runs
    assert len(worked) < RUNS, worked  # and the last, that had nothing to do
    assert status["code"] == 0, status
    found: dict[str, Any] = json.loads(last["stdout"])
    bad = [each for each in found["certificates"] if each["needed"] and each["state"] != "fresh"]
    assert not bad
    return found


def did(run: dict[str, Any]) -> bool:
    """Or tried, or failed; else it only waited for somebody."""
    if run["code"] not in (0, 3):
        return True
    report = json.loads(run["stdout"])
    return bool(report["actions"] or report["problem"])


def is_content(run: dict[str, Any]) -> bool:
    return run["code"] == 0 and not did(run)


# --- on the device ---


def main(config: str) -> list[dict[str, Any]]:
    from agent import cli, est, http, plan, status  # noqa: F401
    from agent.health import run as _  # noqa: F401
    from agent.tpm import provider  # noqa: F401

    until, runs = time.monotonic() + PATIENCE, list[dict[str, Any]]()
    while time.monotonic() < until:
        run = verb(cli.main, "--config", config, "health", "--json")
        if run["code"] == LATER or (not did(run) and not is_content(run)):
            time.sleep(0.2)  # IoT Edge is at work
            if run["code"] == LATER:
                continue
        runs.append(run)
        if is_content(run) or sum(map(did, runs)) > RUNS:
            break
    return [*runs, verb(cli.main, "--config", config, "status")]


def serve(config: str) -> None:
    """Each line of stdin is a JSON list of commands, run one after the other; each gives a line."""
    from agent import cli, dps, http, hub, plan, telemetry  # noqa: F401
    from agent.health import run as _  # noqa: F401

    for line in sys.stdin:
        done = [verb(cli.main, "--config", config, *command) for command in json.loads(line)]
        sys.stdout.write(f"{json.dumps(done)}\n")
        sys.stdout.flush()


def verb(program: Any, *arguments: str) -> dict[str, Any]:
    files = {1: os.memfd_create("stdout"), 2: os.memfd_create("stderr")}
    if (pid := os.fork()) == 0:
        for descriptor, file in files.items():
            os.dup2(file, descriptor)
        sys.argv = ["tpm2cloud", *arguments]
        os._exit(program())
    _, ended = os.waitpid(pid, 0)
    said = {name: _content(files[number]) for number, name in ((1, "stdout"), (2, "stderr"))}
    return {"code": os.waitstatus_to_exitcode(ended), **said}


def _content(file: int) -> str:
    with os.fdopen(file) as text:
        text.seek(0)
        return text.read()


if __name__ == "__main__":
    if sys.argv[2:] == ["serve"]:
        serve(sys.argv[1])
    else:
        sys.stdout.write(json.dumps(main(sys.argv[1])))
