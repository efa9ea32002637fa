"""Programs of the lab: started, waited for until they answer, and never left behind."""

import contextlib
import random
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

PATIENCE = 30.0
TOP = Path(__file__).parents[2]


def start(
    command: Sequence[str],
    log: Path,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Run a program whose output goes to `log`; it also ends when we are killed (prctl(2),
    PR_SET_PDEATHSIG), so call it from a thread that lives as long as the program is needed."""
    ends_with_us = ["setpriv", "--pdeathsig", "TERM", "--"]
    with log.open("ab") as out:
        return subprocess.Popen(
            [*ends_with_us, *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=cwd,
            env=env,
        )


def ask(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, at the top of the checkout; `stdout` has what it says anywhere."""
    return subprocess.run(
        command,
        cwd=TOP,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def run(*command: str | Path) -> str:
    """What a program says; quoted, if it fails."""
    done = ask(*command)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stdout[-4000:]}")
    return done.stdout


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def running(
    command: Sequence[str],
    log: Path,
    answers: Callable[[], bool],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program for the length of the `with`, entered once it `answers`."""
    process = start(command, log, cwd=cwd, env=env)
    try:
        wait(process, answers, log)
        yield process
    finally:
        stop(process)


def wait(process: subprocess.Popen[bytes], answers: Callable[[], bool], log: Path) -> None:
    """Until the program answers; its own words are quoted if it never does."""
    until = time.monotonic() + PATIENCE
    while not answers():
        dead = process.poll() is not None
        if dead or time.monotonic() > until:
            state = f"ended with {process.returncode}" if dead else "does not answer"
            raise RuntimeError(f"{process.args!r} {state}: {log.read_text()[-2000:]}")
        time.sleep(0.02)


def listens(path: Path) -> bool:
    """Whether somebody takes connections on a Unix socket; that it exists says less."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def speaks_tls(port: int, trust: Path) -> bool:
    """Whether a server below our own root listens there, and not a stranger."""
    context = ssl.create_default_context(cafile=str(trust))
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 5) as plain,
            context.wrap_socket(plain, server_hostname="localhost"),
        ):
            return True
    except OSError:
        return False


def free_port() -> int:
    """A TCP port on 127.0.0.1, below those the kernel hands to outgoing connections, which could
    take it before the server does; ours as long as this process lives, even while nobody listens.

    The sign of that is an abstract Unix socket, because other runs of the lab see it: it is as wide
    as the ports themselves (a network namespace), and goes with the process (unix(7)).
    """
    for _ in range(1000):
        port = random.randrange(20000, 32000)  # noqa: S311
        probe, sign = socket.socket(), socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError), probe, sign:
            probe.bind(("127.0.0.1", port))
            sign.bind(f"\0tpm2cloud-lab-port-{port}")
            sign.detach()
            return port
    raise RuntimeError("no free port on 127.0.0.1")
