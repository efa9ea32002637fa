"""Fuzz one target, guided by what of the agent it reaches:

    python -m tests.fuzz TARGET [CORPUS...] [-runs=100000] [-max_total_time=600] [-seed=1]

What comes after TARGET is libFuzzer's. With no CORPUS, the kept one is read, and what finds
something new is added to it; else it is put into the first that is named.
"""

import os
import sys

import atheris

with atheris.instrument_imports(include=["agent"], enable_loader_override=False):
    from tests.fuzz.targets import TARGETS, each

from tests.fuzz.runner import CORPUS, EACH


def main() -> None:
    name, *rest = sys.argv[1:] or ["", ""]
    targets = {**TARGETS, EACH: each}
    if name not in targets:
        sys.exit(f"a target is one of: {', '.join(targets)}")
    if all(each.startswith("-") for each in rest):
        rest.insert(0, os.fspath(CORPUS / name))
    atheris.Setup([sys.argv[0], *rest], targets[name])
    atheris.Fuzz()


main()
