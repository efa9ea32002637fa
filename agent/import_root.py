"""A TPM maker's CA certificates, looked at and put where they vouch for TPMs.

Nobody is trusted because his file was at hand: a root is taken only if somebody gives its
fingerprint, as the maker publishes it; a CA below it only if it leads to a root that is there.
"""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cryptography.x509 import Name

from agent import makers, store, x509, x509_path
from agent.errors import CaRefused, CaUnrooted, RootUnconfirmed
from agent.x509_der import Issued


def fingerprint(text: str) -> str:
    """SHA-256 as makers write it (with colons or blanks, in any case) as we do. Raises
    ValueError."""
    digits = re.sub(r"[:\s]", "", text).lower()
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise ValueError("a SHA-256 fingerprint has 64 hexadecimal digits")
    return digits


def shown(found: Sequence[Issued]) -> Iterator[str]:
    """What somebody compares with what the maker says."""
    for each in found:
        cert = each.read
        begins, ends = cert.not_valid_before_utc, cert.not_valid_after_utc
        issued = "a root" if each.self_issued else f"issued by {_name(cert.issuer)}"
        yield f"{_name(cert.subject)}: {issued}"
        yield f"  valid from {begins:%Y-%m-%d} to {ends:%Y-%m-%d}, {makers.key(cert)}"
        yield f"  SHA-256 {each.fingerprint}"


def _name(name: Name) -> str:
    text = name.rfc4514_string()
    return "".join(c if c.isprintable() else "?" for c in text) or "(no name)"


def install(
    file: Path, found: Sequence[Issued], confirmed: Collection[str], directories: Sequence[Path]
) -> Iterator[str]:
    """Put what is in `file`, all or nothing, into the first of the `directories` that can be
    written to, where it is not in one of them already. `confirmed`: fingerprints of roots.

    Tells what was done. Raises CaRefused, RootUnconfirmed, CaUnrooted, TrustUnreadable; what
    store.permitted does.
    """
    known = makers.known(directories)
    new = [each for each in found if each not in known]
    for each in new:
        _check(file, each, confirmed)
    roots = makers.roots([*known, *new])
    for each in new:
        if not each.self_issued:
            _rooted(each, roots, [*known, *new])
    place = _place(directories)
    for each in found:
        if each in new:
            yield f"installed: {_write(place, each)}"
        else:
            yield f"already there: {x509.describe(each.read)}"


def _check(file: Path, each: Issued, confirmed: Collection[str]) -> None:
    what = f"cannot import '{x509.describe(each.read)}'"
    if why := makers.objection(each.read):
        raise CaRefused(f"{what}: {why}", path=file)
    if not each.self_issued:
        return
    if each.fingerprint not in confirmed:
        why = "its fingerprint is another than was given" if confirmed else "is it the right root?"
        raise RootUnconfirmed(f"{what}: {why}", path=file)
    _rooted(each, [each], [])


def _rooted(each: Issued, roots: Sequence[Issued], others: Sequence[Issued]) -> None:
    """Of a root: that it has signed itself."""
    try:
        x509_path.find(each, roots, others)
    except (x509_path.Broken, ValueError) as e:
        why = e.why if isinstance(e, x509_path.Broken) else str(e)
        raise CaUnrooted(f"cannot import '{x509.describe(each.read)}': {why}") from e


def _place(directories: Sequence[Path]) -> Path:
    """Not what belongs to the package, if there is another one."""
    ours = [each for each in directories if not each.is_relative_to("/usr")] or [*directories]
    return next((each for each in ours if _writable(each)), ours[0])


def _writable(directory: Path) -> bool:
    above = next(each for each in (directory, *directory.parents) if each.exists())
    return os.access(above, os.W_OK | os.X_OK)


def _write(directory: Path, each: Issued) -> Path:
    """A name that says whose it is, and is another one for another certificate."""
    name = re.sub("[^A-Za-z0-9]+", "-", x509.common_name(each.read)).strip("-")[:60] or "ca"
    path = directory / f"{name}-{each.fingerprint[:8]}.pem"
    store.make(directory)
    store.write(path, each.pem, mode=0o644)
    return path
