"""What aziot-tpmd will find in the TPM, looked at before IoT Edge is told to use it.

That service (of iot-identity-service 1.6) takes whatever sits at the handles it knows: the EK at
0x81010001, the SRK at 0x81000001, and below it the key that Azure sends. Before it imports a new
one it evicts what is at that key's handle, be it what it may. What goes wrong it says in its own
journal alone, and systemd starts it again every five seconds: so all of it is tried here first, as
it will be tried there, but with nothing made, and no wrong password counted.
"""

import grp
import os
import pwd
import re
import shutil
import stat
import struct
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from agent import aziot as edge
from agent import store
from agent.config import Config
from agent.errors import (
    AziotConfigInvalid,
    EkUnfit,
    HubKeyOccupied,
    SecretUnreadable,
    SrkPassword,
    SystemctlFailed,
    TpmAuth,
    TpmCommandMissing,
    TpmdDenied,
    TpmdNeedsManager,
    TpmdUserMissing,
    TpmFull,
)
from agent.steps import Step, aziot
from agent.steps.preflight import look
from agent.steps.srk import HANDLE as SRK
from agent.tpm import Public, Tpm
from agent.tpm.imported import is_hub_key
from agent.tpm.policies import POLICY_A

EK = 0x81010001
UNIT, USER = "aziot-tpmd.service", "aziottpm"
PATIENCE = 60.0  # seconds, for systemd to answer
# Persistent handles of the owner hierarchy (TPM 2.0 Library, part 2, 7.8); the service's index
# counts from the first one.
PERSISTENT, LAST_INDEX, KEY_INDEX = 0x81000000, 0x7FFFFF, 0x000100
PASSWORD = 63  # bytes: of a TPM2B_AUTH one is for the zero byte that the service puts at the end
COMMANDS = {  # TPM2_CC (TPM 2.0 Library, part 2, 6.5.2)
    "TPM2_EvictControl": 0x120,
    "TPM2_ActivateCredential": 0x147,
    "TPM2_PolicySecret": 0x151,
    "TPM2_HMAC": 0x155,
    "TPM2_Import": 0x156,
    "TPM2_Load": 0x157,
}
DEVICES = (Path("/dev/tpmrm0"), Path("/dev/tpm0"))  # "device" alone, in tpm2-tss' order
ONE_AT_A_TIME = re.compile(r"/dev/tpm\d+")
ACL = "system.posix_acl_access"  # acl(5); its form is that of Linux' posix_acl_xattr.h
OWNER, ACL_USER, OWNING_GROUP, ACL_GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
READ_WRITE = 6


def tpmd(conf: Config, tpm: Tpm) -> Step:
    """Evidence, or one error for what has to be changed first. For `device.target` "edge" and
    `dps.attestation` "tpm" alone; after the steps `ek` and `srk`."""

    def evidence() -> str:
        path = aziot.file(conf)
        existing = store.read(path) or b""
        if (node := device_node(conf.tpm.tcti)) is not None:
            may_open(node, *service())
        handle = key_handle(existing, path)
        ek, key = _ek(tpm), hub_key(tpm, handle, path)
        _able(tpm)
        for name, password in aziot.hierarchy_auths(existing, tpm).items():
            _password(tpm, name, password)
        if key is None:
            _usable(tpm)
            _room(tpm, handle)
        there = "free" if key is None else "holds Azure's key"
        return f"{EK:#x} {ek}, {handle:#x} {there}"

    return look("tpmd", evidence)


def key_handle(existing: bytes, path: Path) -> int:
    """Where the service is to keep the key that Azure sends: the operator may have named another
    place in the file that IoT Edge is configured by. Raises AziotConfigInvalid for what the service
    would not take."""
    try:
        index = tomllib.loads(existing.decode()).get("tpm", {}).get("auth_key_index", KEY_INDEX)
    except (ValueError, AttributeError) as e:
        raise AziotConfigInvalid(f"cannot read '{path}': it is no TOML: {e}", path=path) from e
    if type(index) is not int or not 0 <= index <= LAST_INDEX:
        wanted = f"tpm.auth_key_index must be a number from 0 to {LAST_INDEX:#x}, without quotes"
        raise AziotConfigInvalid(f"cannot use '{path}': {wanted}", path=path)
    return PERSISTENT + index


# --- what is in the TPM ---


def _ek(tpm: Tpm) -> str:
    """The service's session for it is by PolicySecret of the endorsement hierarchy alone; where
    there is none, it makes one of TCG's template L-1."""
    found = tpm.public(EK)
    if found is None:
        return "free"
    usual = found.endorses and found.policy == POLICY_A
    if not usual or not isinstance(found.key, RSAPublicKey):
        what = f"cannot let IoT Edge's TPM service use {EK:#x} as the EK"
        raise EkUnfit(f"{what}: it holds {found}, or not of that template", handle=hex(EK))
    return str(found)


def hub_key(tpm: Tpm, handle: int, path: Path) -> Public | None:
    """A key of Azure's that is there already; None if the handle is free. Raises HubKeyOccupied for
    all else. `path`: the file that may name another handle."""
    found = tpm.public(handle)
    if found is not None and not is_hub_key(found):
        raise HubKeyOccupied(
            f"cannot leave {handle:#x} to the key from Azure: it holds {found} of another kind",
            handle=hex(handle),
            path=path,
        )
    return found


def _able(tpm: Tpm) -> None:
    if missing := tpm.lacks(COMMANDS):
        raise TpmCommandMissing(f"cannot attest by TPM: it has no {', '.join(missing)}")


