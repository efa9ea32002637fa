"""systemd's encrypted credentials, by the key of this host (systemd-creds(1)).

Not by the TPM: systemd 252 makes its key there without the owner's password, which is one of those
that are kept so. The host's key is a file of root's, /var/lib/systemd/credential.secret: who has
the whole disk has both.
"""

import shutil
import subprocess

from agent.errors import HostKeyMissing, SealedToAnotherTpm

PATIENCE = 60.0  # seconds; it takes a few milliseconds


def encrypted(name: str, secret: bytes) -> bytes:
    """A credential of this name, as LoadCredentialEncrypted= takes it: Base64 text. Raises
    HostKeyMissing."""
    status, out, said = _systemd_creds("encrypt", "--with-key=host", f"--name={name}", secret)
    if status != 0 or not out:
        raise HostKeyMissing(f"cannot keep the password '{name}': {said}")
    return out


def decrypted(name: str, credential: bytes) -> bytes:
    """What `encrypted` was given. Raises SealedToAnotherTpm, HostKeyMissing."""
    status, out, said = _systemd_creds("decrypt", f"--name={name}", credential)
    if status != 0:
        raise SealedToAnotherTpm(f"cannot open the password '{name}': {said}")
    return out


def _systemd_creds(verb: str, *arguments: str | bytes) -> tuple[int, bytes, str]:
    """The last argument goes to its standard input; what it is about is in no other."""
    *options, data = arguments
    if (program := shutil.which("systemd-creds")) is None:
        raise HostKeyMissing("cannot keep a password: there is no 'systemd-creds' on the PATH")
    command = [program, verb, *map(str, options), "-", "-"]
    try:
        done = subprocess.run(  # noqa: S603 - found on the PATH, arguments are ours
            command, input=data, capture_output=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise HostKeyMissing(f"cannot keep a password: systemd-creds: {type(e).__name__}") from None
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return done.returncode, done.stdout, lines[-1] if lines else "systemd-creds did not say why"
