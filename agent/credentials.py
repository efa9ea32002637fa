"""Secrets: systemd's credentials first, then a file that nobody but its owner may read.

The service gets credentials from systemd; who runs a command by hand has them read from where
systemd would take them. They are read where they are used and never kept, logged or put into an
exception.
"""

import os
import stat
from pathlib import Path

from agent.errors import NoPermission, SecretUnreadable

MAX = 4096  # bytes; no password is longer
STORES = (Path("/etc/credstore"), Path("/run/credstore"))  # systemd.exec(5), LoadCredential=


def read(name: str, file: Path | None, setting: str) -> str:
    """The credential `name` ($CREDENTIALS_DIRECTORY, systemd.exec(5)), else the text of `file`.

    One line end at the end is not part of it. `setting` is what names the file. Raises
    SecretUnreadable.
    """
    path, given = _credential(name) or file, "CREDENTIALS_DIRECTORY" in os.environ
    if path is None:
        raise SecretUnreadable(
            f"cannot read the secret '{name}': no such credential, and {setting} is not set",
            name=name,
            setting=setting,
        )
    try:
        return text_of(path, private=path == file or not given)
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else e
        raise SecretUnreadable(
            f"cannot read the secret '{name}' from '{path}': {why}", name=name, setting=setting
        ) from None  # a UnicodeDecodeError carries what it could not decode


def optional(name: str, most: int = MAX) -> bytes | None:
    """A credential that need not be there, of at most `most` bytes. Raises SecretUnreadable."""
    found = read(name, None, name).encode() if _credential(name) else None
    if found is not None and len(found) > most:
        why = f"it is longer than {most} bytes"
        raise SecretUnreadable(f"cannot use the secret '{name}': {why}", name=name, setting=name)
    return found


def _credential(name: str) -> Path | None:
    given = os.environ.get("CREDENTIALS_DIRECTORY")
    places = [Path(given, name)] if given else [store / name for store in STORES]
    return next(filter(_exists, places), None)


def _exists(path: Path) -> bool:
    """A secret that is not for us must not be taken for none. Raises NoPermission."""
    try:
        return path.exists()
    except PermissionError as e:
        at = path.parent
        raise NoPermission(f"cannot look into '{at}': {e.strerror}", path=at) from e


def text_of(path: Path, *, private: bool) -> str:
    """What `read` does with the file it found; `private`: nobody but its owner may read it. Raises
    OSError, ValueError."""
    with path.open("rb") as f:
        if private and stat.S_IMODE(os.fstat(f.fileno()).st_mode) & 0o077:
            raise ValueError("others than its owner may read it (chmod 0600)")
        data = f.read(MAX + 1)
    if len(data) > MAX or not data.strip():
        raise ValueError("it is empty" if len(data) <= MAX else f"it is longer than {MAX} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    return text.removesuffix("\n").removesuffix("\r")
