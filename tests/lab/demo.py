"""`tests/demo`: one board at the factory, its first boot, step by step, a second boot that has
nothing to do; without IoT Edge, what it sends to its hub; and then what the companion does for
years, in a time of the lab's own."""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Never

from tests.lab import demo_hub
from tests.lab.clock import Clock
from tests.lab.device import Device, Wish
from tests.lab.factory import Board
from tests.lab.line import Line
from tests.lab.world import World


def main() -> int:
    args = parse()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    with tempfile.TemporaryDirectory(prefix="tpm2cloud-demo-") as scratch:
        os.environ["TMPDIR"] = scratch  # swtpm_setup, when interrupted, leaves its files
        directory = Path(scratch) if args.keep is None else args.keep
        clock = Clock(directory / "clock")
        with (
            world(directory / "world", clock, hub=args.target == "device") as lab,
            device(lab, directory / "device", args) as board,
        ):
            return show(board, args) or (years(board, clock) if args.attestation == "x509" else 0)


def parse() -> argparse.Namespace:
    options = argparse.ArgumentParser(prog="tests/demo", description=__doc__)
    options.add_argument("--key", choices=["ecc256", "rsa2048"], default="ecc256")
    options.add_argument("--auth", choices=["mtls", "basic", "secret"], default="mtls")
    options.add_argument("--issued-by", choices=["est", "static"], default="est")
    options.add_argument("--attestation", choices=["x509", "tpm"], default="x509")
    options.add_argument("--target", choices=["edge", "device"], default="edge")
    makers = ["tcg", "ek-child", "scripts"]
    help = "what the factory makes the IDevID by; scripts: tpm2-tools, as the shell scripts do"
    options.add_argument("--factory", choices=makers, default="tcg", help=help)
    options.add_argument("--keep", type=Path, metavar="DIR", help="a new directory, left behind")
    args = options.parse_args()
    if args.keep is not None:
        args.keep = args.keep.absolute()  # nginx has a working directory of its own
        if args.keep.exists():
            options.error(f"cannot keep it in '{args.keep}': that exists already")
    return args


def interrupted(number: int, frame: object) -> Never:
    """Programs are ended and files removed on the way out."""
    print(f"\ninterrupted by {signal.Signals(number).name}", file=sys.stderr, flush=True)
    sys.exit(128 + number)


@contextmanager
def timed(what: str) -> Iterator[None]:
    print(f"{what} ...", end=" ", flush=True)
    started = time.monotonic()
    yield
    print(f"{time.monotonic() - started:.2f} s", flush=True)


@contextmanager
def world(directory: Path, clock: Clock, *, hub: bool) -> Iterator[World]:
    more = ", an IoT Hub" if hub else ""
    print(f"The world: CAs, EST servers (of GlobalSign's library), a provisioning service{more}")
    with timed("  made and started"):
        running = World(directory, clock=clock, renewing=True, hub=hub)
        running.__enter__()
    try:
        yield running
    finally:
        running.__exit__()


@contextmanager
def device(lab: World, directory: Path, args: argparse.Namespace) -> Iterator[Device]:
    virgin = args.factory != "scripts"
    has = "nothing else" if virgin else "an IDevID by tpm2-tools, as the scripts make it"
    print(f"\nThe device: swtpm with an EK certificate, and {has}")
    with timed("  made"):
        wish = Wish(
            id="demo-4711",
            key=args.key,
            auth=args.auth,
            issued_by=args.issued_by,
            attestation=args.attestation,
            target=args.target,
            enrolled=False,
            board=Board(virgin=virgin),
        )
        made = Device(lab, directory, wish)
    with made:
        yield made


def manufacture(board: Device, profile: str) -> int:
    """The certificate is for longer than EST servers like to issue: as long as the device lasts."""
    line = Line(board, "ca", profile=profile)
    print(f"\nIts factory's configuration, {line.config}:\n")
    print(line.config.read_text())
    print("At the factory: tpm2cloud manufacture\n", flush=True)
    done = subprocess.run(
        line.command(), env=board.environment(), stdout=subprocess.PIPE, text=True, check=False
    )
    if not done.returncode:
        print(f"\nWhat the back office gets, {len(done.stdout)} bytes: {done.stdout[:60]} ...\n")
    return done.returncode


def show(board: Device, args: argparse.Namespace) -> int:
    by_tpm = args.attestation == "tpm"
    if args.factory != "scripts" and not by_tpm and manufacture(board, args.factory):
        return 1
    if by_tpm:
        demo_hub.enrol(board)
    print(f"\nIts configuration, {board.config}:\n")
    print(board.config.read_text())
    for title, verb in {"First boot": "provision", "Where it is now": "status"}.items():
        print(f"\n{title}: tpm2cloud {verb}\n")
        if run(board, verb):
            return 1
    if not board.for_edge and demo_hub.telemetry(board, run):
        return 1
    asked = len(board.world.dps.requests())
    print("\nSecond boot: tpm2cloud provision\n")
    before = files(board)
    second = run(board, "provision")
    same = files(board) == before
    print(f"\nThe second run changed {'nothing' if same else 'files: THAT IS A DEFECT'}.")
    if not board.for_edge:
        same = same and not demo_hub.again(board, run, asked)
    return 0 if second == 0 and same else 1


def years(board: Device, clock: Clock) -> int:
    """Certificates are issued for 90 days."""
    for title, days in {"Two months later": 66, "After 400 days in a drawer": 400}.items():
        clock.advance(timedelta(days=days))
        print(f"\n{title}: tpm2cloud health\n")
        if run(board, "health"):
            return 1
    return 0 if board.for_edge else demo_hub.sends(board, run)


def run(board: Device, verb: str, *arguments: str) -> int:
    """The real command; what it says goes straight to the reader."""
    sys.stdout.flush()
    command = board.agent_command(verb, *arguments)
    status = subprocess.run(command, env=board.environment(), check=False).returncode
    if status:
        print(f"exit status {status}")
    return status


def files(board: Device) -> dict[Path, tuple[int, bytes]]:
    """Everything the agent may write, by inode and content."""
    every = (p for at in (board.state, board.aziot, board.pkcs11) for p in at.rglob("*"))
    return {p: (p.stat().st_ino, p.read_bytes()) for p in every if p.is_file()}


if __name__ == "__main__":
    sys.exit(main())
