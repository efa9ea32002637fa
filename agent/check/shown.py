"""What was found, for a person and for a program: the one verdict first of all."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from agent.check.run import Found, also, verdict

WELL = "Nothing is wrong with this device."


def as_text(found: Sequence[Found]) -> Iterator[str]:
    width = max(len(each.probe) for each in found)
    for each in found:
        code = f" [{each.code}]" if each.code else ""
        detail = each.detail.replace("\n", f"\n{'':{width}}  {'':13} ")
        yield f"{each.probe:{width}}  {each.state:13} {detail}{code}".rstrip()
    yield ""
    first = verdict(found)
    if first is None:
        yield WELL
        return
    yield f"{first.probe}: {first.detail} [{first.code}]"
    yield f"Remedy: {first.remedy}"
    for each in also(found):
        yield f"Also: {each.probe} [{each.code}], which may come of it"


def as_json(found: Sequence[Found]) -> dict[str, Any]:
    """`state`: "fine", or that of the verdict; `verdict`: null if nothing is wrong."""
    first = verdict(found)
    return {
        "state": first.state if first else "fine",
        "verdict": asdict(first) if first else None,
        "also": [each.code for each in also(found)],
        "probes": [asdict(each) for each in found],
    }
