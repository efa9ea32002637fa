"""Runs the fuzzer in a process of its own, for so long or for so many inputs."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.lab.process import TOP

CORPUS = Path(__file__).parent / "corpus"
EACH = "each"


@dataclass(frozen=True)
class Run:
    """`inputs`: how many were tried. `bug`: what ended it, or nothing."""

    inputs: int
    bug: str


def fuzz(target: str, into: Path, *limits: str) -> Run:
    """With the kept corpus; what finds something new, and what finds a bug, is put into `into`."""
    seeds = _of_each(into / "seeds") if target == EACH else CORPUS / target
    new = into / "new"
    new.mkdir(parents=True)
    found = ["-timeout=20", "-rss_limit_mb=2000", f"-artifact_prefix={into}/"]
    command = [sys.executable, "-m", "tests.fuzz", target, str(new), str(seeds), *found, *limits]
    done = subprocess.run(command, cwd=TOP, capture_output=True, check=False)
    said = (done.stderr + done.stdout).decode(errors="replace")
    tried = re.findall(r"^Done ([0-9]+) runs", said, re.MULTILINE)
    at = said.find("Uncaught Python exception")
    bug = said[at if at >= 0 else -4000 :][:4000] if done.returncode else ""
    return Run(int(tried[-1]) if tried else 0, bug)


def _of_each(seeds: Path) -> Path:
    """For the target that is all of them: the first byte says which."""
    from tests.fuzz.targets import TARGETS

    seeds.mkdir(parents=True)
    for number, name in enumerate(TARGETS):
        for path in (CORPUS / name).iterdir():
            (seeds / f"{name}-{path.name}").write_bytes(bytes([number]) + path.read_bytes())
    return seeds
