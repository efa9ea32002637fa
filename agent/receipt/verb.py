"""`tpm2cloud receipt`: shown and handed out on the device, verified anywhere."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import config, opened, store
from agent.errors import PathUnusable, ReceiptAbsent
from agent.terminal import say

if TYPE_CHECKING:
    from agent.receipt.lines import Receipt

LARGEST = 16 << 20  # bytes of any file that is read here; a receipt has at most half of that


def add(commands: Any) -> None:
    top = commands.add_parser(
        "receipt",
        help="what was done to this device, signed by its TPM",
        description="What was done to this device: first boot, renewals, changes, new owners; a "
        "chain that its TPM has signed. Alone, it is 'receipt show'. To show, export and verify "
        "one needs no root, no TPM, no network and no configuration.",
    )
    top.set_defaults(verb=show, file=None, json=False)
    actions = top.add_subparsers(metavar="ACTION")
    for each in (_show, _export, _verify, _challenge, _answer):
        each(actions)


def _show(actions: Any) -> None:
    add = actions.add_parser("show", help="what it says; who has signed it is not asked")
    _file(add)
    add.add_argument("--json", action="store_true", help="for programs")
    add.set_defaults(verb=show)


def _export(actions: Any) -> None:
    add = actions.add_parser("export", help="the receipt itself, to be handed on")
    _file(add)
    help = "a copy that withholds which EK the TPM has, and is verified like the whole one"
    add.add_argument("--without-ek", action="store_true", help=help)
    add.set_defaults(verb=export)


def _file(add: argparse.ArgumentParser) -> None:
    help = "one from elsewhere, instead of this device's"
    add.add_argument("file", nargs="?", type=Path, metavar="FILE", help=help)


def _verify(actions: Any) -> None:
    add = actions.add_parser(
        "verify",
        help="that nothing in it was changed, and who vouches for it",
        description="That no line of the receipt was changed, dropped or moved since it was "
        "signed, and that the key that signed it is one that a trusted CA vouches for.",
    )
    _trusting(add)
    add.add_argument("--json", action="store_true", help="for programs")
    help = "how many lines it had once: refuse an older one"
    add.add_argument("--at-least", type=int, default=0, metavar="N", help=help)
    help = "one that was kept: refuse one of another device, or that does not go on from it"
    add.add_argument("--after", type=Path, metavar="FILE", help=help)
    help = "what was kept of a challenge, if the receipt is signed by an attestation key"
    add.add_argument("--secret", type=Path, metavar="FILE", help=help)
    add.add_argument("--answer", type=Path, metavar="FILE", help="the device's answer to it")
    add.set_defaults(verb=verify)


def _trusting(add: argparse.ArgumentParser) -> None:
    add.add_argument("file", type=Path, metavar="FILE", help="the receipt")
    help = (
        "CA certificates: of the device's maker, if its IDevID has signed the receipt; of the "
        "TPM's maker, if an attestation key has"
    )
    add.add_argument("--trust", type=Path, metavar="FILE", required=True, help=help)


def _challenge(actions: Any) -> None:
    add = actions.add_parser(
        "challenge",
        help="have a device show that its TPM holds the attestation key; once",
        description="Write a challenge for the device that has signed a receipt by an attestation "
        "key. Only the TPM whose EK its maker has certified can answer it, and only if that key "
        "is in it. The answer is good for all receipts by this key.",
    )
    _trusting(add)
    add.add_argument("--out", type=Path, metavar="FILE", required=True, help="for the device")
    help = "what is to be kept here, and secret"
    add.add_argument("--secret", type=Path, metavar="FILE", required=True, help=help)
    add.set_defaults(verb=challenge)


def _answer(actions: Any) -> None:
    add = actions.add_parser("answer", help="answer such a challenge, on the device, as root")
    add.add_argument("file", type=Path, metavar="FILE", help="the challenge")
    help = "where the answer goes"
    add.add_argument("--out", type=Path, metavar="FILE", required=True, help=help)
    add.set_defaults(verb=answer)


# --- what they do ---


def show(args: argparse.Namespace) -> int:
    from agent.receipt import shown

    found = shown.as_json(_receipt(_given_or_own(args)))
    say(json.dumps(found, indent=2) if args.json else "\n".join(shown.as_text(found)))
    return 0


def export(args: argparse.Namespace) -> int:
    from agent.receipt import lines

    data = _read(_given_or_own(args))
    made = lines.without_ek(data) if args.without_ek else data
    say(made.decode("ascii", "replace").removesuffix("\n"))
    return 0


def verify(args: argparse.Namespace) -> int:
    from agent.receipt import lines, proof, shown

    found, former = _receipt(args.file), _read(args.after) if args.after else None
    earlier = lines.parse(former) if former is not None else None
    same = proof.follows(found, former, earlier, args.at_least)
    given = None
    if args.answer and args.secret:
        given = proof.Answer(_read(args.answer), _read(args.secret))
    told = shown.as_json(found, [*proof.proven(found, args.trust, given), *same])
    say(json.dumps(told, indent=2) if args.json else "\n".join(shown.as_text(told)))
    return 0


def challenge(args: argparse.Namespace) -> int:
    from agent.receipt import proof

    sealed, kept = proof.challenge(_receipt(args.file), args.trust)
    store.write(args.secret, kept)
    store.write(args.out, sealed, mode=0o644)
    return 0


def answer(args: argparse.Namespace) -> int:
    from agent import ek, evidence
    from agent.receipt.signer import IAK

    conf, data = config.load(args.config), _read(args.file)
    with opened.tpm(conf.tpm.tcti) as tpm:
        opened_secret = evidence.answer(tpm, IAK, data, ek.certificate(tpm)[0].template)
    store.write(args.out, opened_secret)
    return 0


def _given_or_own(args: argparse.Namespace) -> Path:
    given: Path | None = args.file
    return given if given is not None else opened.state().receipt


def _receipt(path: Path) -> "Receipt":
    from agent.receipt import lines

    return lines.parse(_read(path))


def _read(path: Path) -> bytes:
    """Raises ReceiptAbsent for this device's own, NoPermission, PathUnusable."""
    if (data := _at_most(path)) is not None and len(data) <= LARGEST:
        return data
    if path == opened.state().receipt:
        raise ReceiptAbsent("cannot find a receipt: nothing was written down here yet")
    why = "there is no such file" if data is None else "it is too large"
    raise PathUnusable(f"cannot read '{path}': {why}", path=path)


def _at_most(path: Path) -> bytes | None:
    """Of what a stranger sent, be it endless, no more than it takes to say that it is too large."""
    with store.permitted(path):
        try:
            with path.open("rb") as stream:
                return stream.read(LARGEST + 1)
        except FileNotFoundError:
            return None
