"""What `tests/demo` shows of a device without IoT Edge: how it is enrolled, what its hub gets."""

import shlex
from base64 import b64decode
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tests.lab.device import Device

Run = Callable[..., int]
SHOWN = 100  # characters


def enrol(board: Device) -> None:
    """What the operator does, by the very command that the device prints for that."""
    print("\nThe operator enrols it, as it says: tpm2cloud identity")
    lines = map(str.strip, board.agent("identity").stdout.splitlines())
    command = next(line for line in lines if line.startswith("az iot dps enrollment create"))
    print(f"  {command[:SHOWN]} ...")
    words = shlex.split(command)
    said = {word: words[at + 1] for at, word in enumerate(words) if word.startswith("--")}
    ek = b64decode(said["--endorsement-key"], validate=True)
    board.world.dps.enrol_tpm(said["--enrollment-id"], ek)


def telemetry(board: Device, run: Run) -> int:
    print("\nTelemetry: tpm2cloud telemetry --count 5\n")
    if run(board, "telemetry", "--count", "5"):
        return 1
    print("\nThe hub's own account; it has the key, or the certificate's hash, from DPS alone:")
    for each in board.world.hub.log():
        if each["event"] != "stranger":  # who looked whether it is up
            print(f"  {_at(each)} {_line(each)}")
    return 0


def _at(event: dict[str, Any]) -> str:
    return f"{datetime.fromtimestamp(event['time'], UTC):%H:%M:%S.%f}"[:-3]


def _line(event: dict[str, Any]) -> str:
    match event["event"]:
        case "connect" if event["accepted"]:
            return f"{event['device']} let in by its {event['by']}, {event['tls']}"
        case "connect":
            return f"{event['device']} refused: {event['reason']}"
        case "message":
            return f"message {event['mid']}: {event['text'][:SHOWN]}"
    return f"{event['event']}: {event.get('why', '')}"


def again(board: Device, run: Run, asked: int) -> int:
    """A second boot registers nothing, and only sends."""
    before = len(board.world.hub.messages())
    if sends(board, run):
        return 1
    more = len(board.world.dps.requests()) - asked
    sent = len(board.world.hub.messages()) - before
    wrong = "" if (more, sent) == (0, 5) else ": THAT IS A DEFECT"
    print(f"\nDPS was asked {more} times more, the hub got {sent} messages more{wrong}.")
    return 1 if wrong else 0


def sends(board: Device, run: Run) -> int:
    print("\nOnce more: tpm2cloud telemetry --count 5\n")
    return run(board, "telemetry", "--count", "5")