def _password(tpm: Tpm, hierarchy: str, password: bytes) -> None:
    """As the service gives it to the TPM: with a zero byte at its end, which does not count."""
    name = f"tpm-{hierarchy}-auth"
    if len(password) > PASSWORD or b"\0" in password:
        why = f"it takes at most {PASSWORD} bytes, and no zero among them"
        what = f"cannot give the secret '{name}' to IoT Edge's TPM service: {why}"
        raise SecretUnreadable(what, name=name, setting=name)
    if not tpm.opened_by(hierarchy, password + b"\0"):
        said = "in the credential" if password else "empty, and there is no credential"
        what = f"cannot use the {hierarchy} hierarchy as IoT Edge's TPM service will"
        raise TpmAuth(f"{what}: its password is not the one {said} '{name}'")


def _usable(tpm: Tpm) -> None:
    """Below an SRK that is of use without a password something can be made; nothing of it stays.
    Where Azure's key was put below it once, that is proven."""
    try:
        tpm.seal(SRK, b"", b"tpm2cloud")
    except TpmAuth as e:
        what = f"cannot use the SRK at {SRK:#x} as IoT Edge's TPM service will"
        raise SrkPassword(f"{what}: its password is not the empty one", handle=hex(SRK)) from e


def _room(tpm: Tpm, handle: int) -> None:
    if not tpm.budget().persistent_available:
        raise TpmFull(f"cannot leave {handle:#x} to the key from Azure: no object can be kept")


# --- who may open it ---


def device_node(tcti: str) -> Path | None:
    """The file that a TCTI opens, or None for one that is no device. Raises TpmdNeedsManager for
    one that the service would keep from us, or we from it."""
    kind, _, node = tcti.partition(":")
    if kind != "device":
        return None
    path = Path(node) if node else next(filter(Path.exists, DEVICES), DEVICES[0])
    path = path.resolve()
    if ONE_AT_A_TIME.fullmatch(str(path)):
        what = "cannot share the TPM with IoT Edge's TPM service"
        raise TpmdNeedsManager(f"{what}: one program at a time may open {path}", path=path)
    return path


def service() -> tuple[str, list[str]]:
    """As systemd has it: whom the service runs as, and which groups its unit gives it beside that
    user's own; a drop-in of ours names the one that has the TPM on Debian. Raises SystemctlFailed.
    """
    what = f"cannot ask systemd who runs {UNIT}"
    if (program := shutil.which("systemctl")) is None:
        raise SystemctlFailed(f"{what}: there is no 'systemctl' on the PATH")
    wanted = "--property=User,SupplementaryGroups"
    try:
        status, output = edge.run([program, "show", wanted, UNIT], PATIENCE)
    except OSError as e:
        raise SystemctlFailed(f"{what}: {e.strerror}") from e
    if status != 0:
        raise SystemctlFailed(f"{what}: it said '{edge.words(output, ())}'")
    said = dict(line.partition("=")[::2] for line in output.decode(errors="replace").splitlines())
    return said.get("User") or USER, said.get("SupplementaryGroups", "").split()


def may_open(path: Path, user: str, groups: Sequence[str] = ()) -> None:
    """`groups`: names, beside the user's own. Raises TpmdDenied, TpmdUserMissing.

    By the rights that the file shows: to try it as that user would take more than our service may.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError as e:
        raise TpmdUserMissing(f"cannot find the user '{user}'", user=user) from e
    mine = {*os.getgrouplist(user, entry.pw_gid)}
    mine |= {found.gr_gid for found in grp.getgrall() if found.gr_name in groups}
    if not _granted(path, entry.pw_uid, mine):
        found = path.stat()
        of = f"{_named(found)} {stat.filemode(found.st_mode)}"
        what = f"cannot let the user '{user}' open {path}"
        raise TpmdDenied(f"{what}: it is {of}", path=path, user=user)


def _named(found: os.stat_result) -> str:
    try:
        return f"{pwd.getpwuid(found.st_uid).pw_name}:{grp.getgrgid(found.st_gid).gr_name}"
    except KeyError:
        return f"{found.st_uid}:{found.st_gid}"


def _granted(path: Path, uid: int, groups: set[int]) -> bool:
    """POSIX 1003.1e draft 17, 23.1.5: the first class that somebody is in decides."""
    found = path.stat()
    entries = list(_entries(path, found))
    mask = next((bits for tag, bits, _ in entries if tag == MASK), 7)
    if uid in (0, found.st_uid):
        return uid == 0 or _of(entries, OWNER) & READ_WRITE == READ_WRITE
    for tag, bits, who in entries:
        if tag == ACL_USER and who == uid:
            return bits & mask & READ_WRITE == READ_WRITE
    in_group = [
        bits & mask
        for tag, bits, who in entries
        if (tag == OWNING_GROUP and found.st_gid in groups) or (tag == ACL_GROUP and who in groups)
    ]
    classes = in_group or [_of(entries, OTHER)]
    return any(bits & READ_WRITE == READ_WRITE for bits in classes)


def _of(entries: list[tuple[int, int, int]], wanted: int) -> int:
    return next(bits for tag, bits, _ in entries if tag == wanted)


def _entries(path: Path, found: os.stat_result) -> Iterator[tuple[int, int, int]]:
    """Tag, rights (rwx) and id of each entry of the list; without one, the three of the mode."""
    try:
        yield from struct.iter_unpack("<HHI", os.getxattr(path, ACL)[4:])
    except OSError:  # no list, or a file system without
        for tag, shift in (OWNER, 6), (OWNING_GROUP, 3), (OTHER, 0):
            yield tag, found.st_mode >> shift & 7, 0
