"""A look at a golden image before it is flashed: the root directory, offline, nothing changed.

A check is a function of the image and its configuration (None if there is none that can be used)
that yields findings. Where it cannot look, that is a finding, too.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from agent.config import Config
from agent.lint import (
    authorization,
    clock,
    identity,
    leftovers,
    rules,
    secrets,
    settings,
    software,
    trust,
    units,
)
from agent.lint.image import Image, Unseen
from agent.lint.rules import ERROR, Finding, Rule

__all__ = ["Finding", "as_json", "as_text", "every_code", "look"]

Check = Callable[[Image, Config | None], Iterable[Finding]]
CHECKS: tuple[Check, ...] = (
    *settings.CHECKS,
    *trust.CHECKS,
    *secrets.CHECKS,
    *units.CHECKS,
    *software.CHECKS,
    *identity.CHECKS,
    *leftovers.CHECKS,
    *clock.CHECKS,
    *authorization.CHECKS,
)


MODULES = (
    rules,
    identity,
    leftovers,
    secrets,
    units,
    software,
    settings,
    trust,
    authorization,
    clock,
)


def every_code() -> Iterator[Rule]:
    """All rules, by what they are about, as they are written there."""
    for module in MODULES:
        yield from (each for each in vars(module).values() if isinstance(each, Rule))


def look(root: Path, file: Path) -> list[Finding]:
    """Everything that is wrong, errors first. `file`: the configuration, as the device names it."""
    image = Image(root)
    try:
        conf, found = settings.load(image, file)
    except Unseen as e:
        conf, found = None, [_unseen(image, e)]
    for check in CHECKS:
        found += _run(check, image, conf)
    found += [_unseen(image, e) for e in image.missed]
    return sorted(dict.fromkeys(found), key=lambda each: each.severity != ERROR)


def _run(check: Check, image: Image, conf: Config | None) -> Iterator[Finding]:
    try:
        yield from check(image, conf)
    except Unseen as e:
        yield _unseen(image, e)


def _unseen(image: Image, e: Unseen) -> Finding:
    return rules.UNSEEN.at(image, e.path, f"cannot look: {e.why}")


def errors(found: Iterable[Finding]) -> int:
    return sum(each.severity == ERROR for each in found)


def as_text(found: list[Finding]) -> Iterator[str]:
    for each in found:
        yield f"{each.severity}: {each.path}: {each.message} [{each.code}]"
        yield f"    Remedy: {each.remedy}"
    bad = errors(found)
    verdict = "not ready to be flashed" if bad else "ready to be flashed"
    yield f"{verdict}: {_count(bad, 'error')}, {_count(len(found) - bad, 'warning')}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def as_json(root: Path, found: list[Finding]) -> str:
    bad = errors(found)
    told = {"root": str(root), "errors": bad, "warnings": len(found) - bad}
    return json.dumps(told | {"findings": [vars(each) for each in found]}, indent=2)
