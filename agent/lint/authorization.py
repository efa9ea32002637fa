"""Passwords that the TPM is to get, and boot states that its IDevID is to work in: as far as an
image can tell."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from agent.config import Config, Idevid
from agent.errors import ApprovalUnreadable, EscrowUnusable, PathUnusable
from agent.lint.identity import COMMAND_LINES
from agent.lint.image import Image
from agent.lint.rules import ERROR, WARNING, Finding, Rule

if TYPE_CHECKING:
    from agent.tpm.approved import Maker

CRYPTTAB, ENTRIES = "/etc/crypttab", "/boot/loader/entries"
CLEVIS = "/usr/bin/clevis-decrypt-tpm2"

ESCROW_UNUSABLE = Rule(
    "escrow-unusable",
    ERROR,
    "The file that tpm.authorization.escrow names is missing, or no public key to encrypt to.",
    "Put the owner's public key, or a certificate for it, PEM, into {at}",
)
OWNER_HIERARCHY_NEEDED = Rule(
    "owner-hierarchy-needed",
    ERROR,
    "The owner hierarchy is to get a password, and a disk is opened by the TPM without one.",
    "Set tpm.authorization.owner = 'leave', or take tpm2-device= out of {at}",
)
CLEVIS_IN_IMAGE = Rule(
    "clevis-in-image",
    WARNING,
    "The owner hierarchy is to get a password, and Clevis, which has none, is in the image: a disk "
    "that it has bound to the TPM stays closed.",
    "Set tpm.authorization.owner = 'leave' if a disk is bound by it: clevis luks list -d DEVICE",
)
APPROVALS_ABSENT = Rule(
    "approvals-absent",
    WARNING,
    "The directory that idevid.approvals names lacks a maker's public key, or an approved boot "
    "state; unless the firmware brings it, an IDevID with such a policy does not work.",
    "Copy the maker's public key, and for each state NAME.json and NAME.sig, into {at}",
)
APPROVAL_UNUSABLE = Rule(
    "approval-unusable",
    ERROR,
    "A file of approved boot states is not what its name says, or not signed by a maker whose "
    "public key is there.",
    "Put the right one into {at}, or remove all three of its name: .json, .sig, .pem",
)


def escrow(image: Image, conf: Config | None) -> Iterator[Finding]:
    """Without a key to encrypt to no device begins."""
    if conf is None or (file := conf.tpm.authorization.escrow) is None:
        return
    from agent.authorization.escrow import recipient  # few images have one

    path = str(file)
    image.data(path)  # or Unseen
    try:
        recipient(image.real(path))
    except (EscrowUnusable, PathUnusable) as e:
        yield ESCROW_UNUSABLE.at(image, path, str(e))


def disks(image: Image, conf: Config | None) -> Iterator[Finding]:
    """What opens a disk by the owner hierarchy cannot be told its password."""
    if conf is None or conf.tpm.authorization.owner != "random":
        return
    from agent.authorization.disks import OPTION, names

    entries = [f"{ENTRIES}/{name}" for name in image.names(ENTRIES)]
    for path in (CRYPTTAB, *COMMAND_LINES, *entries):
        if names(image.text(path) or ""):
            why = f"a disk is opened by the TPM ({OPTION}), and the owner is to get a password"
            yield OWNER_HIERARCHY_NEEDED.at(image, path, why)
    if image.exists(CLEVIS):
        why = "Clevis opens disks by the TPM, and the owner is to get a password"
        yield CLEVIS_IN_IMAGE.at(image, CLEVIS, why)


def approvals(image: Image, conf: Config | None) -> Iterator[Finding]:
    """Where the image brings them, or says that it does."""
    if conf is None or conf.dps.attestation == "tpm":
        return
    at = str(conf.idevid.approvals)
    files = [f"{at}/{name}" for name in image.names(at)]
    keys, states = ([f for f in files if f.endswith(end)] for end in (".pem", ".json"))
    if (keys or states or conf.idevid.approvals != Idevid.approvals) and not (keys and states):
        missing = "approval (*.json)" if keys else "maker's public key (*.pem)"
        yield APPROVALS_ABSENT.at(image, at, f"there is no {missing}")
    makers: list[Maker] = []
    for path in keys:
        yield from _maker(image, path, makers)
    for path in states if keys else ():
        yield from _signed(image, path, makers)


def _maker(image: Image, path: str, makers: "list[Maker]") -> Iterator[Finding]:
    """Into `makers`, if it is one."""
    from agent.tpm.approved_files import maker

    image.data(path)  # or Unseen
    try:
        makers.append(maker(image.real(path)))
    except ApprovalUnreadable as e:
        yield APPROVAL_UNUSABLE.at(image, path, str(e))


def _signed(image: Image, path: str, makers: "list[Maker]") -> Iterator[Finding]:
    from agent.tpm.approved_files import boot_state, contents

    signature = f"{path.removesuffix('.json')}.sig"
    image.data(path), image.data(signature)  # or Unseen
    try:
        state, by = boot_state(image.real(path)), contents(image.real(signature))
    except ApprovalUnreadable as e:
        yield APPROVAL_UNUSABLE.at(image, path, str(e))
        return
    if not any(each.signed(by, state.to_sign) for each in makers):
        why = f"it is no signature of '{path}' by a maker whose public key is there"
        yield APPROVAL_UNUSABLE.at(image, signature, why)


CHECKS = (escrow, disks, approvals)
