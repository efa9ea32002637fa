"""What is said of a reset: what is to be revoked, what stays, and what that means."""

import argparse
import json
from collections.abc import Iterator
from typing import Any

from agent.reset import handover, left
from agent.reset.intended import Device
from agent.reset.mark import Mark
from agent.terminal import say

TCG = (
    "A burnt IDevID key of the TCG's profile is made of a seed that stays in the TPM: who may use "
    "the endorsement hierarchy can make it again. Revoke its certificate."
)
COPIES = (
    "Who has a copy of this disk, and this TPM, has what is removed here: no certificate is dead "
    "before it is revoked."
)
WITHOUT_TPM = (
    "The TPM was not asked. The keys at its handles (LDevID 0x81000002, the hub's 0x81000100) "
    "stay, and whoever has it can use them; no other can be loaded, for their files are gone. Once "
    "it answers, or there is another TPM: tpm2cloud reset does the rest. Until then this device is "
    "not provisioned."
)
ELSEWHERE = (
    "This is not the TPM that this device had, or it was cleared since. In another one the keys at "
    "its handles stay, and whoever has that can use them."
)


def tell(
    args: argparse.Namespace, device: Device | None, wanted: Mark, steps: dict[str, bool]
) -> None:
    """`steps`: whether there was something to do. `device`: None, if nothing is left to look at."""
    found = _report(args, device, wanted, steps)
    say(json.dumps(found, indent=2) if args.json else "\n".join(_as_text(found, wanted)))


def _report(
    args: argparse.Namespace, device: Device | None, wanted: Mark, steps: dict[str, bool]
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "state": "would be reset" if args.dry_run else "reset",
        "steps": [{"step": name, "to do": todo} for name, todo in steps.items()],
        "hand_over": wanted.hand_over,
        "commands": [line.strip() for line in handover.commands(wanted.hand_over)],
        "notes": list(_notes(wanted)),
    }
    if device is not None:
        files = left.configuration(args.config, device.conf)
        on_disk = left.on_disk(device.conf, device.state, wanted.wishes, files)
        gone = [*wanted.keys, *wanted.indices] if args.dry_run else []
        in_tpm = left.in_tpm(device.tpm, gone) if device.tpm else {}
        found["stays"] = {"tpm": in_tpm, "disk": list(on_disk)}
    return found


def _notes(wanted: Mark) -> Iterator[str]:
    yield COPIES
    if wanted.wishes.burn_idevid:
        yield TCG
    if wanted.without_tpm:
        yield WITHOUT_TPM
    if wanted.elsewhere:
        yield ELSEWHERE


def _as_text(found: dict[str, Any], wanted: Mark) -> Iterator[str]:
    if found["state"] == "would be reset":
        width = max(len(each["step"]) for each in found["steps"])
        for each in found["steps"]:
            yield f"{each['step']:{width}}  {'would be done' if each['to do'] else 'done'}"
        yield ""
    yield from handover.as_text(wanted.hand_over)
    for place, which in (("tpm", "In the TPM"), ("disk", "On the disk")):
        if stays := found.get("stays", {}).get(place):
            yield f"{which}, these stay:"
            yield from _listed(stays)
    yield from found["notes"]


def _listed(stays: dict[str, str] | list[str]) -> Iterator[str]:
    if isinstance(stays, dict):
        yield from (f"  {at}  {what}" for at, what in stays.items())
    else:
        yield from (f"  {what}" for what in stays)
