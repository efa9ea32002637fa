"""Who types a command: how it is read, and what is said to it."""

import argparse
import os
import sys
from typing import NoReturn

from agent.errors import DiskFull


class Parser(argparse.ArgumentParser):
    """One sentence of what is wrong, and not the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def say(text: str) -> None:
    """What was asked for. A reader who has seen enough and is gone (`| head`) is no failure."""
    try:
        print(_writable(text), flush=True)
    except OSError as e:
        if not isinstance(e, BrokenPipeError):
            raise DiskFull(f"cannot write the result: {e.strerror}", path="/dev/stdout") from e
        # Nor at the end, when what is left in the buffer is written.
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 (a device)
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _writable(text: str) -> str:
    """What the terminal's encoding has no letters for is written as Python would."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def asked(question: str) -> bool | None:
    """Whether who is at the terminal says "yes", the whole word; None where nobody is."""
    if not sys.stdin.isatty():
        return None
    print(f"{question} Type yes: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() == "yes"
