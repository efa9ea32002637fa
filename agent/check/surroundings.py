"""What is around the agent: files, disks, users, programs, the host's name, systemd."""

import contextlib
import errno
import fcntl
import os
import pwd
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from agent import inputs, pkcs11, store
from agent.check.probe import Probe
from agent.check.units import enabled
from agent.config import Config
from agent.errors import Busy, IotedgeMissing, UserMissing
from agent.state import State
from agent.steps import aziot

ROOM = 64 * 1024  # bytes: more than all files that a provisioning writes in one directory


def probes(conf: Config, state: State) -> Iterator[Probe]:
    """What needs neither TPM nor network."""
    yield Probe("inputs", partial(_inputs, conf))
    if conf.for_edge:
        yield Probe("iotedge", partial(_iotedge, conf))
    if conf.dps.attestation == "x509":
        yield Probe("token-owner", partial(_owner, conf))
        if conf.for_edge:
            yield Probe("pkcs11-module", lambda: str(aziot.module(conf)))
    for name, directory in _written(conf, state).items():
        yield Probe(f"disk-{name}", partial(room, directory))
    yield Probe("state-files", partial(_files, state.directory), ("disk-state",))
    yield Probe("units", partial(enabled, state))


def token(conf: Config) -> Iterator[Probe]:
    """The PKCS#11 store that is there already: that it can be read."""
    if conf.dps.attestation == "x509":
        yield Probe("token-store", partial(_token, conf), ("disk-token",))


def lock(state: State) -> Probe:
    """Whether another run is at work; looked at late, for what makes it last may be above."""
    return Probe("lock", partial(_free, state.directory))


def _inputs(conf: Config) -> str:
    inputs.check(conf)
    trusted = ", ".join(f"'{path}'" for path in inputs.trust_files(conf))
    return trusted or "none are needed"


def _iotedge(conf: Config) -> str:
    directory = conf.aziot.directory
    program = shutil.which("iotedge")
    if program is None:
        raise IotedgeMissing("cannot configure IoT Edge: there is no 'iotedge' on the PATH")
    if not store.exists(directory):
        raise IotedgeMissing(f"cannot configure IoT Edge: there is no '{directory}'")
    return f"{program}, {directory}"


def _owner(conf: Config) -> str:
    try:
        return pwd.getpwnam(conf.token_owner).pw_name
    except KeyError as e:
        what = f"cannot make the PKCS#11 token: there is no user '{conf.token_owner}'"
        raise UserMissing(what, setting="pkcs11.owner") from e


def _token(conf: Config) -> str:
    found = pkcs11.look(conf.pkcs11.store, conf.pkcs11.token)
    what = f"'{conf.pkcs11.token}' in {conf.pkcs11.store}"
    return f"{what}, with {len(found.keys)} keys" if found else f"no token {what} yet"


def _written(conf: Config, state: State) -> dict[str, Path]:
    """The directories where files are written."""
    found = {"state": state.directory}
    if conf.for_edge:
        found["iotedge"] = conf.aziot.directory
    if conf.dps.attestation == "x509":
        found["token"] = conf.pkcs11.store
    return found


def room(directory: Path) -> str:
    """As much as is written at once can be: tried with a file that has no name (open(2), O_TMPFILE)
    and is gone when it is closed. One that is not there is made in the next above. Raises what
    `store.permitted` does."""
    with store.permitted(directory):
        while not directory.exists():
            directory = directory.parent
        if not directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(directory, os.W_OK | os.X_OK):
            _read_only(directory)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with contextlib.suppress(_NoSuchFiles):
            _try(directory)
        free = os.statvfs(directory)
        if free.f_bfree * free.f_frsize < ROOM or (free.f_files and not free.f_ffree):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return f"{directory}, {free.f_bavail * free.f_frsize // 1024 // 1024} MB free"


def _files(directory: Path) -> str:
    """Where a file of ours should be is one, or nothing. Raises PathUnusable, NoPermission."""
    count = 0
    with store.permitted(directory):
        found = sorted(directory.iterdir()) if directory.exists() else []
    for path in found:
        if path.suffix in (".json", ".pem"):
            store.read(path)
            count += 1
    return f"{count} in '{directory}'"


class _NoSuchFiles(Exception):
    """This file system has no files without names."""


def _read_only(directory: Path) -> None:
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def _try(directory: Path) -> None:
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as e:
        if e.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            raise _NoSuchFiles from e
        raise
    try:
        os.posix_fallocate(fd, 0, ROOM)
    finally:
        os.close(fd)


def _free(directory: Path) -> str:
    """Shared, and for this moment only: it is asked, not taken."""
    with store.permitted(directory):
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return "nobody was here yet"
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise Busy(f"cannot use '{directory}': another run holds it") from e
        finally:
            os.close(fd)
    return "no other run is at work"
