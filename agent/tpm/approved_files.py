"""The directory of approvals, as the image or the firmware brings it: which is for this boot.

The makers' public keys, *.pem; and for each approved boot state NAME.json, which says what it is
(see agent/boot_state.py), and NAME.sig, the maker's signature.
"""

from pathlib import Path

from agent import store
from agent.errors import (
    AgentError,
    ApprovalForged,
    ApprovalsAbsent,
    ApprovalUnreadable,
    BootStateUnapproved,
    PcrBankAbsent,
    PolicyKeyOther,
)
from agent.tpm import pcr
from agent.tpm.approved import Approval, Maker, State
from agent.tpm.chip import Chip

LARGEST = 1 << 16  # bytes of any of the files


def approval(tpm: Chip, policy: bytes, directory: Path) -> Approval:
    """The one that allows a key with this authPolicy to be used now.

    Raises ApprovalsAbsent, ApprovalUnreadable, PolicyKeyOther if none of the makers here is that of
    the key, BootStateUnapproved, ApprovalForged, PcrBankAbsent, TpmError. Of several that fit, one
    is enough; what is about boards with other banks of registers, or other makers, is in nobody's
    way.
    """
    maker = _maker(policy, directory)
    states, unreadable = _states(directory)
    now, absent = _now(tpm, states)
    states = [(file, state) for file, state in states if state.selection in now]
    fitting = [(file, state) for file, state in states if not state.differs(now[state.selection])]
    for file, state in fitting:
        try:
            signature = contents(file.with_suffix(".sig"))
        except ApprovalUnreadable as e:
            unreadable.append(e)
        else:
            if maker.signed(signature, state.to_sign):
                return Approval(file.stem, maker, state, signature)
    if fitting and not unreadable:
        file = fitting[0][0].with_suffix(".sig")
        why = f"'{file}' is no signature by the maker's key of '{file.with_suffix('.json')}'"
        raise ApprovalForged(f"cannot approve this boot state: {why}", path=file)
    if unreadable:
        raise unreadable[0]
    if not states:
        raise absent[0]
    raise _unapproved(states, now, directory)


def _now(
    tpm: Chip, states: list[tuple[Path, State]]
) -> tuple[dict[pcr.Selection, dict[int, bytes]], list[PcrBankAbsent]]:
    """What the registers are that approvals are about; and what this TPM does not have."""
    found, absent = {}, []
    for selection in {state.selection: None for _, state in states}:
        try:
            found[selection] = pcr.read(tpm, selection)
        except PcrBankAbsent as e:
            absent.append(e)
    return found, absent


def _unapproved(
    states: list[tuple[Path, State]],
    now: dict[pcr.Selection, dict[int, bytes]],
    directory: Path,
) -> BootStateUnapproved:
    """The nearest approval tells best what has changed."""
    differing = {file.stem: state.differs(now[state.selection]) for file, state in states}
    nearest = min(differing, key=lambda name: (len(differing[name]), name))
    which = ", ".join(f"PCR {each}" for each in differing[nearest])
    why = f"{which} differ{'s' if len(differing[nearest]) == 1 else ''} from '{nearest}'"
    others = f", the nearest of {len(states)}" if len(states) > 1 else ""
    return BootStateUnapproved(
        f"cannot use the key in this boot state: {why}{others}", pcrs=which, path=directory
    )


def maker(file: Path) -> Maker:
    """Of a PEM file. Raises ApprovalUnreadable."""
    try:
        return Maker.of_pem(contents(file))
    except ValueError as e:
        why = f"cannot use '{file}' as a maker's public key: {e}"
        raise ApprovalUnreadable(why, path=file) from e


def _maker(policy: bytes, directory: Path) -> Maker:
    files, wrong = _files(directory, ".pem"), []
    for file in files:
        try:
            if (each := maker(file)).policy == policy:
                return each
        except ApprovalUnreadable as e:
            wrong.append(e)
    if wrong:
        raise wrong[0]
    if not files:
        why = f"there is no maker's public key (*.pem) in '{directory}'"
        raise ApprovalsAbsent(f"cannot approve this boot state: {why}", path=directory)
    raise PolicyKeyOther(
        f"cannot approve this boot state: the key in the TPM answers to another maker than "
        f"{', '.join(repr(file.name) for file in files)} in '{directory}'",
        path=directory,
    )


def _states(directory: Path) -> tuple[list[tuple[Path, State]], list[ApprovalUnreadable]]:
    """Those that can be read, and what is wrong with the others. Raises ApprovalsAbsent."""
    found, wrong = [], []
    for file in _files(directory, ".json"):
        try:
            found.append((file, boot_state(file)))
        except ApprovalUnreadable as e:
            wrong.append(e)
    if not found and not wrong:
        why = f"there is no approval (*.json) in '{directory}'"
        raise ApprovalsAbsent(f"cannot approve this boot state: {why}", path=directory)
    return found, wrong


def boot_state(file: Path) -> State:
    """Of NAME.json. Raises ApprovalUnreadable."""
    try:
        return State.of_json(contents(file))
    except ValueError as e:
        why = f"cannot read the boot state in '{file}': {e}"
        raise ApprovalUnreadable(why, path=file) from e


def _files(directory: Path, suffix: str) -> list[Path]:
    try:
        return sorted(each for each in directory.iterdir() if each.suffix == suffix)
    except FileNotFoundError:
        return []
    except OSError as e:
        why = f"cannot look for approvals in '{directory}': {e.strerror}"
        raise ApprovalUnreadable(why, path=directory) from e


def contents(file: Path) -> bytes:
    """Raises ApprovalUnreadable."""
    try:
        data = store.read(file, LARGEST)
    except AgentError as e:
        raise ApprovalUnreadable(str(e), path=file) from e
    if data is None:
        raise ApprovalUnreadable(f"cannot read '{file}': No such file or directory", path=file)
    return data
